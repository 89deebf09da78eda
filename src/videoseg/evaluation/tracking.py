"""Scores trackers on held-out clips of the generated world: J and F of true keyframe masks carried on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videoseg.data.world.draw import Stage
from videoseg.data.world.scene import Scene
from videoseg.data.world.tracking import tracking_scene
from videoseg.evaluation.metrics import jf
from videoseg.models.sam2 import Sam2
from videoseg.models.xmem import XMem
from videoseg.systems.follow import FrameWalk
from videoseg.tracking.run import Job, TrackingRun
from videoseg.tracking.sam2 import Sam2Tracker, VideoFeatures
from videoseg.tracking.xmem import XMemFrames, XMemTracker
from videoseg.video.reader import Video
from videoseg.video.writer import VideoWriter

Carrier = Callable[[Video, Tensor, int], Iterator[tuple[int, Tensor]]]
"""From masks bool [N, H, W] on a frame of a video to (frame, such masks) of every frame, in any order."""

OCCLUDED = 0.7
"""A thing counts as occluded if at some moment less than this share of it is in view."""


@dataclass(frozen=True, slots=True)
class ThingScore:
    """How one thing was followed; `case` is gone (leaves and comes back), late, early, occluded or plain."""

    seed: int
    case: str
    J: float
    F: float


def carry_by_xmem(xmem: XMem) -> Carrier:
    """XMem, all things of a clip in one run."""

    def carry(video: Video, masks: Tensor, keyframe: int) -> Iterator[tuple[int, Tensor]]:
        job = Job(keyframe, XMemTracker(xmem, num_frames=len(video)), lambda: masks)
        for _, frame, found in TrackingRun([job], XMemFrames(xmem, FrameWalk(video)), len(video)):
            yield frame, found.masks(video.frame_size)

    return carry


@torch.no_grad()
def _sam2_masks(sam2: Sam2, video: Video, masks: Tensor, keyframe: int) -> Iterator[tuple[int, Tensor]]:
    features = VideoFeatures(sam2, FrameWalk(video))
    job = Job(
        keyframe, Sam2Tracker(sam2, "inject_once", num_frames=len(video)), lambda: sam2.prompt_mask(masks)
    )
    for _, frame, found in TrackingRun([job], features, len(video)):
        yield frame, masks if frame == keyframe else sam2.upsample(found.logits, video.frame_size) > 0


def carry_by_sam2(sam2: Sam2) -> Carrier:
    """SAM2's propagation, prompted with the masks once."""
    return lambda video, masks, keyframe: _sam2_masks(sam2, video, masks, keyframe)


def keep_still(video: Video, masks: Tensor, _: int) -> Iterator[tuple[int, Tensor]]:
    """The keyframe's masks on every frame: what no tracker may fall short of."""
    return ((frame, masks) for frame in range(len(video)))


def score_tracking(carry: Carrier, seeds: Iterable[int]) -> Iterator[ThingScore]:
    """Follow everything that the keyframe shows through each seed's clip, an H.264 file.

    The keyframe is the frame that shows most things, of several the middle one.
    """
    with TemporaryDirectory() as folder:
        for seed in seeds:
            scene = tracking_scene(seed, np.random.default_rng([seed, 2]))
            truth = _write(scene, Path(folder) / "clip.mp4")
            seen = truth.any((2, 3))
            best = np.flatnonzero(seen.sum(1) == seen.sum(1).max())
            keyframe = int(best[len(best) // 2])
            things = np.flatnonzero(seen[keyframe])
            with Video(Path(folder) / "clip.mp4") as video:
                found = dict(carry(video, torch.from_numpy(truth[keyframe, things]), keyframe))
            guess = np.stack([found[frame].cpu().numpy() for frame in range(len(truth))])
            for row, thing in enumerate(things):
                mean_j, mean_f = jf(truth[:, thing], guess[:, row])
                yield ThingScore(seed, _case(scene, int(thing), truth[:, thing]), mean_j, mean_f)


def _write(scene: Scene, path: Path) -> Any:
    """Write the clip; returns its masks bool [T, things, H, W]."""
    stage, masks = Stage(scene), []
    with VideoWriter(path, scene.fps, crf=18) as writer:
        for index in range(scene.num_frames):
            frame, visible = stage.frame(index)
            writer.write(frame)
            masks.append(visible)
    return np.stack(masks)


def _case(scene: Scene, number: int, masks: Any) -> str:
    thing = scene.things[number]
    if thing.gap is not None:
        return "gone"
    if thing.presence != "always":
        return thing.presence
    area = masks.sum((1, 2))
    return "occluded" if area.min() < OCCLUDED * area.max() else "plain"


def summarise(scores: Sequence[ThingScore]) -> dict[str, Any]:
    """Things, J, F and J&F in percent with the half width of its 95 % interval, in all and by case."""
    cases = sorted({score.case for score in scores})
    groups = {"all": list(scores), **{case: [s for s in scores if s.case == case] for case in cases}}
    return {name: _summary(group) for name, group in groups.items()}


def _summary(scores: Sequence[ThingScore]) -> dict[str, Any]:
    both = np.array([(score.J + score.F) / 2 for score in scores])
    spread = 1.96 * both.std(ddof=1) / len(both) ** 0.5 if len(both) > 1 else 0.0
    means = {"J": np.mean([s.J for s in scores]), "F": np.mean([s.F for s in scores]), "JF": both.mean()}
    rounded = {name: round(100 * float(value), 2) for name, value in {**means, "ci95": spread}.items()}
    return {"things": len(scores), **rounded}
