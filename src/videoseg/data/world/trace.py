"""True traces of the generated world: interval, keyframe and thinking text of every turn (spec §13)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from videoseg.data.world.draw import Stage
from videoseg.data.world.sampler import Sample
from videoseg.data.world.scene import Scene
from videoseg.data.world.wording import (
    FINE_WORDS,
    conclusion,
    glimpse,
    listed,
    names,
    places_in,
    timing,
    whereabouts,
)
from videoseg.types import Answer, Interval, Select
from videoseg.video.sampling import sample_interval


@dataclass(frozen=True, slots=True)
class WorldTrace:
    """The replies of a dialogue, select turns first, and the things they mean (none: no such object)."""

    replies: tuple[Select | Answer, ...]
    targets: tuple[int, ...]


def true_trace(
    sample: Sample, shown: Sequence[int], *, single_turn: bool = False, later_frames: int = 3
) -> WorldTrace:
    """The trace of a sample whose first turn shows the frames `shown` at low resolution.

    Where nothing fits the query the answer comes at once and without [SEG]. Otherwise the first turn asks
    for the targets' interval and keyframe and the second, which shows `later_frames`, confirms, unless
    `single_turn`.
    """
    scene, targets = sample.scene, sample.question.targets
    if not targets:
        return WorldTrace((_nothing(sample, shown),), ())
    interval, keyframe = _view(sample, shown)
    first = _first_thoughts(sample, shown)
    if single_turn:
        return WorldTrace((Answer(interval, keyframe, first + ". Action: Confirmed."),), targets)
    reason = f". Action: See new segment because it is clearest at frame {keyframe}."
    frames = sample_interval(interval.start, interval.end, later_frames)
    when = f"in view from {interval.start} to {interval.end}"
    if sample.question.condition.gap is not None:
        when = glimpse(scene, frames)
    mark = f"{FINE_WORDS} on " if sample.question.condition.texture is not None else ""
    second = (
        f"Step 1: {when}. Step 2: {mark}{places_in(scene, targets, keyframe)} in frame {keyframe}. "
        f"Step 3: {names(scene, targets)} fits the query. Action: Confirmed."
    )
    replies = (Select(interval, keyframe, first + reason), Answer(interval, keyframe, second))
    return WorldTrace(replies, targets)


def _view(sample: Sample, shown: Sequence[int]) -> tuple[Interval, int]:
    """Interval and keyframe, both from the shown frames: what a viewer of these can know."""
    scene, question = sample.scene, sample.question
    if question.condition.gap is not None:
        return around_gap(scene, question.targets[0], shown)
    if question.condition.texture is not None:
        return Interval(shown[0], shown[-1]), clearest(scene, shown)
    return best_view(scene, question.targets, shown)


def best_view(scene: Scene, targets: Sequence[int], shown: Sequence[int]) -> tuple[Interval, int]:
    """From the first to the last shown frame with any of the targets, and the best of these frames.

    The keyframe is the one nearest to the middle of the interval among those in which at least nine tenths
    of the targets' largest visible area can be seen. Raises ValueError if they are visible in none.
    """
    stage = Stage(scene, 64, 96)
    areas = {frame: int(stage.masks(frame)[list(targets)].sum()) for frame in shown}
    seen = [frame for frame, area in areas.items() if area]
    if not seen:
        raise ValueError(f"things {targets} of scene {scene.seed} are in none of the frames {list(shown)}")
    middle = (seen[0] + seen[-1]) / 2
    clear = [frame for frame in seen if areas[frame] >= 0.9 * max(areas.values())]
    return Interval(seen[0], seen[-1]), min(clear, key=lambda frame: abs(frame - middle))


def clearest(scene: Scene, shown: Sequence[int]) -> int:
    """The shown frame in which the most hidden thing is hidden least; of equals the nearest to the middle."""
    stage = Stage(scene, 64, 96)
    views = {frame: stage.masks(frame).sum((1, 2)) for frame in shown}
    largest = np.maximum.reduce(list(views.values()))
    worst = {frame: float((view / largest).min()) for frame, view in views.items()}
    clear = [frame for frame in shown if worst[frame] >= 0.9 * max(worst.values())]
    return min(clear, key=lambda frame: abs(frame - (shown[0] + shown[-1]) / 2))


def around_gap(scene: Scene, target: int, shown: Sequence[int]) -> tuple[Interval, int]:
    """The shown frames before and after a thing is out of view for a moment; the first is the keyframe."""
    gap = scene.things[target].gap
    if gap is None:
        raise ValueError(f"thing {target} of scene {scene.seed} is never out of view for a moment")
    before = max(frame for frame in shown if scene.time(frame) <= gap[0])
    after = min(frame for frame in shown if scene.time(frame) >= gap[1])
    return Interval(before, after), before


def _first_thoughts(sample: Sample, shown: Sequence[int]) -> str:
    """Steps 1 to 3 of the first turn."""
    scene = sample.scene
    times = "; ".join(timing(thing) for thing in listed(scene))
    places = "; ".join(whereabouts(scene, thing, shown) for thing in listed(scene))
    return f"Step 1: {times}. Step 2: {places}. Step 3: {conclusion(scene, sample.question)}"


def _nothing(sample: Sample, shown: Sequence[int]) -> Answer:
    last = sample.scene.num_frames - 1
    middle = int(np.asarray(shown)[len(shown) // 2])
    think = _first_thoughts(sample, shown) + ". Action: Confirmed."
    return Answer(Interval(0, last), middle, think, has_seg=False)
