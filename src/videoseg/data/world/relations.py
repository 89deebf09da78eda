"""Generated world: how things of a scene relate, from the scene graph (design §5, relation and reasoning).

Each function tells which things certainly have a relation to thing number `other`. Where it is not certain
of any thing whether it has it, there is no answer and none is named.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from videoseg.data.world.scene import DIRECTIONS, Scene, Thing

CLEAR = 0.12
"""Heights of the frame by which a thing is beside another in every frame, to be called so."""
LANE = (0.6, 1.25)
"""A thing is in another's way if its distance from the line is below the first share of both radii, and
not if it is above the second."""
Relation = Callable[[Scene, int], tuple[int, ...]]


def same_way(scene: Scene, other: int) -> tuple[int, ...]:
    """Things that move in the same direction."""
    heading = scene.things[other].heading
    if heading is None or not _all_in_view(scene):
        return ()
    return tuple(
        number for number, thing in enumerate(scene.things) if number != other and thing.heading == heading
    )


def beside(direction: str, scene: Scene, other: int) -> tuple[int, ...]:
    """Things that are to that side of the other in every frame; none if any is there in some frames only."""
    if not _all_in_view(scene):
        return ()
    way = np.array(DIRECTIONS[direction]) * (_aspect(scene), 1.0)
    paths = _paths(scene)
    shifts = {n: (path - paths[other]) @ way for n, path in enumerate(paths) if n != other}
    if any(shift.min() <= CLEAR and shift.max() > 0 for shift in shifts.values()):
        return ()
    return tuple(number for number, shift in shifts.items() if shift.min() > CLEAR)


def ahead(scene: Scene, other: int) -> tuple[int, ...]:
    """The still thing that the other, moving straight on after the end of the clip, meets first."""
    mover = scene.things[other]
    if mover.motion not in DIRECTIONS or not _all_in_view(scene):
        return ()
    unit, last = np.array((_aspect(scene), 1.0)), np.array(mover.end)
    way = (last - mover.start) * unit
    way = way / np.linalg.norm(way)
    met: list[tuple[float, int]] = []
    for number, thing in enumerate(scene.things):
        if number == other:
            continue
        offset = (np.array(thing.position(1.0)) - last) * unit
        along, across = float(offset @ way), float(abs(offset[0] * way[1] - offset[1] * way[0]))
        reach = mover.radius + thing.radius
        if np.linalg.norm(offset) < LANE[1] * reach:
            return ()  # touched already
        if along < 0 or across > LANE[1] * reach:
            continue
        if across > LANE[0] * reach or thing.motion != "still":
            return ()  # a graze, or a thing that may be gone by then: nobody can be sure
        met.append((along - math.sqrt(reach**2 - across**2), number))
    met.sort()
    if not met or (len(met) > 1 and met[1][0] - met[0][0] < CLEAR):
        return ()
    return (met[0][1],)


def _all_in_view(scene: Scene) -> bool:
    return all(thing.presence == "always" and not thing.gap for thing in scene.things)


def _aspect(scene: Scene) -> float:
    return scene.width / scene.height


def _paths(scene: Scene) -> NDArray[np.float64]:
    """Centres of all things over the frames, `[things, frames, 2]`, in heights of the frame."""
    times = [scene.time(frame) for frame in range(scene.num_frames)]
    places = [[thing.position(time) for time in times] for thing in scene.things]
    return np.array(places) * (_aspect(scene), 1.0)


RELATIONS: dict[str, Relation] = {
    "like": same_way,
    "left": partial(beside, "left"),
    "right": partial(beside, "right"),
    "above": partial(beside, "up"),
    "below": partial(beside, "down"),
    "ahead": ahead,
}


def in_the_way(mover: Thing, radius: float, aspect: float, rng: np.random.Generator) -> tuple[float, float]:
    """A place (x, y) ahead of a moving thing for a still one of `radius`, near the end of the free way."""
    step_x, step_y = DIRECTIONS[mover.motion]
    if step_x:
        margin = radius / aspect * 1.05
        return (1 - margin if step_x > 0 else margin), float(
            np.clip(mover.end[1], radius * 1.05, 1 - radius * 1.05)
        )
    margin = radius * 1.05
    low = radius / aspect * 1.05
    return float(np.clip(mover.end[0], low, 1 - low)), (1 - margin if step_y > 0 else margin)
