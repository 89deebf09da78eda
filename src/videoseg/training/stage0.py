"""Runs stage 0 of the tiny recipe: masks from words, without any language model (spec tiny.md)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from videoseg.data.world.sampler import VALID_SEEDS, WorldSpec
from videoseg.errors import CheckpointError, UsageError
from videoseg.models.checkpoints.folder import load_folder
from videoseg.models.sam2 import Sam2
from videoseg.models.tiny import build_sam2
from videoseg.models.vision_speed import prefer_plain_attention
from videoseg.training.loop import Report, Run, RunSettings, seed_for
from videoseg.training.schedule import schedule
from videoseg.training.settings import read_settings
from videoseg.training.words import WordBatch, WordTable, decode_loss, decode_words, draw_batch

MEMORY_PARTS = ("memory_attention", "memory_encoder")


@dataclass(frozen=True)
class WordsConfig:
    """One run of stage 0: `frames` frames per step, each with all its things and one that is absent.

    `init` is the `words.pt` of an earlier run, to go on from; its table then stays as it is, so that what
    was distilled towards it stays valid. `model` is a checkpoint folder whose SAM2 goes on instead of the
    one of `init`. `first_seed` is where the frames begin. `noise` is added to the
    prompt vectors, so that the decoder tolerates an imperfect [SEG] later.
    """

    out: str
    init: str | None = None
    model: str | None = None
    first_seed: int = 0
    steps: int = 1700
    frames: int = 16
    lr: float = 6e-4
    warmup: int = 100
    final_lr: float = 0.03
    weight_decay: float = 0.01
    noise: float = 0.15
    valid_frames: int = 64
    valid_every: int = 200
    log_every: int = 25
    bf16: bool = True
    save_minutes: float = 5.0
    device: str = "cpu"
    threads: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.frames, self.valid_frames) < 1:
            raise UsageError("steps, frames and valid_frames must be at least 1")


def read_words_config(path: str | Path, **overrides: Any) -> WordsConfig:
    """Read a YAML file of `WordsConfig` fields; `overrides` win. Raises UsageError on unknown fields."""
    return read_settings(WordsConfig, path, overrides)


class Words(nn.Module):
    """SAM2 and the words table, trained together; memory is left alone."""

    def __init__(self, sam2: Sam2) -> None:
        super().__init__()
        self.sam2 = sam2
        self.table = WordTable(sam2.width)
        for part in MEMORY_PARTS:
            getattr(sam2.model, part).requires_grad_(False)

    def load(self, state: dict[str, Any]) -> None:
        """Go on from an earlier result, with its table fixed."""
        self.sam2.load_state_dict(state["sam2"])
        self.table.load_state_dict(state["table"])
        self.table.requires_grad_(False)

    def forward(self, batch: WordBatch, noise: float = 0.0) -> Any:
        """Candidate masks of every description."""
        vectors = self.table.together(batch.words)
        if noise:
            vectors = vectors + noise * torch.randn_like(vectors)
        return decode_words(self.sam2, batch, vectors)


def run(config: WordsConfig, report: Report | None = None) -> Path:
    """Train; writes `OUT/metrics.jsonl`, states to resume from and `OUT/words.pt`, whose path it returns.

    Raises CheckpointError if `init` or `model` cannot be read.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    seed_for(config.seed)
    prefer_plain_attention()
    words, out = _prepare(config), Path(config.out) / "words.pt"
    settings = RunSettings(
        config.out, config.seed, config.bf16, save_minutes=config.save_minutes, device=config.device
    )
    with Run(settings) as running:
        learning = [parameter for parameter in words.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(
            learning, config.lr, betas=(0.9, 0.98), weight_decay=config.weight_decay, fused=True
        )
        running.prepare(words, [optimizer])
        running.resume(frames=config.frames, seed=config.seed, first_seed=config.first_seed)
        running.describe(asdict(config))
        held_out = range(VALID_SEEDS.start, VALID_SEEDS.start + config.valid_frames)
        valid = draw_batch(held_out, WorldSpec(), words.sam2).to(running.accelerator.device)
        while running.step < config.steps:
            record = _update(running, words, config)
            if (running.step - 1) % config.valid_every == 0 or running.step == config.steps:
                record |= validate(words, valid, config.bf16)
            if len(record) > 2 or (running.step - 1) % config.log_every == 0:
                running.log(record, report, config.steps)
            running.keep_going()
        running.save()
        torch.save(_state(words, running.step), out.with_suffix(".part"))
        out.with_suffix(".part").replace(out)
    return out


def _prepare(config: WordsConfig) -> Words:
    words = Words(build_sam2())
    if config.init:
        words.load(load_words(Path(config.init)))
    if config.model:
        words.sam2.load_state_dict(load_folder(Path(config.model)).sam2.state_dict())
    return words


def _update(running: Run, words: Words, config: WordsConfig) -> dict[str, Any]:
    """One step on fresh frames; the prompts' noise depends on the step alone."""
    first = config.first_seed + running.step * config.frames
    batch = draw_batch(range(first, first + config.frames), WorldSpec(), words.sam2)
    batch = batch.to(running.accelerator.device)
    found: dict[str, float] = {}

    def loss(one: WordBatch) -> Tensor:
        with running.accelerator.autocast():
            masks = running.module(one, config.noise)
        losses = decode_loss(masks, one.masks)
        found.update(loss=float(losses.total.detach()), iou=float(losses.iou.mean()))
        return losses.total

    seed_for(config.seed, running.step)
    running.update([batch], loss, schedule(running.step, config.steps, config.warmup, config.final_lr))
    return dict(found)


@torch.no_grad()
def validate(words: Words, batch: WordBatch, bf16: bool = True) -> dict[str, float]:
    """IoU on held-out frames: visible things, those with a twin of the same colour, sets, and absent ones."""
    with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=bf16):
        masks = words(batch)
    iou = decode_loss(masks, batch.masks).iou
    seen = (batch.masks > 0.5).flatten(1).any(1)
    several = torch.tensor([len(words) > 1 for words in batch.words])
    groups = {
        "valid_iou": seen & ~several,
        "valid_twin": seen & batch.twin,
        "valid_several": seen & several,
        "valid_absent": ~seen,
    }
    return {name: float(iou[chosen].mean()) for name, chosen in groups.items() if bool(chosen.any())}


def load_words(path: Path) -> dict[str, Any]:
    """A result of this stage: `sam2` and `table` state dicts and the `step`."""
    if not path.exists():
        raise CheckpointError(f"{path}: the result of stage 0 is missing; run training.stage0.run first")
    return torch.load(path, map_location="cpu", weights_only=True)


def _state(words: Words, step: int) -> dict[str, Any]:
    return {"sam2": words.sam2.state_dict(), "table": words.table.state_dict(), "step": step}
