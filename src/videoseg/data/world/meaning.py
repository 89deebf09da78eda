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
FILLING = {"the", "that", "what", "object", "one", "thing"}
LARGE = 0.15
"""Radius, as a share of the frame's height, that separates small from large."""
AT_REST, MOVED = 0.01, 0.08
"""Ways, as shares of the frame's height: less is standing still, more is a movement."""
GLIMPSE = (40, 56)


@dataclass(frozen=True, eq=False, slots=True)
class Observed:
    """What can be seen of a thing: `seen[t]` whether a pixel shows, `path` `[frames seen, 2]` of its centre.

    The path is (x, y) in shares of the frame's height.
    """

    thing: Thing
    seen: NDArray[np.bool_]
    path: NDArray[np.float64]

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


def satisfying(scene: Scene, query: str) -> tuple[int, ...]:
    """Numbers of all things of the scene that the words of `query` fit.

    Raises ValueError where the query holds words that are not understood.
    """
    tests = read_query(query)
    return tuple(number for number, thing in enumerate(observe(scene)) if all(test(thing) for test in tests))


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
    return [
        Observed(thing, seen, _path(scene, thing, np.flatnonzero(seen), aspect))
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


def _finely_striped(item: Observed) -> bool:
    return item.thing.texture == "fine"


def _colour(word: str) -> Test:
    return lambda item: item.thing.colour == word


def _shape(word: str) -> Test:
    return lambda item: item.thing.shape == word


PHRASES: tuple[tuple[str, Test], ...] = (
    (r"\b(does not move|stays still|stays in place)\b", _still),
    (r"\b(moves|moving|goes|going) to the right\b", _towards(0, 1)),
    (r"\b(moves|moving|goes|going) to the left\b", _towards(0, -1)),
    (r"\b(moves|moving|goes|going) up\b", _towards(1, -1)),
    (r"\b(moves|moving|goes|going) down\b", _towards(1, 1)),
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
    "small": lambda item: item.thing.radius < LARGE,
    "large": lambda item: item.thing.radius >= LARGE,
}
