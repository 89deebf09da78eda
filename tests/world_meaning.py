"""Generated world: what a query's words mean, evaluated anew from the scene graph (a check on the generator).

Nothing here uses the generator's conditions or its labels of motion and presence: words are read with a
lexicon of their own, and whether something moves or leaves is seen from its path and its visible pixels.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from videoseg.data.world.draw import Stage
from videoseg.data.world.scene import Scene, Thing

COLOUR_WORDS = ("red", "orange", "yellow", "green", "cyan", "blue", "pink", "white")
SHAPE_WORDS = ("disc", "square", "triangle", "diamond")
FILLING = {"the", "that", "what", "all", "everything"} | {
    noun + ending for noun in ("object", "one", "thing") for ending in ("", "s")
}
LARGE = 0.15
"""Radius, as a share of the frame's shorter side, that separates small from large."""
AT_REST, MOVED = 0.01, 0.08
"""Ways, as shares of the frame's height: less is standing still, more is a movement."""
NEXT = 0.05
"""The same share by which a thing must be beside another to be said to be."""
GLIMPSE = (40, 56)


@dataclass(frozen=True, eq=False, slots=True)
class Observed:
    """What can be seen of a thing: `seen[t]` whether a pixel shows, `path` `[frames seen, 2]` of its centre.

    The path is (x, y) in shares of the frame's height; `large` compares the thing with the frame.
    """

    thing: Thing
    seen: NDArray[np.bool_]
    path: NDArray[np.float64]
    large: bool

    @property
    def way(self) -> NDArray[np.float64]:
        """From the first to the last place, (x, y)."""
        way: NDArray[np.float64] = self.path[-1] - self.path[0]
        return way

    @property
    def reach(self) -> float:
        """Largest distance from the first place."""
        return float(np.linalg.norm(self.path - self.path[0], axis=1).max())


Test = Callable[[Observed], bool]
Relation = Callable[[int, "list[Observed]"], set[int]]


def satisfying(scene: Scene, query: str) -> tuple[int, ...]:
    """Numbers of all things of the scene that the words of `query` fit.

    Raises ValueError where the query holds words that are not understood, or speaks of another thing that
    is not exactly one.
    """
    return _fitting(query.lower(), observe(scene))


def _fitting(query: str, items: list[Observed]) -> tuple[int, ...]:
    for pattern, relation in RELATIONS:
        if found := re.search(pattern, query):
            other = _fitting(found["other"], items)
            if len(other) != 1:
                raise ValueError(f"query {query!r}: {found['other']!r} is {len(other)} things, not one")
            return tuple(sorted(relation(other[0], items)))
    tests = read_query(query)
    return tuple(number for number, item in enumerate(items) if all(test(item) for test in tests))


def read_query(query: str) -> list[Test]:
    """The tests that a thing must pass; raises ValueError for words that are not understood."""
    rest, tests = query.lower(), []
    for pattern, test in PHRASES:
        rest, found = re.subn(pattern, " ", rest)
        tests += [test] * bool(found)
    for word in rest.split():
        if word in WORDS:
            tests.append(WORDS[word])
        elif word not in FILLING:
            raise ValueError(f"query {query!r}: the word {word!r} is not understood")
    return tests


def observe(scene: Scene) -> list[Observed]:
    """Everything that can be seen of each thing; things that never show have an empty path."""
    stage = Stage(scene, *GLIMPSE)
    shows = np.stack([stage.masks(frame).any(axis=(1, 2)) for frame in range(scene.num_frames)], axis=1)
    aspect = scene.width / scene.height
    large = LARGE * min(1.0, aspect)
    return [
        Observed(thing, seen, _path(scene, thing, np.flatnonzero(seen), aspect), thing.radius >= large)
        for thing, seen in zip(scene.things, shows, strict=True)
    ]


def _path(scene: Scene, thing: Thing, frames: NDArray[np.integer], aspect: float) -> NDArray[np.float64]:
    places = [thing.position(scene.time(int(frame))) for frame in frames]
    return np.array(places, dtype=float).reshape(-1, 2) * (aspect, 1.0)


def _towards(axis: int, sign: int) -> Test:
    """Moves along an axis, from where it is first seen to where it is last seen."""

    def test(item: Observed) -> bool:
        if not len(item.path):
            return False
        way = item.way * sign
        return bool(way[axis] > MOVED and way[axis] > abs(way[1 - axis]))

    return test


def _still(item: Observed) -> bool:
    return bool(len(item.path)) and item.reach < AT_REST


def _returns(item: Observed) -> bool:
    """Ends near where it began, having been away, on one line."""
    return _goes_and_comes(item) and _width(item.path) < AT_REST


def _round(item: Observed) -> bool:
    """Ends near where it began, having been away, on no single line."""
    return _goes_and_comes(item) and _width(item.path) > MOVED


def _goes_and_comes(item: Observed) -> bool:
    return bool(len(item.path)) and item.reach > MOVED and float(np.linalg.norm(item.way)) < MOVED


def _width(path: NDArray[np.float64]) -> float:
    """Extent of a path across its main direction."""
    centred = path - path.mean(axis=0)
    across = np.linalg.svd(centred, full_matrices=False)[2][1]
    return float(np.ptp(centred @ across))


def _stops(item: Observed) -> bool:
    """Moves at first, and rests during the last quarter of its frames."""
    tail = item.path[-max(2, len(item.path) // 4) :]
    rests = len(tail) > 1 and float(np.linalg.norm(tail - tail[0], axis=1).max()) < AT_REST
    return rests and item.reach > MOVED


def _late(item: Observed) -> bool:
    return bool(not item.seen[0] and item.seen[-1])


def _early(item: Observed) -> bool:
    return bool(item.seen[0] and not item.seen[-1])


def _gone(earliest: float, latest: float) -> Test:
    """Out of view for a while in the clip, the middle of which lies between these shares of it."""

    def test(item: Observed) -> bool:
        shows = np.flatnonzero(item.seen)
        if not len(shows) or shows[0] or shows[-1] != len(item.seen) - 1:
            return False
        away = np.flatnonzero(~item.seen)
        return bool(len(away)) and earliest < away.mean() / (len(item.seen) - 1) < latest

    return test


def _same_way(other: int, items: list[Observed]) -> set[int]:
    """Those that move along the same axis in the same sense."""
    for test in (_towards(axis, sign) for axis in (0, 1) for sign in (1, -1)):
        if test(items[other]):
            return {number for number, item in enumerate(items) if number != other and test(item)}
    return set()


def _beside(axis: int, sign: int) -> Relation:
    """Those that are on one side whenever both can be seen; whoever changes sides is on none for certain."""

    def relation(other: int, items: list[Observed]) -> set[int]:
        found = set()
        for number, item in enumerate(items):
            both = item.seen & items[other].seen
            places = [one.path[both[one.seen]][:, axis] * sign for one in (item, items[other])]
            if number != other and both.any() and np.all(places[0] > places[1] + NEXT):
                found.add(number)
        return found

    return relation


def _met_first(other: int, items: list[Observed]) -> set[int]:
    """The first that is touched when the last step of the other is repeated for ever."""
    mover = items[other]
    step = mover.path[-1] - mover.path[-2]
    if np.linalg.norm(step) == 0:
        return set()
    place = mover.path[-1]
    for _ in range(int(3 / np.linalg.norm(step))):
        place = place + step
        for number, item in enumerate(items):
            reach = mover.thing.radius + item.thing.radius
            if number != other and len(item.path) and np.linalg.norm(item.path[-1] - place) < reach:
                return {number}
    return set()


def _finely_striped(item: Observed) -> bool:
    return item.thing.texture == "fine"


def _colour(word: str) -> Test:
    return lambda item: item.thing.colour == word


def _shape(word: str) -> Test:
    return lambda item: item.thing.shape == word


RELATIONS: tuple[tuple[str, Relation], ...] = (
    (r"\b(moves like|moves the same way as|going in the same direction as) (?P<other>.+)", _same_way),
    (r"\b(to the )?left of (?P<other>.+)", _beside(0, -1)),
    (r"\b(to the )?right of (?P<other>.+)", _beside(0, 1)),
    (r"\babove (?P<other>.+)", _beside(1, -1)),
    (r"\bbelow (?P<other>.+)", _beside(1, 1)),
    (r"\bin the way of (?P<other>.+)", _met_first),
    (r"\bwhat (?P<other>.+) (would hit first|is going to run into)", _met_first),
)
AWAY = r"(is gone for a moment|vanishes briefly|blinks)"
PHRASES: tuple[tuple[str, Test], ...] = (
    (r"\b(do(es)? not move|stays? still|stays? in place)\b", _still),
    (r"\b(moves?|moving|goes|going) to the right\b", _towards(0, 1)),
    (r"\b(moves?|moving|goes|going) to the left\b", _towards(0, -1)),
    (r"\b(moves?|moving|goes|going) up\b", _towards(1, -1)),
    (r"\b(moves?|moving|goes|going) down\b", _towards(1, 1)),
    (rf"\b{AWAY} soon after the start\b", _gone(0, 0.2)),
    (rf"\b{AWAY} a little before the middle\b", _gone(0.2, 0.45)),
    (rf"\b{AWAY} a little after the middle\b", _gone(0.55, 0.8)),
    (rf"\b{AWAY} just before the end\b", _gone(0.8, 1)),
    (r"\b(turns back|goes and comes back)\b", _returns),
    (r"\b(moves in a circle|goes around in a circle)\b", _round),
    (r"\b(moves and then stops|stops moving halfway)\b", _stops),
    (r"\b(appears late|is not there at the start|shows up later)\b", _late),
    (r"\b(disappears|is gone at the end|leaves early)\b", _early),
    (r"\b(with fine stripes|finely striped|has fine stripes)", _finely_striped),
)
WORDS: dict[str, Test] = {
    **{word: _colour(word) for word in COLOUR_WORDS},
    **{word: _shape(word) for word in SHAPE_WORDS},
    "small": lambda item: not item.large,
    "large": lambda item: item.large,
}
