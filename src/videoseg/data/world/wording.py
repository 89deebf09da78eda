"""Generated world: how thinking texts speak of things and queries (spec §13).

A text tells what the eye must find, each word following from what was just looked at or said.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from videoseg.data.world.queries import Condition, Question
from videoseg.data.world.scene import COLOURS, SIZES, Scene, Thing, position_words

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
GAP_WORDS = {
    "start": "gone soon after the start",
    "before": "gone before the middle",
    "after": "gone after the middle",
    "end": "gone before the end",
}
RELATION_WORDS = {
    "like": "like",
    "left": "left of",
    "right": "right of",
    "above": "above",
    "below": "below",
    "ahead": "ahead of",
}
FINE_WORDS = "fine stripes"


def name_of(thing: Thing) -> str:
    """How the thinking text calls a thing."""
    return f"{thing.colour} {thing.size}"


def listed(scene: Scene) -> list[Thing]:
    """Things in a fixed order: by colour, large before small."""
    colours, sizes = list(COLOURS), list(SIZES)
    return sorted(scene.things, key=lambda thing: (colours.index(thing.colour), -sizes.index(thing.size)))


def ordered(scene: Scene, numbers: Iterable[int]) -> list[int]:
    """Numbers of things in the order in which texts list them."""
    order = [scene.things.index(thing) for thing in listed(scene)]
    return sorted(numbers, key=order.index)


def names(scene: Scene, numbers: Iterable[int]) -> str:
    """`red large and blue small`."""
    return " and ".join(name_of(scene.things[number]) for number in ordered(scene, numbers))


def timing(thing: Thing) -> str:
    """When a thing is in view, as the first turn's images show it."""
    return f"{name_of(thing)} {PRESENCE_WORDS[thing.presence]}"


def whereabouts(scene: Scene, thing: Thing, shown: Sequence[int]) -> str:
    """`red large left top to right top moves right` or `red large left top stays`."""
    times = [scene.time(frame) for frame in shown if thing.visible(scene.time(frame))]
    first, last = (position_words(*thing.position(time)) for time in (times[0], times[-1]))
    if thing.motion == "still":
        return f"{name_of(thing)} {first} stays"
    return f"{name_of(thing)} {first} to {last} {MOTION_WORDS[thing.motion]}"


def place_in(scene: Scene, number: int, frame: int) -> str:
    """`red large left top`: a thing and its place in a frame."""
    thing = scene.things[number]
    return f"{name_of(thing)} {position_words(*thing.position(scene.time(frame)))}"


def places_in(scene: Scene, numbers: Iterable[int], frame: int) -> str:
    """Places of several things, joined by `and`."""
    return " and ".join(place_in(scene, number, frame) for number in ordered(scene, numbers))


def glimpse(scene: Scene, frames: Sequence[int]) -> str:
    """What the inner of the shown frames tell: `red large in view; blue small gone`."""
    inner = [scene.time(frame) for frame in frames[1:-1]]
    words = {True: "gone", False: "in view"}
    return "; ".join(
        f"{name_of(thing)} {words[any(not thing.visible(time) for time in inner)]}" for thing in listed(scene)
    )


def conclusion(scene: Scene, question: Question) -> str:
    """The query in the words of steps 1 and 2, and what matches it."""
    match = names(scene, question.targets) or "nothing here"
    if question.condition.texture is not None:
        match = "too small to see here"
    elif question.condition.gap is not None:
        match = "too short to see here"
    every = "all " if len(question.targets) > 1 else ""
    return f"the query means {every}{meaning(scene, question.condition)}; that is {match}"


def meaning(scene: Scene, condition: Condition) -> str:
    """A query's condition in the words of the thinking text; the shape is left out, colours and sizes do."""
    if condition.motion is not None:
        return MOTION_WORDS[condition.motion]
    if condition.presence is not None:
        return PRESENCE_WORDS[condition.presence]
    if condition.gap is not None:
        return GAP_WORDS[condition.gap]
    if condition.texture is not None:
        return FINE_WORDS
    if condition.relation is not None and condition.other is not None:
        other = scene.things[condition.other.matches(scene)[0]]
        moves = (
            f" {MOTION_WORDS[other.heading]}"
            if condition.relation in ("like", "ahead") and other.heading
            else ""
        )
        return f"{RELATION_WORDS[condition.relation]} {name_of(other)}{moves}"
    return " ".join(word for word in (condition.colour, condition.size) if word)
