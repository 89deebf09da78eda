"""Runs stage 0 of the tiny recipe: masks from words, without any language model (spec tiny.md)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from videoseg.data.world.sampler import VALID_SEEDS, WorldSpec
from videoseg.errors import CheckpointError, UsageError
from videoseg.models.checkpoints.folder import load_folder
from videoseg.models.sam2 import Sam2
from videoseg.models.tiny import build_sam2
from videoseg.models.vision_speed import prefer_plain_attention
from videoseg.training.schedule import schedule
from videoseg.training.settings import read_yaml
from videoseg.training.words import WordBatch, WordTable, decode_loss, decode_words, draw_batch

Report = Callable[[dict[str, Any]], None]
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
    threads: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.frames, self.valid_frames, self.threads) < 1:
            raise UsageError("steps, frames, valid_frames and threads must be at least 1")


def read_words_config(path: str | Path, **overrides: Any) -> WordsConfig:
    """Read a YAML file of `WordsConfig` fields; `overrides` win. Raises UsageError on unknown fields."""
    values = {**read_yaml(path), **overrides}
    known = {item.name for item in fields(WordsConfig)}
    if unknown := sorted(set(values) - known):
        raise UsageError(f"{path}: unknown field {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    return WordsConfig(**values)


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
    """Train; writes `OUT/metrics.jsonl` and `OUT/words.pt`, whose path it returns.

    Raises CheckpointError if `init` is missing.
    """
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    prefer_plain_attention()
    out, spec = Path(config.out), WorldSpec()
    out.mkdir(parents=True, exist_ok=True)
    words = Words(build_sam2())
    if config.init:
        words.load(load_words(Path(config.init)))
    if config.model:
        words.sam2.load_state_dict(load_folder(Path(config.model)).sam2.state_dict())
    optimizer = torch.optim.AdamW(
        [p for p in words.parameters() if p.requires_grad],
        lr=config.lr,
        betas=(0.9, 0.98),
        weight_decay=config.weight_decay,
        fused=True,
    )
    valid_seeds = range(VALID_SEEDS.start, VALID_SEEDS.start + config.valid_frames)
    valid = draw_batch(valid_seeds, spec, words.sam2)
    started = time.monotonic()
    with (out / "metrics.jsonl").open("a") as log:
        for step in range(config.steps):
            record = _step(words, optimizer, config, spec, step)
            if step % config.valid_every == 0 or step + 1 == config.steps:
                record |= validate(words, valid, config.bf16)
                torch.save(_state(words, step + 1), out / "words.pt")
            if len(record) > 2 or step % config.log_every == 0:
                record |= {"step": step, "seconds": round(time.monotonic() - started, 1)}
                log.write(json.dumps(record) + "\n")
                log.flush()
                if report:
                    report(record)
    return out / "words.pt"


def _step(
    words: Words, optimizer: torch.optim.Optimizer, config: WordsConfig, spec: WorldSpec, step: int
) -> dict[str, Any]:
    for group in optimizer.param_groups:
        group["lr"] = config.lr * schedule(step, config.steps, config.warmup, config.final_lr)
    first = config.first_seed + step * config.frames
    seeds = range(first, first + config.frames)
    batch = draw_batch(seeds, spec, words.sam2)
    with torch.autocast("cpu", torch.bfloat16, enabled=config.bf16):
        masks = words(batch, config.noise)
    loss = decode_loss(masks, batch.masks)
    optimizer.zero_grad(set_to_none=True)
    loss.total.backward()
    nn.utils.clip_grad_norm_(words.parameters(), 1.0)
    optimizer.step()
    return {"loss": float(loss.total.detach()), "iou": float(loss.iou.mean())}


@torch.no_grad()
def validate(words: Words, batch: WordBatch, bf16: bool = True) -> dict[str, float]:
    """IoU on held-out frames: visible things, those with a twin of the same colour, sets, and absent ones."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
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
