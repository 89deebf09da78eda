"""Settings of the supervised stages as frozen data, read from YAML; importing this does not import torch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from videoseg.errors import UsageError


@dataclass(frozen=True)
class LossWeights:
    """Weights of the loss terms; bce and dice as in O3 specification §10, the last six are training aids."""

    text: float = 1.0
    bce: float = 2.0
    dice: float = 0.5
    quality: float = 0.3
    presence: float = 0.1
    distil: float = 1.0
    dense: float = 0.0
    place: float = 0.0
    pointer: float = 0.0
    mention: float = 0.0
    gaze: float = 0.0
    vec: float = 0.0


@dataclass(frozen=True)
class SupervisedConfig:
    """One run of supervised training on the generated world.

    `init` is a checkpoint folder, or None for fresh weights; `words` the result of stage 0 (needed for
    `distil`), whose SAM2 fresh weights get, and with `sam2_from_words` those of `init` too; `masks` puts
    SAM2 in the loop; `freeze` lists prefixes of parameter names that do not learn.
    Rates: `lr` for matrices of the language model (Muon or AdamW), `lr_rest` for its other parameters and
    the projector, `lr_sam2` for SAM2. They warm up over `warmup` steps and fall to `final_lr` of their
    height on a cosine over `steps`. Seeds `first_seed`, `first_seed + 1`, … are drawn, `batch` per step.
    """

    out: str
    steps: int = 1000
    batch: int = 16
    init: str | None = None
    words: str | None = None
    sam2_from_words: bool = False
    masks: bool = True
    freeze: tuple[str, ...] = ("sam2.model.memory_attention", "sam2.model.memory_encoder")
    optimizer: Literal["muon", "adamw"] = "muon"
    lr: float = 2e-3
    lr_rest: float = 1e-3
    lr_sam2: float = 1e-4
    weight_decay: float = 0.01
    warmup: int = 50
    final_lr: float = 0.03
    clip: float = 1.0
    bf16: bool = True
    threads: int = 1
    seed: int = 0
    first_seed: int = 0
    families: dict[str, float] = field(default_factory=dict)
    log_every: int = 10
    save_minutes: float = 3.0
    weights: LossWeights = field(default_factory=LossWeights)

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.log_every, self.threads) < 1:
            raise UsageError("steps, batch, log_every and threads must be at least 1")
        if self.weights.distil and not self.words:
            raise UsageError(
                "weights.distil needs `words`, the result of stage 0; give it or set the weight to 0"
            )


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping that a YAML file holds. Raises UsageError if it cannot be read or is no mapping."""
    import yaml  # type: ignore[import-untyped]

    try:
        values = yaml.safe_load(Path(path).read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: cannot be read as YAML ({error})") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path}: a mapping of field names to values is needed")
    return values


def read_config(path: str | Path, **overrides: Any) -> SupervisedConfig:
    """Read a YAML file of `SupervisedConfig` fields; `overrides` win. Raises UsageError on unknown fields."""
    return build_config({**read_yaml(path), **overrides}, str(path))


def build_config(values: dict[str, Any], where: str = "config") -> SupervisedConfig:
    """A configuration from plain values; raises UsageError naming the field that is unknown or misplaced."""
    known = {item.name for item in fields(SupervisedConfig)}
    if unknown := sorted(set(values) - known):
        raise UsageError(f"{where}: unknown field {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    values = dict(values)
    try:
        if isinstance(values.get("weights"), dict):
            values["weights"] = replace(LossWeights(), **values["weights"])
        if isinstance(values.get("freeze"), list):
            values["freeze"] = tuple(values["freeze"])
        return SupervisedConfig(**values)
    except TypeError as error:
        raise UsageError(f"{where}: {error}") from error
