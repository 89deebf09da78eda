"""Trains a small XMem on the generated world: propagation of first-frame masks (R1 specification §6)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from videoseg.data.world.draw import Stage
from videoseg.data.world.sampler import VALID_SEEDS
from videoseg.data.world.tracking import GAP_SHARE, tracking_scene
from videoseg.errors import UsageError
from videoseg.models.checkpoints.xmem import load_xmem, save_xmem
from videoseg.models.xmem import TINY, FrameKeys, XMem
from videoseg.models.xmem.memory import attention, similarity
from videoseg.models.xmem.network import compete
from videoseg.tracking.xmem import fit, preprocess
from videoseg.training.loop import Report, Run, RunSettings, seed_for
from videoseg.training.losses import dice_loss, mask_iou
from videoseg.training.schedule import schedule


@dataclass(frozen=True)
class XMemConfig:
    """One run. Each step sees `batch` clips of `frames[0]` to `frames[1]` frames, `objects` things in each.

    `init` is a checkpoint to go on from; the clips begin at seed `first_seed`.
    The longest sequences come after half of the steps. A frame is remembered with probability `remember`.
    Of the cross-entropy only the worst pixels count, their share falling from 1 to `hardest` between the
    shares `bootstrap` of the steps. From `freeze_norms` on, batch norms stay as inference will see them.
    `gap_share` of the clips lose one thing for a while (a full occlusion).
    """

    out: str
    init: str | None = None
    first_seed: int = 0
    steps: int = 1040
    batch: int = 8
    frames: tuple[int, int] = (3, 8)
    objects: int = 2
    image_size: int = 112
    lr: float = 1e-3
    warmup: int = 50
    final_lr: float = 0.02
    weight_decay: float = 0.01
    clip: float = 1.0
    remember: float = 0.4
    hardest: float = 0.15
    bootstrap: tuple[float, float] = (0.1, 0.5)
    freeze_norms: float = 0.8
    gap_share: float = GAP_SHARE
    valid_clips: int = 16
    valid_every: int = 100
    log_every: int = 10
    save_minutes: float = 3.0
    bf16: bool = True
    threads: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.objects, self.threads, self.log_every, self.valid_every) < 1:
            raise UsageError("steps, batch, objects, threads, log_every and valid_every must be at least 1")
        if not 2 <= self.frames[0] <= self.frames[1]:
            raise UsageError(f"frames: 2 <= least <= most is needed, got {self.frames}")


@dataclass(frozen=True, eq=False, slots=True)
class Clips:
    """`images` float32 [B, T, 3, h, w], normalised, and `masks` bool [B, T, N, h, w] of the followed things.

    Things that the first frame does not show have empty masks throughout.
    """

    images: Tensor
    masks: Tensor


def draw_clips(seeds: Sequence[int], length: int, config: XMemConfig) -> Clips:
    """Sequences of `length` frames; depends on the seeds only."""
    drawn = [_draw_clip(seed, length, config) for seed in seeds]
    return Clips(torch.stack([images for images, _ in drawn]), torch.stack([masks for _, masks in drawn]))


def _draw_clip(seed: int, length: int, config: XMemConfig) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng([seed, 2])
    scene = tracking_scene(seed, rng, config.gap_share)
    stage = Stage(scene)
    frames = _pick_frames(scene.num_frames, length, rng)
    images, masks = zip(*(stage.frame(frame) for frame in frames), strict=True)
    seen = masks[0].sum((1, 2)) > 0
    order = rng.permutation(len(seen))
    things = sorted(order, key=lambda thing: not seen[thing])[: config.objects]
    things += [things[-1]] * (config.objects - len(things))
    chosen = np.stack(masks)[:, things] & seen[things][None, :, None, None]
    chosen[:, len(set(things)) :] = False
    image = torch.stack([preprocess(each, config.image_size) for each in images])
    return image, fit(torch.from_numpy(chosen), config.image_size)


def _pick_frames(count: int, length: int, rng: np.random.Generator) -> list[int]:
    """Frames 1 to 3 apart, in either direction."""
    stride = int(rng.integers(1, max(1, min(3, (count - 1) // (length - 1))) + 1))
    span = stride * (length - 1)
    start = int(rng.integers(0, count - span))
    frames = list(range(start, start + span + 1, stride))
    return frames if rng.random() < 0.5 else frames[::-1]


def propagate(xmem: XMem, clips: Clips, remember: Sequence[bool]) -> list[Tensor]:
    """Logits [B, 1 + N, h, w] of every frame after the first, whose masks are given; differentiable.

    The frames with `remember` set (one flag per frame) are remembered, with a deep update; the others
    update the sensory state from the decoder, as in inference. Everything remembered is read.
    """
    length = clips.images.shape[1]
    frames = xmem.encode_frame(clips.images.flatten(0, 1))
    first = frames.pick(slice(0, None, length))
    hidden = xmem.fresh_hidden(first, clips.masks.shape[2])
    given = F.pad(clips.masks[:, 0].float(), first.pad)
    values = xmem.encode_value(first, compete(given).softmax(1)[:, 1:])
    hidden = xmem.deepen(values, hidden)
    tokens = [(first, values)]
    results = []
    for time_index in range(1, length):
        frame = frames.pick(slice(time_index, None, length))
        keep = remember[time_index] and time_index < length - 1
        logits, hidden = xmem.segment(frame, read(frame, tokens), hidden, update=not keep)
        results.append(frame.crop(logits))
        if keep:
            values = xmem.encode_value(frame, logits.softmax(1)[:, 1:])
            hidden = xmem.deepen(values, hidden)
            tokens.append((frame, values))
    return results


def read(frame: FrameKeys, tokens: Sequence[tuple[FrameKeys, Tensor]]) -> Tensor:
    """What all remembered tokens say about a frame, [B, N, V, h, w]."""
    keys = torch.cat([other.key.flatten(2) for other, _ in tokens], -1).float()
    shrinkage = torch.cat([other.shrinkage.flatten(1) for other, _ in tokens], -1).float()
    values = torch.cat([value.flatten(3) for _, value in tokens], -1)
    scores = similarity(keys, shrinkage, frame.key.flatten(2).float(), frame.selection.flatten(2).float())
    answer = values @ attention(scores).to(values.dtype)[:, None]
    return answer.unflatten(-1, frame.key.shape[-2:])


def clip_loss(results: Sequence[Tensor], masks: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Bootstrapped cross-entropy over the `share` of worst pixels of each frame, and Dice of each object.

    `results` as `propagate` returns them, `masks` bool [B, T, N, h, w]; both losses are means.
    """
    logits = torch.stack(list(results), 1).flatten(0, 1)
    truth = masks[:, 1:].flatten(0, 1)
    labels = torch.cat([~truth.any(1, keepdim=True), truth], 1).float().argmax(1)
    pixels = F.cross_entropy(logits, labels, reduction="none").flatten(1)
    worst = pixels.topk(max(1, int(share * pixels.shape[1])), dim=1).values
    return worst.mean(), dice_loss(logits[:, 1:].flatten(0, 1), truth.flatten(0, 1).float()).mean()


class Propagation(nn.Module):
    """`propagate` as a module, which accelerate can wrap."""

    def __init__(self, xmem: XMem) -> None:
        super().__init__()
        self.xmem = xmem

    def forward(self, clips: Clips, remember: Sequence[bool]) -> list[Tensor]:
        """See `propagate`."""
        return propagate(self.xmem, clips, remember)


def run(config: XMemConfig, report: Report | None = None) -> Path:
    """Train; writes `OUT/metrics.jsonl`, states to resume from and the checkpoint `OUT/model`, its result.

    Raises CheckpointError if `init` cannot be read.
    """
    torch.set_num_threads(config.threads)
    seed_for(config.seed)
    xmem, out = load_xmem(config.init) if config.init else XMem(TINY, config.image_size), Path(config.out)
    xmem.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    settings = RunSettings(
        config.out, config.seed, config.bf16, clip=config.clip, save_minutes=config.save_minutes, device="cpu"
    )
    with Run(settings) as running:
        optimizer = torch.optim.AdamW(xmem.parameters(), config.lr, weight_decay=config.weight_decay)
        running.prepare(Propagation(xmem), [optimizer])
        running.resume(batch=config.batch, seed=config.seed, first_seed=config.first_seed)
        running.describe(asdict(config))
        valid = draw_clips(range(VALID_SEEDS.start, VALID_SEEDS.start + config.valid_clips), 6, config)
        while running.step < config.steps:
            record = train_step(running, xmem, config)
            end, done = running.step == config.steps, running.step - 1
            if end or done % config.valid_every == 0:
                record |= validate(xmem, valid, config.bf16)
            if end or done % config.log_every == 0:
                running.log(record, report, config.steps)
            running.keep_going()
        running.save()
        save_xmem(xmem, out / "model")
    return out / "model"


def train_step(running: Run, xmem: XMem, config: XMemConfig) -> dict[str, Any]:
    """Draw the batch of a step, update, and return the numbers to log."""
    step = running.step
    rng = random.Random(f"{config.seed}:{step}")
    done = step / config.steps
    most = config.frames[0] + round((config.frames[1] - config.frames[0]) * min(1.0, 2 * done))
    length = rng.randint(config.frames[0], most)
    first = config.first_seed + step * config.batch
    clips = draw_clips(range(first, first + config.batch), length, config)
    remember = [rng.random() < config.remember for _ in range(length)]
    begin, full = config.bootstrap
    share = 1 - (1 - config.hardest) * min(1.0, max(0.0, (done - begin) / (full - begin)))
    found: dict[str, float] = {}

    def loss(one: Clips) -> Tensor:
        cross, dice = clip_loss(running.module(one, remember), one.masks, share)
        found.update(ce=float(cross.detach()), dice=float(dice.detach()))
        return cross + dice

    set_norms(xmem, training=done < config.freeze_norms)
    norm = running.update([clips], loss, schedule(step, config.steps, config.warmup, config.final_lr))
    return {**found, "norm": norm, "length": length}


def set_norms(xmem: XMem, *, training: bool) -> None:
    """Batch norms with the batch's statistics, or (as in inference) with those gathered so far."""
    for module in xmem.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train(training)


@torch.no_grad()
def validate(xmem: XMem, clips: Clips, bf16: bool) -> dict[str, float]:
    """Mean IoU over the later frames of held-out clips: of things in view, and of those that are not."""
    set_norms(xmem, training=False)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        results = propagate(xmem, clips, [time_index % 3 == 0 for time_index in range(clips.images.shape[1])])
    labels = torch.stack(results, 1).argmax(2)
    guess = torch.stack([labels == number for number in range(1, clips.masks.shape[2] + 1)], 2)
    truth = clips.masks[:, 1:].flatten(0, 2)
    seen = truth.flatten(1).any(1)
    iou = mask_iou(guess.flatten(0, 2).float() - 0.5, truth.float())
    return {
        "valid_iou": float(iou[seen].mean()),
        "valid_empty": float(iou[~seen].mean()) if (~seen).any() else 1.0,
    }
