"""R1's rewards: format, accuracy with Hungarian matching, negative point, non-repeat (R1 spec §4).

Each is a plain function of the reply's text, and a `Reward` for the trainer, whose `Outcome.columns` hold
the `truth` (`SceneTruth`), the `extent` of the answer's coordinates and the number of `think_tokens`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_cdt

from videoseg.dialogue.cues import answer_items, numbers
from videoseg.dialogue.grammar import thought
from videoseg.errors import ReplyError
from videoseg.masks import BoolArray
from videoseg.training.matching import MAX_OBJECTS, Floats, Limits, assign, hits
from videoseg.training.r1_truth import box_of, point_of
from videoseg.training.rewards.base import Outcome, Reward, reward

SIDE = 840
"""Side of the square in which everything is measured."""
NEAR = 40
"""Largest taxicab distance of a valid negative point from the objects, in pixels of that square."""
KEYS = {"bbox_2d": 4, "point_2d": 2, "neg_point_2d": 2}
_FORM = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)
_SENTENCE_END = re.compile(r"[.!?]+(?=\s|$)")


@dataclass(frozen=True, eq=False, slots=True)
class SceneTruth:
    """True boxes [N, 4] and points [N, 2] in the square, and per pixel the distance from the objects' union.

    `distance` is int [SIDE, SIDE], 0 on an object; None where no object is given.
    """

    boxes: Floats
    points: Floats
    distance: NDArray[np.int32] | None = None


def scene_truth(masks: Sequence[BoolArray]) -> SceneTruth:
    """The truth of objects' masks bool [H, W] on the target frame; empty ones are left out (§7)."""
    seen = [mask for mask in masks if mask.any()]
    if not seen:
        return SceneTruth(np.zeros((0, 4)), np.zeros((0, 2)))
    height, width = seen[0].shape
    scale = np.array([SIDE / width, SIDE / height] * 2)
    boxes = np.rint(np.array([box_of(mask) for mask in seen]) * scale)
    points = np.rint(np.array([point_of(mask) for mask in seen]) * scale[:2])
    rows, columns = (np.arange(SIDE) * size // SIDE for size in (height, width))
    union = np.logical_or.reduce(seen)[rows[:, None], columns]
    return SceneTruth(boxes, points, distance_transform_cdt(~union, metric="taxicab").astype(np.int32))


def think_format(text: str) -> float:
    """1 if the reply is a thought and an answer and nothing else."""
    return float(_FORM.fullmatch(text) is not None)


def seg_format(text: str, keys: Sequence[str] = tuple(KEYS)) -> float:
    """Share of items with a box of four entries, plus the same for both points of two: 0..3."""
    items = _items(text)
    right = [len(item[key]) == KEYS[key] for item in items for key in keys if _has_list(item, key)]
    return sum(right) / len(items) if items else 0.0


def _has_list(item: Any, key: str) -> bool:
    return isinstance(item, dict) and isinstance(item.get(key), list)


def accuracy(text: str, truth: SceneTruth, extent: int = SIDE, limits: Limits | None = None) -> float:
    """Tests passed by the best one-to-one assignment, over the larger of both numbers of objects: 0..3.

    An item without a box or point passes what it can; it does not spoil the others (§4).
    """
    items = _items(text)[:MAX_OBJECTS]
    if not items or not len(truth.boxes):
        return 0.0
    boxes, points = _read(items, "bbox_2d", extent), _read(items, "point_2d", extent)
    passed = hits(boxes, points, truth.boxes[:MAX_OBJECTS], truth.points[:MAX_OBJECTS], limits or Limits())
    return float(assign(passed).sum()) / max(passed.shape)


def negative_point(text: str, truth: SceneTruth, extent: int = SIDE, near: int = NEAR) -> float:
    """Share of the negative points that lie off the objects but close to them: 0..1, 0 without any."""
    points = _read(_items(text), "neg_point_2d", extent)
    points = np.rint(points[~np.isnan(points).any(1)])
    if not len(points) or truth.distance is None:
        return 0.0
    inside = ((points >= 0) & (points < SIDE)).all(1)
    x, y = points[inside].astype(int).T
    distance = truth.distance[y, x]
    return float(((distance > 0) & (distance <= near)).sum()) / len(points)


def non_repeat(text: str) -> float:
    """0 if two or more sentences of the thought repeat an earlier one exactly, else 1."""
    return float(repeats(_SENTENCE_END.split(thought(text) or "")) < 2)


def repeats(pieces: Sequence[str]) -> int:
    """How many of the pieces, white space around them aside, repeat an earlier one."""
    said = [piece.strip() for piece in pieces if piece.strip()]
    return len(said) - len(set(said))


def _items(text: str) -> list[Any]:
    """The items of the answer, none where it cannot be read."""
    try:
        return answer_items(text)
    except ReplyError:
        return []


def _read(items: Sequence[Any], key: str, extent: int) -> Floats:
    """Numbers under `key` of every item in the square, [K, count]; NaN where an item lacks them."""
    count = KEYS[key]
    rows = [numbers(item, key, count) or (np.nan,) * count for item in items]
    read: Floats = np.array(rows, dtype=float).reshape(-1, count) * (SIDE / extent)
    return read


@reward("r1_think_format", low=0, high=1)
def _think_format(outcome: Outcome) -> float:
    return think_format(outcome.replies[0])


@reward("r1_seg_format", low=0, high=3)
def _seg_format(outcome: Outcome) -> float:
    return seg_format(outcome.replies[0])


@reward("r1_accuracy", low=0, high=3)
def _accuracy(outcome: Outcome) -> float:
    return accuracy(outcome.replies[0], outcome.columns["truth"], outcome.columns["extent"])


@reward("r1_negative_point", low=0, high=1)
def _negative_point(outcome: Outcome) -> float:
    return negative_point(outcome.replies[0], outcome.columns["truth"], outcome.columns["extent"])


@reward("r1_non_repeat", low=0, high=1)
def _non_repeat(outcome: Outcome) -> float:
    return non_repeat(outcome.replies[0])


@reward("r1_length", low=-9, high=0)
def _length(outcome: Outcome) -> float | None:
    """(s - 1) times the sum of the others, so that the sum with it is theirs times s (Eq. 8)."""
    control = outcome.columns.get("length")
    if control is None:
        return None
    parts = {item.name: float(item(outcome)) for item in R1}
    tokens = outcome.columns["think_tokens"]
    spared = control.on_correct_only and not parts["r1_accuracy"]
    factor = 1.0 if spared else control.factor(outcome.replies[0], tokens, outcome.columns["difficulty"])
    lost = parts["r1_think_format"] if tokens < control.min_think_tokens else 0.0
    original = sum(parts.values())
    return factor * (original - lost) - original


R1: tuple[Reward, ...] = (_think_format, _seg_format, _accuracy, _negative_point, _non_repeat)
"""R_original: their sum, at most 9 (Eq. 5, 6)."""
R1_LENGTH = _length
