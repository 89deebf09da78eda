"""The tiny SAM2 learns boxes and points, R1's prompts, after words (R1 specification §6, stack.md §3.3).

Every kind of prompt of Table 6 is drawn from true masks, with the noise that a reasoner's answer has.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from videoseg.data.world.draw import Stage
from videoseg.data.world.sampler import WorldSpec, draw_sample
from videoseg.models.checkpoints.folder import load_folder
from videoseg.models.checkpoints.hub import resolve
from videoseg.models.sam2 import PromptTokens, Sam2
from videoseg.models.vision_speed import prefer_plain_attention
from videoseg.training.loop import Report
from videoseg.training.r1_truth import cue_of
from videoseg.training.schedule import schedule
from videoseg.training.stage0 import MEMORY_PARTS
from videoseg.training.words import decode_loss, shrink

KINDS: tuple[tuple[str, ...], ...] = (
    ("box", "point", "negative"),
    ("box", "point"),
    ("box", "negative"),
    ("box",),
    ("point",),
)
"""Combinations of prompts; a frame's things share one, so that their prompts form one batch."""


@dataclass(frozen=True)
class ClicksConfig:
    """One run from the SAM2 of `init` (name or folder of an O3 checkpoint), `frames` frames per step.

    `jitter` is the standard deviation of a box's edges, as a share of its sides.
    """

    out: str
    init: str = "tiny"
    steps: int = 900
    frames: int = 8
    lr: float = 1e-3
    weight_decay: float = 0.01
    warmup: int = 20
    final_lr: float = 0.03
    jitter: float = 0.05
    first_seed: int = 6_000_000
    seed: int = 0
    threads: int = 1
    bf16: bool = True
    mask_size: int = 64
    log_every: int = 20


@dataclass(frozen=True, eq=False, slots=True)
class ClickBatch:
    """images `[F, 3, S, S]`; per prompt its frame `[P]`, box `[P, 4]`, point and negative `[P, 2]` in input
    pixels, and mask `[P, m, m]` in [0, 1]."""

    images: Tensor
    frame: Tensor
    box: Tensor
    point: Tensor
    negative: Tensor
    masks: Tensor


def draw_clicks(seeds: range, spec: WorldSpec, sam2: Sam2, config: ClicksConfig) -> ClickBatch:
    """One random frame per seed and a noisy cue for every thing in it that shows at least 12 pixels."""
    images, owner, rows, masks = [], [], [], []
    for number, seed in enumerate(seeds):
        rng = np.random.default_rng([seed, 6])
        scene = draw_sample(seed, spec).scene
        image, shown = Stage(scene).frame(int(rng.integers(scene.num_frames)))
        images.append(sam2.preprocess(image))
        for mask in shown[shown.sum((1, 2)) >= 12]:
            owner.append(number)
            rows.append(_noisy(mask, rng, config.jitter))
            masks.append(shrink(mask, config.mask_size))
    sides = torch.tensor([spec.width, spec.height], dtype=torch.float32)
    cues = torch.tensor(np.array(rows), dtype=torch.float32) / sides.repeat(4) * sam2.image_size
    return ClickBatch(
        torch.stack(images), torch.tensor(owner), cues[:, :4], cues[:, 4:6], cues[:, 6:], torch.stack(masks)
    )


def _noisy(mask: NDArray[np.bool_], rng: np.random.Generator, jitter: float) -> list[float]:
    """x1, y1, x2, y2, x, y, x, y: box with moved edges, a pixel of the mask, and one close to it."""
    cue = cue_of(mask)
    x1, y1, x2, y2 = cue.box
    width, height = x2 - x1, y2 - y1
    moved = rng.normal(0, jitter, 4) * [width, height, width, height]
    ys, xs = np.nonzero(mask)
    chosen = int(rng.integers(len(xs)))
    point = cue.point if rng.random() < 0.5 else (int(xs[chosen]), int(ys[chosen]))
    out = _outside(mask, cue.box, rng) if rng.random() < 0.5 else cue.negative
    x, y = point or (x1, y1)
    nx, ny = out or (x1, y1)
    return [*(np.array([x1, y1, x2, y2]) + moved), x, y, nx, ny]


def _outside(
    mask: NDArray[np.bool_], box: tuple[int, int, int, int], rng: np.random.Generator
) -> tuple[int, int] | None:
    x1, y1, x2, y2 = box
    near = np.zeros_like(mask)
    near[max(0, y1 - 8) : y2 + 8, max(0, x1 - 8) : x2 + 8] = True
    ys, xs = np.nonzero(near & ~mask)
    if not len(xs):
        return None
    chosen = int(rng.integers(len(xs)))
    return int(xs[chosen]), int(ys[chosen])


def prompt_of(sam2: Sam2, batch: ClickBatch, kind: tuple[str, ...]) -> PromptTokens:
    """The prompts of a batch, with the parts that `kind` names."""
    given = [(batch.point, 1)] * ("point" in kind) + [(batch.negative, 0)] * ("negative" in kind)
    if not given:
        return sam2.prompt_box(batch.box)
    points = torch.stack([place for place, _ in given], 1)
    labels = torch.tensor([label for _, label in given]).expand(len(batch.box), -1)
    return sam2.prompt_box(batch.box, points, labels) if "box" in kind else sam2.prompt_points(points, labels)


def run(config: ClicksConfig, report: Report | None = None) -> Path:
    """Train trunk, prompt encoder and mask decoder; writes `OUT/metrics.jsonl` and `OUT/sam2.pt`."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    prefer_plain_attention()
    sam2, out = load_folder(resolve(config.init)).sam2, Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    for part in MEMORY_PARTS:
        getattr(sam2.model, part).requires_grad_(False)
    learned = [parameter for parameter in sam2.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, config.lr, (0.9, 0.98), weight_decay=config.weight_decay)
    started = time.monotonic()
    with (out / "metrics.jsonl").open("a") as log:
        for step in range(config.steps):
            record = _step(sam2, learned, optimizer, config, step)
            if step % config.log_every < len(KINDS):
                record |= {"step": step, "seconds": round(time.monotonic() - started, 1)}
                log.write(json.dumps(record) + "\n")
                log.flush()
                if report:
                    report(record)
    torch.save(sam2.state_dict(), out / "sam2.pt")
    return out / "sam2.pt"


def _step(
    sam2: Sam2,
    learned: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    config: ClicksConfig,
    step: int,
) -> dict[str, Any]:
    for group in optimizer.param_groups:
        group["lr"] = config.lr * schedule(step, config.steps, config.warmup, config.final_lr)
    first, kind = config.first_seed + step * config.frames, KINDS[step % len(KINDS)]
    batch = draw_clicks(range(first, first + config.frames), WorldSpec(), sam2, config)
    loss, iou = _loss(sam2, batch, kind, config.bf16)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(learned, 1.0)
    optimizer.step()
    return {"kind": "+".join(kind), "loss": float(loss.detach()), "iou": float(iou.mean())}


def _loss(sam2: Sam2, batch: ClickBatch, kind: tuple[str, ...], bf16: bool) -> tuple[Tensor, Tensor]:
    with torch.autocast(sam2.device.type, torch.bfloat16, enabled=bf16):
        features = sam2.encode(batch.images).select(batch.frame)
        masks = sam2.decode_all(features, sam2.unconditioned(features), prompt_of(sam2, batch, kind))
    found = decode_loss(masks, batch.masks)
    return found.total, found.iou
