"""True traces of the generated world: interval, keyframe, three-step thinking text of every turn (spec §13).

The text says what the eye must find, in words: what is there, where, how it moves and when.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from videoseg.data.world.draw import Stage
from videoseg.data.world.queries import Condition
from videoseg.data.world.sampler import Sample
from videoseg.data.world.scene import COLOURS, SIZES, Scene, Thing, position_words
from videoseg.types import Answer, Interval, Select

MOTION_WORDS = {
    "still": "stays",
    "right": "moves right",
    "left": "moves left",
    "up": "moves up",
    "down": "moves down",
    "bounce": "turns back",
    "circle": "moves around",
    "stop": "moves and stops",
}
PRESENCE_WORDS = {"always": "in view", "late": "appears late", "early": "leaves early"}


@dataclass(frozen=True, slots=True)
class WorldTrace:
    """The replies of a dialogue, select turns first, and the thing they mean (None: no such object)."""

    replies: tuple[Select | Answer, ...]
    target: int | None


def true_trace(sample: Sample, shown: Sequence[int], *, single_turn: bool = False) -> WorldTrace:
    """The trace of a sample whose first turn shows the frames `shown` at low resolution.

    Where nothing fits the query the answer comes at once and without [SEG]. Otherwise the first turn asks
    for the target's interval and keyframe and the second confirms, unless `single_turn`.
    """
    if not sample.question.targets:
        return WorldTrace((_nothing(sample, shown),), None)
    target = sample.question.targets[0]
    if sample.question.family == "detail":
        return WorldTrace(_closer_look(sample, target, shown), target)
    interval, keyframe = best_view(sample.scene, target, shown)
    if single_turn:
        think = _first_thoughts(sample, shown) + ". Action: Confirmed."
        return WorldTrace((Answer(interval, keyframe, think),), target)
    reason = f". Action: See new segment because it is clearest at frame {keyframe}."
    first = Select(interval, keyframe, _first_thoughts(sample, shown) + reason)
    second = Answer(interval, keyframe, _second_thoughts(sample.scene, target, interval, keyframe))
    return WorldTrace((first, second), target)


def best_view(scene: Scene, target: int, shown: Sequence[int]) -> tuple[Interval, int]:
    """Interval and keyframe of a target, both from the shown frames: what a viewer of these can know.

    The keyframe is the one nearest to the middle of the interval among those in which at least nine tenths
    of the target's largest visible area can be seen. Raises ValueError if it is visible in none.
    """
    stage = Stage(scene, 64, 96)
    areas = {frame: int(stage.mask(target, frame).sum()) for frame in shown}
    seen = [frame for frame, area in areas.items() if area]
    if not seen:
        raise ValueError(f"thing {target} of scene {scene.seed} is in none of the frames {list(shown)}")
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


def _closer_look(sample: Sample, target: int, shown: Sequence[int]) -> tuple[Select, Answer]:
    """A detail: the first turn says that it cannot be seen, the second finds it in the keyframe."""
    keyframe, interval = clearest(sample.scene, shown), Interval(shown[0], shown[-1])
    reason = f". Action: See new segment because it is clearest at frame {keyframe}."
    thing = sample.scene.things[target]
    place = position_words(*thing.position(sample.scene.time(keyframe)))
    think = (
        f"Step 1: in view from {interval.start} to {interval.end}. "
        f"Step 2: fine stripes on {name_of(thing)} {place} in frame {keyframe}. "
        f"Step 3: {name_of(thing)} fits the query. Action: Confirmed."
    )
    return (
        Select(interval, keyframe, _first_thoughts(sample, shown) + reason),
        Answer(interval, keyframe, think),
    )


def name_of(thing: Thing) -> str:
    """How the thinking text calls a thing."""
    return f"{thing.colour} {thing.size}"


def listed(scene: Scene) -> list[Thing]:
    """Things in a fixed order: by colour, large before small."""
    colours, sizes = list(COLOURS), list(SIZES)
    return sorted(scene.things, key=lambda thing: (colours.index(thing.colour), -sizes.index(thing.size)))


def _first_thoughts(sample: Sample, shown: Sequence[int]) -> str:
    """Steps 1 to 3 of the first turn."""
    scene = sample.scene
    timing = "; ".join(f"{name_of(thing)} {PRESENCE_WORDS[thing.presence]}" for thing in listed(scene))
    places = "; ".join(_whereabouts(scene, thing, shown) for thing in listed(scene))
    return f"Step 1: {timing}. Step 2: {places}. Step 3: {_conclusion(sample)}"


def _conclusion(sample: Sample) -> str:
    """The query in the words of steps 1 and 2, and what matches it."""
    question = sample.question
    match = "nothing here"
    if question.family == "detail":
        match = "too small to see here"
    elif question.targets:
        match = name_of(sample.scene.things[question.targets[0]])
    return f"the query means {meaning(question.condition)}; that is {match}"


def meaning(condition: Condition) -> str:
    """A query's condition in the words of the thinking text; the shape is left out, colours and sizes do."""
    if condition.motion is not None:
        return MOTION_WORDS[condition.motion]
    if condition.presence is not None:
        return PRESENCE_WORDS[condition.presence]
    if condition.texture is not None:
        return "fine stripes"
    return " ".join(word for word in (condition.colour, condition.size) if word)


def _whereabouts(scene: Scene, thing: Thing, shown: Sequence[int]) -> str:
    """`red large left top to right top moves right` or `red large left top stays`."""
    times = [scene.time(frame) for frame in shown if thing.visible(scene.time(frame))]
    first, last = (position_words(*thing.position(time)) for time in (times[0], times[-1]))
    if thing.motion == "still":
        return f"{name_of(thing)} {first} stays"
    return f"{name_of(thing)} {first} to {last} {MOTION_WORDS[thing.motion]}"


def _second_thoughts(scene: Scene, target: int, interval: Interval, keyframe: int) -> str:
    thing = scene.things[target]
    place = position_words(*thing.position(scene.time(keyframe)))
    return (
        f"Step 1: in view from {interval.start} to {interval.end}. "
        f"Step 2: {name_of(thing)} {place} in frame {keyframe}. "
        f"Step 3: {name_of(thing)} fits the query. Action: Confirmed."
    )


def _nothing(sample: Sample, shown: Sequence[int]) -> Answer:
    last = sample.scene.num_frames - 1
    middle = int(np.asarray(shown)[len(shown) // 2])
    think = _first_thoughts(sample, shown) + ". Action: Confirmed."
    return Answer(Interval(0, last), middle, think, has_seg=False)
