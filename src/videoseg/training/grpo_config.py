"""Settings of a GRPO run (O3 specification §12.1, §12.2) as frozen data, read from YAML."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from videoseg.errors import UsageError
from videoseg.training.advantages import EPSILON
from videoseg.training.calibration import Calibration
from videoseg.training.grpo import Objective
from videoseg.training.prompts import PromptConfig
from videoseg.training.rewards import registry
from videoseg.training.rollout import Sampling
from videoseg.training.settings import LoraSettings


@dataclass(frozen=True)
class StopRules:
    """When a run is broken off: means over the last `window` steps that leave what is allowed.

    `least_format`: share of well-formed rollouts; `most_kl`: KL per token; `least_entropy`: of the tokens, in
    nats. None: not watched.
    """

    window: int = 20
    least_format: float | None = 0.5
    most_kl: float | None = 5.0
    least_entropy: float | None = None

    def __post_init__(self) -> None:
        if self.window < 1:
            raise UsageError(f"stop.window is a number of steps, at least 1, not {self.window}")


@dataclass(frozen=True)
class GrpoConfig:
    """One run of stage III.

    `out`: folder of the run; `init`: name or folder of the cold-start checkpoint; `batch` prompts per step
    over all processes, `group` rollouts of each; `groups_per_pass` groups go through the model together,
    `max_rows` dialogues are sampled together; `updates` per batch of rollouts (more than 1 wants
    `objective.clip`). `preset`: fields of the dialogue's preset or budget to change, `max_turns: 1` for
    single-turn RL. `rewards`: names with weights (weight 0: logged only). `calibration` null turns the [SEG]
    calibration off.

    `least_spread` is what a smaller standard deviation of a group's rewards counts as (0: as published);
    `epsilon` is added to it (1e-4 in O3's release, 1e-6 in R1, R1 specification §9 no. 19).

    `train` and `freeze`: prefixes of parameter names that learn (none: all) and that do not; with `lora` the
    language model's layers learn through adapters, and if nothing else of language and vision learns, the
    model without them is the reference, else a copy is. What does not learn is held in `frozen_dtype`.

    The rates `lr` and `lr_sam2` (None: the same) warm up over `warmup` steps and fall to 0 on a line.
    `held_out` are the prompts that are asked greedily every `eval_every` steps; every `page_every` steps a
    page of rollouts is written; 0 turns either off. `length` is for the system r1.
    """

    out: str
    system: Literal["o3", "r1"] = "o3"
    init: str = "tiny"
    prompts: PromptConfig = field(default_factory=PromptConfig)
    held_out: PromptConfig | None = None
    eval_every: int = 0
    eval_prompts: int = 64
    steps: int = 1000
    batch: int = 16
    group: int = 4
    groups_per_pass: int = 1
    max_rows: int = 64
    updates: int = 1
    sampling: Sampling = field(default_factory=Sampling)
    preset: dict[str, Any] = field(default_factory=dict)
    rewards: dict[str, float] = field(default_factory=lambda: dict.fromkeys(registry.DEFAULT, 1.0))
    reward_files: tuple[str, ...] = ()
    objective: Objective = field(default_factory=Objective)
    calibration: Calibration | None = field(default_factory=Calibration)
    mask_weight: float = 0.2
    least_spread: float = 0.0
    epsilon: float = EPSILON
    lora: LoraSettings | None = None
    train: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ("sam2.model.vision_encoder",)
    frozen_dtype: str = "float32"
    lr: float = 3e-6
    lr_sam2: float | None = None
    weight_decay: float = 0.0
    warmup: int = 0
    clip_norm: float = 1.0
    bf16: bool = True
    gradient_checkpointing: bool = False
    device: str = "auto"
    threads: int = 0
    seed: int = 0
    save_minutes: float = 10.0
    page_every: int = 20
    stop: StopRules = field(default_factory=StopRules)
    length: dict[str, Any] = field(default_factory=dict)

    masks: ClassVar[bool] = True
    mask_loss: ClassVar[str] = "best"

    def __post_init__(self) -> None:
        counts = ("steps", "batch", "groups_per_pass", "max_rows", "updates")
        if wrong := [name for name in counts if getattr(self, name) < 1]:
            raise UsageError(f"{', '.join(wrong)} must be at least 1")
        if self.group < 2:
            raise UsageError(f"group: at least 2 rollouts are compared with each other, not {self.group}")
        if self.eval_every and self.held_out is None:
            raise UsageError("eval_every needs `held_out`, the prompts to evaluate on")
        if self.lora and self.lora.dropout:
            raise UsageError("lora.dropout must be 0: what is trained would not be the policy that sampled")
        if not self.rewards:
            raise UsageError("rewards: name at least one, such as {format: 1, mask_iou: 1}")
