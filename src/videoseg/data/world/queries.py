"""Questions about a scene that are unambiguous by construction (design §5).

A query is a `Condition` on the scene graph plus words for it; it is asked only where the condition
holds for exactly one thing, or for none in the family `none` ("no such object").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from videoseg.data.world.scene import COLOURS, DIRECTIONS, FINE, SIZES, Scene, Thing

FAMILIES = ("appearance", "motion", "temporal", "detail", "none")
GENERIC = ("object", "one", "thing")
MOTION_PHRASES: dict[str, tuple[str, ...]] = {
    **{
        direction: (
            f"the {{noun}} that moves {to}",
            f"the {{noun}} moving {to}",
            f"what moves {to}",
            f"the {{noun}} going {to}",
        )
        for direction, to in (
            ("right", "to the right"),
            ("left", "to the left"),
            ("up", "up"),
            ("down", "down"),
        )
    },
    "still": ("the {noun} that does not move", "the {noun} that stays still", "what stays in place"),
    "bounce": ("the {noun} that turns back", "what goes and comes back"),
    "circle": ("the {noun} that moves in a circle", "what goes around in a circle"),
    "stop": ("the {noun} that moves and then stops", "what stops moving halfway"),
}
PRESENCE_PHRASES: dict[str, tuple[str, ...]] = {
    "late": (
        "the {noun} that appears late",
        "the {noun} that is not there at the start",
        "what shows up later",
    ),
    "early": (
        "the {noun} that disappears",
        "the {noun} that is gone at the end",
        "what leaves early",
    ),
}
FINE_PHRASES = (
    "the {noun} with fine stripes",
    "the finely striped {noun}",
    "what has fine stripes",
)


@dataclass(frozen=True, slots=True)
class Condition:
    """What the query asks of a thing; `None` does not ask."""

    colour: str | None = None
    size: str | None = None
    shape: str | None = None
    motion: str | None = None
    presence: str | None = None
    texture: str | None = None

    def holds(self, thing: Thing) -> bool:
        """Whether a thing fulfils every part that is asked."""
        return all(
            wanted is None or wanted == getattr(thing, name)
            for name, wanted in (
                ("colour", self.colour),
                ("size", self.size),
                ("shape", self.shape),
                ("motion", self.motion),
                ("presence", self.presence),
                ("texture", self.texture),
            )
        )

    def matches(self, scene: Scene) -> tuple[int, ...]:
        """Indices of all things of the scene that fulfil the condition."""
        return tuple(number for number, thing in enumerate(scene.things) if self.holds(thing))


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
    makers = {
        "appearance": _appearance,
        "motion": _motion,
        "temporal": _temporal,
        "detail": _detail,
        "none": _none,
    }
    if family not in makers:
        raise ValueError(f"unknown query family {family!r}; there are {', '.join(makers)}")
    options = makers[family](scene)
    if not options:
        return None
    condition = options[int(rng.integers(len(options)))]
    return Question(phrase(condition, rng), family, condition, condition.matches(scene))


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
    return _unique(scene, [Condition(presence=word) for word in PRESENCE_PHRASES])


def _detail(scene: Scene) -> list[Condition]:
    return _unique(scene, [Condition(texture=FINE)])


def _none(scene: Scene) -> list[Condition]:
    """Colours, colour and size, motions and presences that no thing has."""
    colours = {thing.colour for thing in scene.things}
    options = [Condition(colour) for colour in COLOURS if colour not in colours]
    sized = [Condition(colour, size) for colour in sorted(colours) for size in SIZES]
    moving = [Condition(motion=motion) for motion in DIRECTIONS]
    timed = [Condition(presence=word) for word in PRESENCE_PHRASES]
    rare = [condition for condition in sized + moving + timed if not condition.matches(scene)]
    return options + rare[: len(options)]


def phrase(condition: Condition, rng: np.random.Generator) -> str:
    """Words for a condition, drawn from a few templates."""
    if condition.motion is not None:
        return _fill(MOTION_PHRASES[condition.motion], rng)
    if condition.presence is not None:
        return _fill(PRESENCE_PHRASES[condition.presence], rng)
    if condition.texture is not None:
        return _fill(FINE_PHRASES, rng)
    words = [condition.size, condition.colour, condition.shape or str(rng.choice(GENERIC))]
    article = "the " if rng.random() < 0.85 else ""
    return article + " ".join(word for word in words if word)


def _fill(templates: tuple[str, ...], rng: np.random.Generator) -> str:
    template = templates[int(rng.integers(len(templates)))]
    return template.format(noun=str(rng.choice(GENERIC)))
