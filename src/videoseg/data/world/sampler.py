"""Draws scenes and samples of the generated world from a seed; the same seed gives the same sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from videoseg.data.world.draw import Stage
from videoseg.data.world.queries import Question, ask
from videoseg.data.world.relations import in_the_way
from videoseg.data.world.scene import (
    COLOURS,
    DIRECTIONS,
    FINE,
    GLANCE,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    Thing,
    place,
)
from videoseg.video.sampling import sample_video

TRAIN_SEEDS = range(1_000_000_000)
VALID_SEEDS = range(1_000_000_000, 1_100_000_000)
TEST_SEEDS = range(1_100_000_000, 1_200_000_000)
MAX_TRIES = 400


@dataclass(frozen=True)
class WorldSpec:
    """What kind of clips to draw; the defaults are those of the bundled tiny model."""

    width: int = 224
    height: int = 160
    fps: float = 8.0
    lengths: tuple[int, ...] = (16, 20, 24, 28, 32)
    things: tuple[int, int] = (2, 4)
    motions: tuple[str, ...] = ("still", "right", "left", "up", "down")
    families: dict[str, float] = field(
        default_factory=lambda: {
            "appearance": 0.14,
            "motion": 0.14,
            "temporal": 0.2,
            "relation": 0.14,
            "detail": 0.14,
            "several": 0.14,
            "none": 0.1,
        }
    )
    twin_share: float = 0.4
    odd_presence_share: float = 0.12
    gap_share: float = 0.5
    """Temporal questions about a short gap rather than a late entry or an early exit."""

    def __post_init__(self) -> None:
        if not 1 <= self.things[0] <= self.things[1] <= len(COLOURS):
            raise ValueError(f"things: 1 <= least <= most <= {len(COLOURS)} is needed, got {self.things}")
        if min(self.lengths) < 2 or min(self.width, self.height) < 16:
            raise ValueError("a clip needs at least 2 frames of at least 16 x 16 pixels")


@dataclass(frozen=True, slots=True)
class Sample:
    """One clip with one question about it."""

    scene: Scene
    question: Question


def draw_sample(seed: int, spec: WorldSpec, family: str | None = None) -> Sample:
    """Draw a clip and a question of `family` (by default drawn by the weights of the spec).

    Raises RuntimeError if no scene of the spec allows such a question.
    """
    rng = np.random.default_rng([seed, 1])
    if family is None:
        names, weights = list(spec.families), np.array(list(spec.families.values()), dtype=float)
        family = str(rng.choice(names, p=weights / weights.sum()))
    count = int(rng.integers(spec.things[0], spec.things[1] + 1))
    for _ in range(MAX_TRIES):
        scene = _draw_scene(seed, count, spec, family, rng)
        if not _well_visible(scene):
            continue
        question = ask(scene, family, rng)
        if question is not None:
            return Sample(scene, question)
    raise RuntimeError(f"seed {seed}: no clip of this spec allows a question of the family {family!r}")


def draw_samples(seeds: range, spec: WorldSpec, family: str | None = None) -> Iterator[Sample]:
    """Samples of consecutive seeds."""
    for seed in seeds:
        yield draw_sample(seed, spec, family)


def _draw_scene(seed: int, count: int, spec: WorldSpec, family: str, rng: np.random.Generator) -> Scene:
    gaps = family == "temporal" and rng.random() < spec.gap_share
    looks = _draw_looks(count, spec, rng)
    presences = ["always"] * count if gaps else _draw_presences(count, spec, family, rng)
    things = tuple(
        _draw_thing(colour, size, presence, spec, rng)
        for (colour, size), presence in zip(looks, presences, strict=True)
    )
    if family == "detail":
        chosen = int(rng.integers(count))
        # The others are plain: what shows on them at once would give the marked one away.
        things = tuple(replace(t, texture=FINE if i == chosen else "plain") for i, t in enumerate(things))
    elif family == "relation" and count > 1 and rng.random() < 0.25:
        things = _in_line(things, spec, rng)
    length = int(rng.choice(spec.lengths))
    if gaps:
        things = _with_gaps(things, length, rng)
    return Scene(seed, spec.width, spec.height, length, spec.fps, things)


def _with_gaps(things: tuple[Thing, ...], length: int, rng: np.random.Generator) -> tuple[Thing, ...]:
    """One thing, often two, out of view for a moment that no image of the first turn shows."""
    low, high = (sample_video(length, count) for count in GLANCE)
    between = [(a, b) for a, b in pairwise(low) if b - a > 1]
    free = [(a, b) for a, b in between if not any(a < frame < b for frame in high)]
    number = min(len(things), len(free), 1 + int(rng.random() < 0.6))
    slots = [free[int(slot)] for slot in rng.permutation(len(free))[:number]]
    chosen = rng.permutation(len(things))[:number].tolist()
    gaps = {
        n: ((a + 0.5) / (length - 1), (b - 0.5) / (length - 1))
        for n, (a, b) in zip(chosen, slots, strict=True)
    }
    return tuple(replace(thing, gap=gaps.get(i)) for i, thing in enumerate(things))


def _in_line(things: tuple[Thing, ...], spec: WorldSpec, rng: np.random.Generator) -> tuple[Thing, ...]:
    """The first thing moves towards the second, which stands still, and has come halfway at the end."""
    aspect = spec.width / spec.height
    motion = str(rng.choice(list(DIRECTIONS)))
    start, end = place(motion, things[0].radius, aspect, rng)
    halfway = (start[0] + 0.45 * (end[0] - start[0]), start[1] + 0.45 * (end[1] - start[1]))
    mover = replace(things[0], motion=motion, start=start, end=halfway)
    spot = in_the_way(mover, things[1].radius, aspect, rng)
    return (mover, replace(things[1], motion="still", start=spot, end=spot), *things[2:])


def _draw_looks(count: int, spec: WorldSpec, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Distinct (colour, size) pairs; some clips hold a small and a large thing of one colour."""
    colours = [str(colour) for colour in rng.permutation(list(COLOURS))[:count]]
    sizes = [str(rng.choice(list(SIZES))) for _ in range(count)]
    if count > 1 and rng.random() < spec.twin_share:
        colours[1] = colours[0]
        sizes[1] = "small" if sizes[0] == "large" else "large"
    looks = list(zip(colours, sizes, strict=True))
    return [looks[int(number)] for number in rng.permutation(count)]


def _draw_presences(count: int, spec: WorldSpec, family: str, rng: np.random.Generator) -> list[str]:
    odd = ("late", "early")
    if family == "detail":  # one keyframe must show everything
        return ["always"] * count
    presences = [
        str(rng.choice(odd)) if rng.random() < spec.odd_presence_share else "always" for _ in range(count)
    ]
    if family == "temporal" and not any(word in odd for word in presences):
        presences[int(rng.integers(count))] = str(rng.choice(odd))
    return presences


def _draw_thing(colour: str, size: str, presence: str, spec: WorldSpec, rng: np.random.Generator) -> Thing:
    # In upright frames the width is what a thing must fit into.
    radius = float(rng.uniform(*SIZES[size])) * min(1.0, spec.width / spec.height)
    motion = str(rng.choice(spec.motions))
    if motion in ("bounce", "circle", "stop"):
        presence = "always"  # of a part of such a path nobody can say what it is
    start, end = place(motion, radius, spec.width / spec.height, rng)
    enter = float(rng.uniform(0.4, 0.65)) if presence == "late" else 0.0
    leave = float(rng.uniform(0.35, 0.6)) if presence == "early" else 1.0
    shape, texture = str(rng.choice(SHAPES)), str(rng.choice(TEXTURES))
    brightness = float(rng.uniform(0.75, 0.87))
    return Thing(shape, colour, size, radius, texture, brightness, motion, start, end, presence, enter, leave)


def _well_visible(scene: Scene, *, moments: int = 8, least: float = 0.4, average: float = 0.8) -> bool:
    """Whether every thing can be seen well: its unoccluded share at a few moments of its life."""
    width, height = 56, 40
    stage = Stage(scene, height, width)
    alone = [Stage(_only(scene, thing), height, width) for thing in scene.things]
    frames = np.linspace(0, scene.num_frames - 1, moments, dtype=int)
    shares: list[list[float]] = [[] for _ in scene.things]
    for frame in frames:
        seen = stage.masks(int(frame)).sum((1, 2))
        for number, single in enumerate(alone):
            full = int(single.masks(int(frame)).sum())
            if full:
                shares[number].append(seen[number] / full)
    return all(len(share) > 1 and min(share) >= least and np.mean(share) >= average for share in shares)


def _only(scene: Scene, thing: Thing) -> Scene:
    return Scene(scene.seed, scene.width, scene.height, scene.num_frames, scene.fps, (thing,))
