"""What a GRPO run consists of, put together from its settings: the policy, its task, what learns."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from videoseg.errors import UsageError
from videoseg.models.checkpoints.folder import load_folder
from videoseg.models.checkpoints.hub import known_hashes, resolve
from videoseg.models.o3 import O3Model
from videoseg.models.vlm import VLM
from videoseg.training.dialogue_batch import DialogueBatch
from videoseg.training.export import export
from videoseg.training.grpo_config import GrpoConfig
from videoseg.training.loop import Run
from videoseg.training.lora import is_lora, without_lora
from videoseg.training.policy import Policy, Reference
from videoseg.training.preparation import choose_trained, make_fast
from videoseg.training.rollout import CachedGenerator, Sampling
from videoseg.training.task import O3Task, Task


@dataclass(frozen=True, eq=False, slots=True)
class Parts:
    """A system as the trainer sees it.

    `policy`: `forward(DialogueBatch) -> PolicyOutput`; `task` samples as the settings say, `greedy_task` for
    the held-out prompts; `reference` gives log-probabilities (None without a KL term); `source` says where
    the weights came from; `save(folder)` writes a checkpoint, called by all processes.
    """

    policy: nn.Module
    vlm: VLM
    seg_id: int
    pad_id: int
    task: Task
    greedy_task: Task
    reference: Callable[[DialogueBatch], Tensor] | None
    source: dict[str, Any]
    save: Callable[[Path], Path]


def open_parts(config: GrpoConfig, run: Run) -> Parts:
    """The parts of the system that `config.system` names, on the run's device."""
    if config.system == "r1":
        from videoseg.training.r1_task import open_r1

        return open_r1(config, run)
    return open_o3(config, run)


def open_o3(config: GrpoConfig, run: Run) -> Parts:
    """VideoSEG-O3; what learns is in float32."""
    model = load_o3(config, str(run.accelerator.device))
    preset = model.text.preset.override(**config.preset)
    tasks = [
        O3Task(model, preset, CachedGenerator(model, preset, sampling, config.max_rows))
        for sampling in (config.sampling, Sampling(0.0))
    ]
    policy = Policy(model)
    reference = reference_of(model.vlm, config)
    save = partial(_save, run, model, config)
    return Parts(
        policy, model.vlm, model.seg_id, model.end_id, tasks[0], tasks[1], reference, model.text.source, save
    )


def load_o3(config: GrpoConfig, device: str) -> O3Model:
    """The cold-start model of `config.init`, ready to learn what `config` says."""
    hashes = known_hashes(config.init)
    model = load_folder(resolve(config.init), name=config.init, dtype=config.frozen_dtype, hashes=hashes)
    make_fast(model, device == "cpu", config.gradient_checkpointing)
    choose_trained(model, config)
    return model.to(device)


def reference_of(vlm: VLM, config: GrpoConfig) -> Reference | None:
    """The policy without adapters if it learns through these alone, else a frozen copy; None if beta is 0."""
    if not config.objective.beta:
        return None
    learning = [name for name, value in vlm.named_parameters() if value.requires_grad]
    adapters: Callable[[], AbstractContextManager[None]] | None = None
    if config.lora and all(is_lora(name) for name in learning):
        adapters = partial(without_lora, vlm)
    return Reference(vlm, adapters)


def make_optimizer(policy: nn.Module, config: GrpoConfig) -> torch.optim.Optimizer:
    """AdamW over what learns, SAM2's parts at their own rate (§12.2); UsageError if nothing does."""
    named = [(name, value) for name, value in policy.named_parameters() if value.requires_grad]
    if not named:
        raise UsageError("no parameter learns: look at `train` and `freeze`")
    sam2 = [value for name, value in named if ".sam2." in name]
    rest = [value for name, value in named if ".sam2." not in name]
    rate = config.lr if config.lr_sam2 is None else config.lr_sam2
    groups = [{"params": rest, "lr": config.lr}, {"params": sam2, "lr": rate}]
    return torch.optim.AdamW([g for g in groups if g["params"]], weight_decay=config.weight_decay)


def _save(run: Run, model: O3Model, config: GrpoConfig, folder: Path) -> Path:
    return export(run, model, config.lora, folder)
