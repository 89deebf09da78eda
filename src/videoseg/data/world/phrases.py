"""Generated world: the words of queries, drawn from a few templates per condition."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from videoseg.data.world.queries import Condition

GENERIC = ("object", "one", "thing")
Templates = tuple[str, ...]

MOTION_PHRASES: dict[str, Templates] = {
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
PLURAL_MOTION: dict[str, Templates] = {
    **{
        direction: (
            f"all {{noun}}s that move {to}",
            f"everything that moves {to}",
            f"the {{noun}}s going {to}",
        )
        for direction, to in (
            ("right", "to the right"),
            ("left", "to the left"),
            ("up", "up"),
            ("down", "down"),
        )
    },
    "still": (
        "all {noun}s that do not move",
        "everything that stays still",
        "the {noun}s that stay in place",
    ),
}
PLURAL_LOOKS: Templates = ("all {look} {noun}s", "the {look} {noun}s", "everything {look}")
PRESENCE_PHRASES: dict[str, Templates] = {
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
GAP_PHRASES: dict[str, Templates] = {
    name: (
        f"the {{noun}} that is gone for a moment {when}",
        f"what vanishes briefly {when}",
        f"the {{noun}} that blinks {when}",
    )
    for name, when in (
        ("start", "soon after the start"),
        ("before", "a little before the middle"),
        ("after", "a little after the middle"),
        ("end", "just before the end"),
    )
}
FINE_PHRASES: Templates = (
    "the {noun} with fine stripes",
    "the finely striped {noun}",
    "what has fine stripes",
)
RELATION_PHRASES: dict[str, Templates] = {
    "like": (
        "what moves like {other}",
        "the {noun} that moves the same way as {other}",
        "the {noun} going in the same direction as {other}",
    ),
    "left": ("what is to the left of {other}", "the {noun} left of {other}"),
    "right": ("what is to the right of {other}", "the {noun} right of {other}"),
    "above": ("what is above {other}", "the {noun} above {other}"),
    "below": ("what is below {other}", "the {noun} below {other}"),
    "ahead": (
        "what {other} would hit first",
        "the {noun} in the way of {other}",
        "what {other} is going to run into",
    ),
}


def phrase(condition: Condition, rng: np.random.Generator, *, plural: bool = False) -> str:
    """Words for a condition; `plural` where several things are meant."""
    templates = _templates(condition, plural)
    if templates is None:
        return _named(condition, rng)
    template = templates[int(rng.integers(len(templates)))]
    noun = str(rng.choice(GENERIC))
    other = _named(condition.other, rng) if condition.other else ""
    return template.format(noun=noun, other=other, look=condition.colour or condition.size)


def _templates(condition: Condition, plural: bool) -> Templates | None:
    """None where the looks name the thing."""
    if condition.motion is not None:
        return (PLURAL_MOTION if plural else MOTION_PHRASES)[condition.motion]
    if condition.presence is not None:
        return PRESENCE_PHRASES[condition.presence]
    if condition.texture is not None:
        return FINE_PHRASES
    if condition.gap is not None:
        return GAP_PHRASES[condition.gap]
    if condition.relation is not None:
        return RELATION_PHRASES[condition.relation]
    return PLURAL_LOOKS if plural else None


def _named(condition: Condition, rng: np.random.Generator) -> str:
    words = [condition.size, condition.colour, condition.shape or str(rng.choice(GENERIC))]
    article = "the " if rng.random() < 0.85 else ""
    return article + " ".join(word for word in words if word)
