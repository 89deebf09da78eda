"""Settings of the supervised stages as frozen data; importing this does not import torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from videoseg.data.mix import RECIPES, Share
from videoseg.dialogue.preset import UNIT
from videoseg.errors import UsageError
from videoseg.training.settings import LoraSettings, build_settings, read_settings

__all__ = [
    "DataEntry",
    "HeldOut",
    "LoraSettings",
    "LossWeights",
    "Pixels",
    "SupervisedConfig",
    "build_config",
    "read_config",
]


@dataclass(frozen=True)
class LossWeights:
    """Weights of the loss terms; bce and dice as in O3 specification §10, from distil on training aids."""

    text: float = 1.0
    bce: float = 2.0
    dice: float = 0.5
    distil: float = 0.0
    dense: float = 0.0
    place: float = 0.0
    pointer: float = 0.0
    mention: float = 0.0
    gaze: float = 0.0
    vec: float = 0.0

    @property
    def aids(self) -> dict[str, float]:
        """The training aids that are in use."""
        return {n: v for n, v in vars(self).items() if v and n not in ("text", "bce", "dice")}


@dataclass(frozen=True)
class DataEntry:
    """One data set of the mixture: a reader's name and its folder, under `data_root`.

    `repeats`, `draws` and `frames` are those of the published mixture unless given (`data.mix.Share`).
    `videos` is the folder of the video sets that `vts-cot` refers to.
    """

    dataset: str
    folder: str = ""
    split: str = "train"
    videos: str | None = None
    repeats: int | None = None
    draws: int | None = None
    frames: int | None = None

    def share(self) -> Share:
        """How the set takes part, unstated numbers as published, or once an epoch and 5 frames."""
        published = (share for share in RECIPES["sft"] if share.dataset == self.dataset)
        base = next(published, Share(self.dataset, 1, 1, 5))
        chosen = (self.repeats, self.draws, self.frames)
        repeats, draws, frames = (
            default if value is None else value
            for value, default in zip(chosen, (base.repeats, base.draws, base.frames), strict=True)
        )
        return Share(self.dataset, repeats, draws, frames)


@dataclass(frozen=True)
class Pixels:
    """Least and largest area of a picture by what is shown (O3 specification §10)."""

    image: tuple[int, int] = (512 * UNIT, 2048 * UNIT)
    frames: tuple[int, int] = (128 * UNIT, 512 * UNIT)
    grounding: tuple[int, int] = (4 * UNIT, 64 * UNIT)


@dataclass(frozen=True)
class HeldOut:
    """What is looked at every `every` updates (0: never): losses on `rows` rows, `dialogues` pictures.

    `data` is never trained on; for the generated world it is drawn from the seeds kept for validation.
    """

    every: int = 0
    rows: int = 16
    dialogues: int = 4
    data: tuple[DataEntry, ...] = ()


@dataclass(frozen=True)
class SupervisedConfig:
    """One supervised run (stage I or II), on data sets or, without `data`, on the generated world.

    `init` is a checkpoint folder or name, None for fresh tiny weights; `words` the result of stage 0 (needed
    for `distil`), whose SAM2 fresh weights get, and with `sam2_from_words` those of `init` too.
    `batch` rows per process and micro-batch, `accumulation` of them per update; `steps` updates, or `epochs`.
    What learns: parameters whose names begin with one of `train` (none given: all) but not with one of
    `freeze`; with `lora` the language model's own layers do not, unless `train` names them. `masks` puts SAM2
    in the loop. `mask_loss`: `points` as published (best of three masks, `points` points), or `candidates`
    (all three, their predicted IoU and the presence score, every pixel).
    Rates: `lr` for matrices of the language model, `lr_rest` for the rest, `lr_sam2` for SAM2 (None: `lr`).
    They warm up over `warmup` updates (below 1: a share of all) and fall to `final_lr` of their height on a
    cosine. `dtype` is what frozen weights are held in; what learns is float32.
    `feature_cache` is a folder in which features of SAM2's frozen encoder are kept, up to
    `feature_cache_gb`. `skip_bad` is how many samples may be unreadable before the run stops.
    `first_seed`, `families` and `single_turn` (the share of dialogues that answer in their first turn)
    belong to the generated world.
    """

    out: str
    init: str | None = None
    data: tuple[DataEntry, ...] = ()
    data_root: str = "."
    pixels: Pixels = Pixels()
    preset: dict[str, Any] = field(default_factory=dict)
    max_length: int = 8192
    max_objects: int = 5
    held_out: HeldOut = HeldOut()
    steps: int | None = None
    epochs: float = 1.0
    batch: int = 1
    accumulation: int = 1
    workers: int = 0
    group_by_length: bool = True
    skip_bad: int = 0
    words: str | None = None
    sam2_from_words: bool = False
    masks: bool = True
    mask_loss: Literal["points", "candidates"] = "points"
    points: int = 12_544
    train: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()
    lora: LoraSettings | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    feature_cache: str | None = None
    feature_cache_gb: float = 100.0
    optimizer: Literal["muon", "adamw"] = "adamw"
    lr: float = 4e-5
    lr_rest: float | None = None
    lr_sam2: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.05
    warmup: float = 0.05
    final_lr: float = 0.0
    clip: float = 1.0
    bf16: bool = True
    device: str = "auto"
    threads: int = 0
    seed: int = 0
    log_every: int = 10
    save_minutes: float = 10.0
    first_seed: int = 0
    families: dict[str, float] = field(default_factory=dict)
    single_turn: float = 0.0
    weights: LossWeights = LossWeights()

    def __post_init__(self) -> None:
        counts = (self.batch, self.accumulation, self.log_every, self.max_length, self.max_objects)
        if min(counts) < 1 or (self.steps is not None and self.steps < 1) or self.epochs <= 0:
            raise UsageError(
                "steps, epochs, batch, accumulation, log_every, max_length and max_objects must be positive"
            )
        if self.weights.distil and not self.words:
            raise UsageError(
                "weights.distil needs `words`, the result of stage 0; give it or set the weight to 0"
            )
        if self.data and self.weights.aids:
            raise UsageError(f"{', '.join(self.weights.aids)}: training aids know the generated world only")
        if not self.data and self.steps is None:
            raise UsageError("the generated world has no end: give `steps`")
        if not 0 <= self.single_turn <= 1:
            raise UsageError("single_turn is a share, from 0 to 1")
        if self.held_out.every and self.data and not self.held_out.data:
            raise UsageError("held_out.every needs held_out.data, sets that are not trained on")

    @property
    def frozen_dtype(self) -> str:
        """What the checkpoint is loaded in; without autocast everything must be float32."""
        return self.dtype if self.bf16 else "float32"


def read_config(path: str | Path, **overrides: Any) -> SupervisedConfig:
    """Read a YAML file of `SupervisedConfig` fields; `overrides` win. Raises UsageError naming the field."""
    return read_settings(SupervisedConfig, path, overrides)


def build_config(values: dict[str, Any], where: str = "config") -> SupervisedConfig:
    """A configuration from plain values; raises UsageError naming the field that is unknown or misplaced."""
    return build_settings(SupervisedConfig, values, where)
