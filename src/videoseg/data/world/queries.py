"""Questions about a scene that are unambiguous by construction (design §5).

A query is a `Condition` on the scene graph plus words for it; it is asked only where the condition
holds for exactly one thing, for two or more in the family `several`, or for none in the family `none`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from videoseg.data.world.phrases import phrase
from videoseg.data.world.relations import RELATIONS
from videoseg.data.world.scene import COLOURS, DIRECTIONS, FINE, GAPS, SIZES, Scene, Thing

FAMILIES = ("appearance", "motion", "temporal", "relation", "detail", "several", "none")


@dataclass(frozen=True, slots=True)
class Condition:
    """What the query asks of a thing; `None` does not ask.

    `gap` names the part of the clip in which it is out of view for a moment. `relation` is one of
    `RELATIONS`, to the thing that `other` describes.
    """

    colour: str | None = None
    size: str | None = None
    shape: str | None = None
    motion: str | None = None
    presence: str | None = None
    texture: str | None = None
    gap: str | None = None
    relation: str | None = None
    other: Condition | None = None

    def holds(self, thing: Thing) -> bool:
        """Whether a thing fulfils every part that is asked of it alone."""
        return self.motion in (None, thing.motion, thing.heading) and all(
            wanted is None or wanted == has
            for wanted, has in (
                (self.colour, thing.colour),
                (self.size, thing.size),
                (self.shape, thing.shape),
                (self.presence, thing.presence),
                (self.texture, thing.texture),
                (self.gap, thing.gap_name),
            )
        )

    def matches(self, scene: Scene) -> tuple[int, ...]:
        """Indices of all things of the scene that fulfil the condition."""
        found = tuple(number for number, thing in enumerate(scene.things) if self.holds(thing))
        if self.relation is None or self.other is None:
            return found
        (reference,) = self.other.matches(scene)
        related = RELATIONS[self.relation](scene, reference)
        return tuple(number for number in found if number in related)


@dataclass(frozen=True, slots=True)
class Question:
    """A query with its truth: the words, the family, the condition and the indices of the targets."""

    text: str
    family: str
    condition: Condition
    targets: tuple[int, ...]


def ask(scene: Scene, family: str, rng: np.random.Generator) -> Question | None:
    """Draw one question of a family about a scene, or None where the scene allows none.

    Raises ValueError for an unknown family.
    """
    if family not in MAKERS:
        raise ValueError(f"unknown query family {family!r}; there are {', '.join(MAKERS)}")
    options = MAKERS[family](scene)
    if not options:
        return None
    condition = options[int(rng.integers(len(options)))]
    targets = condition.matches(scene)
    return Question(phrase(condition, rng, plural=family == "several"), family, condition, targets)


def described(scene: Scene, number: int) -> Condition:
    """The shortest description by looks: the colour, and the size where two things share the colour."""
    thing = scene.things[number]
    alone = Condition(thing.colour)
    return alone if alone.matches(scene) == (number,) else Condition(thing.colour, thing.size)


def _unique(scene: Scene, conditions: list[Condition]) -> list[Condition]:
    return [condition for condition in conditions if len(condition.matches(scene)) == 1]


def _appearance(scene: Scene) -> list[Condition]:
    """Colour alone where it is unique (with or without the true shape), else colour and size."""
    options: list[Condition] = []
    for thing in scene.things:
        if len(Condition(colour=thing.colour).matches(scene)) == 1:
            options += [Condition(thing.colour), Condition(thing.colour, shape=thing.shape)]
        else:
            options += [
                Condition(thing.colour, thing.size),
                Condition(thing.colour, thing.size, thing.shape),
            ]
    return _unique(scene, options)


def _motion(scene: Scene) -> list[Condition]:
    """Motions that only one thing has, if it is in view all the time."""
    unique = _unique(scene, [Condition(motion=thing.motion) for thing in scene.things])
    return [
        condition for condition in unique if scene.things[condition.matches(scene)[0]].presence == "always"
    ]


def _temporal(scene: Scene) -> list[Condition]:
    """Appears late, leaves early, or, where anything does so, is gone for a moment."""
    if any(thing.gap for thing in scene.things):
        return _unique(scene, [Condition(gap=name) for name in GAPS])
    return _unique(scene, [Condition(presence=word) for word in ("late", "early")])


def _relation(scene: Scene) -> list[Condition]:
    """Of a kind of relation drawn by how it was arranged: exactly one thing has it to a describable other."""
    options = [
        Condition(relation=kind, other=described(scene, number))
        for kind, related in RELATIONS.items()
        for number in range(len(scene.things))
        if len(related(scene, number)) == 1
    ]
    arranged = [condition for condition in options if condition.relation == "ahead"]
    return arranged or options


def _detail(scene: Scene) -> list[Condition]:
    return _unique(scene, [Condition(texture=FINE)])


def _several(scene: Scene) -> list[Condition]:
    """A motion that two or more things have, else a colour or a size."""
    moving = [Condition(motion=motion) for motion in ("still", *DIRECTIONS)]
    looks = [Condition(colour) for colour in COLOURS] + [Condition(size=size) for size in SIZES]
    always = all(thing.presence == "always" for thing in scene.things)
    shared = [condition for condition in moving if always and len(condition.matches(scene)) > 1]
    return shared or [condition for condition in looks if len(condition.matches(scene)) > 1]


def _none(scene: Scene) -> list[Condition]:
    """Colours, colour and size, motions and presences that no thing has."""
    colours = {thing.colour for thing in scene.things}
    options = [Condition(colour) for colour in COLOURS if colour not in colours]
    sized = [Condition(colour, size) for colour in sorted(colours) for size in SIZES]
    moving = [Condition(motion=motion) for motion in DIRECTIONS]
    timed = [Condition(presence=word) for word in ("late", "early")]
    rare = [condition for condition in sized + moving + timed if not condition.matches(scene)]
    return options + rare[: len(options)]


MAKERS: dict[str, Callable[[Scene], list[Condition]]] = {
    "appearance": _appearance,
    "motion": _motion,
    "temporal": _temporal,
    "relation": _relation,
    "detail": _detail,
    "several": _several,
    "none": _none,
}
