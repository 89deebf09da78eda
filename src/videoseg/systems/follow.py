"""From [SEG] states to masks on every frame: targets are followed in step, masks leave as run-length codes.

O3 specification §8.2; XMem takes SAM2's place with the preset's `tracker`. Every frame is encoded once per
direction for all targets together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from videoseg.dialogue.preset import Preset
from videoseg.errors import UsageError
from videoseg.masks import Masklet, Rle, masklet_from_frames
from videoseg.models.o3 import O3Model
from videoseg.models.sam2 import MaskPrediction, Sam2
from videoseg.systems.journal import Journal
from videoseg.tracking.run import Job, TrackingRun
from videoseg.tracking.sam2 import TrackingJob, VideoFeatures, language_jobs
from videoseg.tracking.xmem import XMemFrames, XMemPrediction, XMemTracker
from videoseg.video.reader import Video

Progress = Callable[[str, int, int], None]
"""Called as `progress(stage, done, total)` with stage `dialogue` or `masks`."""


@dataclass(frozen=True, eq=False, slots=True)
class Target:
    """What the mask decoder is asked for: a prompt vector `[1, 256]` on a keyframe, for one query."""

    query: int
    keyframe: int
    embedding: Tensor


@dataclass(frozen=True, slots=True)
class FrameMask:
    """One target's mask on one frame; `presence` and `score` as in `Masklet`."""

    query: int
    frame: int
    code: Rle
    presence: float
    score: float


@torch.no_grad()
def stream(
    model: O3Model,
    preset: Preset,
    video: Video,
    targets: Sequence[Target],
    journal: Journal | None = None,
) -> Iterator[FrameMask]:
    """Masks as they are made: forward from the first keyframe, then backward from the last.

    With a `journal` the masks of an interrupted run come first, and the run goes on where it stopped.
    """
    run, compress = _tracking(model, preset, video, targets)
    if journal is not None:
        for query, frame, code, presence, score in journal.masks(run):
            yield FrameMask(query, frame, Rle.from_coco(code), presence, score)
    for job, frame, prediction in run:
        mask = FrameMask(targets[job].query, frame, *compress(prediction, video.frame_size))
        if journal is not None:
            journal.add(run, mask.query, frame, mask.code.to_coco(), mask.presence, mask.score)
        yield mask


def _tracking(
    model: O3Model, preset: Preset, video: Video, targets: Sequence[Target]
) -> tuple[TrackingRun, Callable[[Any, tuple[int, int]], tuple[Rle, float, float]]]:
    """The run that carries the targets through the video, and what makes a code of its predictions."""
    sam2, original = model.sam2, model.original_sam2
    options: dict[str, Any] = {"original": original, "exact_normalization": preset.exact_normalization}
    prompts = [TrackingJob(target.keyframe, target.embedding.to(sam2.device)) for target in targets]
    if preset.tracker == "sam2":
        features = VideoFeatures(sam2, FrameWalk(video), **options)
        jobs = language_jobs(sam2, len(video), prompts, preset.propagation, original)
        return TrackingRun(jobs, features, len(video)), partial(_code_of_sam2, sam2)
    if model.xmem is None:
        raise UsageError("tracker xmem needs the weights of XMem: give xmem")

    def mask_of(prompt: TrackingJob) -> Tensor:
        keyframe = VideoFeatures(sam2, video.__getitem__, **options)(prompt.keyframe)
        answer = sam2.segment(keyframe, sam2.prompt_language(prompt.embedding))
        return sam2.upsample(answer.logits, video.frame_size) > 0

    masks = [
        Job(prompt.keyframe, XMemTracker(model.xmem, num_frames=len(video)), partial(mask_of, prompt))
        for prompt in prompts
    ]
    return TrackingRun(masks, XMemFrames(model.xmem, FrameWalk(video)), len(video)), _code_of_xmem


def follow(
    model: O3Model,
    preset: Preset,
    video: Video,
    targets: Sequence[Target],
    progress: Progress | None = None,
    journal: Journal | None = None,
) -> dict[int, Masklet]:
    """The masklet of every target, by query."""
    found: dict[int, list[tuple[int, Rle, float, float]]] = {target.query: [] for target in targets}
    total = len(targets) * len(video)
    for done, mask in enumerate(stream(model, preset, video, targets, journal), start=1):
        found[mask.query].append((mask.frame, mask.code, mask.presence, mask.score))
        if progress:
            progress("masks", done, total)
    return {query: masklet_from_frames(1, masks, len(video)) for query, masks in found.items()}


def _code_of_sam2(sam2: Sam2, prediction: MaskPrediction, size: tuple[int, int]) -> tuple[Rle, float, float]:
    """Code, presence and score of the one object of a prediction."""
    mask = (sam2.upsample(prediction.logits, size)[0] > 0).cpu().numpy()
    presence = float(prediction.score.float().sigmoid().flatten()[0])
    return Rle.encode(mask), presence, float(prediction.iou.flatten()[0])


def _code_of_xmem(prediction: XMemPrediction, size: tuple[int, int]) -> tuple[Rle, float, float]:
    mask = prediction.masks(size)[0].cpu().numpy()
    return Rle.encode(mask), float(prediction.presence[0]), float(prediction.score[0])


class FrameWalk:
    """Frames by index for a caller that walks the video: neighbouring frames are decoded in one go."""

    def __init__(self, video: Video) -> None:
        self._video = video
        self._walk: Iterator[tuple[int, Any]] = iter(())
        self._next = 0
        self._step = 0

    def __call__(self, index: int) -> Any:
        """Frame `index`, `uint8 [H, W, 3]`; another direction or a jump starts a new walk there."""
        if not self._step or index != self._next:
            backward = self._step != 0 and index < self._next
            self._step = -1 if backward else 1
            stop = -1 if backward else len(self._video)
            self._walk = self._video.frames(index, stop, step=self._step)
        self._next = index + self._step
        return next(self._walk)[1]
