"""Predicted objects against true ones, one to one: R1's accuracy (specification §4).

All is in pixels of a square of 840. Box sizes count pixels inclusively (+1), as the ancestor of the paper
does: right for whole pixels of that square only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Floats = NDArray[np.float64]
MAX_OBJECTS = 120


@dataclass(frozen=True, slots=True)
class Limits:
    """What counts as found: IoU above, mean edge distance below, point distance below (§4, §9 no. 10)."""

    iou: float = 0.5
    edge: float = 10.0
    point: float = 30.0


def box_iou(boxes: Floats, truth: Floats) -> Floats:
    """IoU of boxes [K, 4] and [N, 4] as [K, N]; NaN or negative where corners are reversed."""
    low = np.maximum(boxes[:, None, :2], truth[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], truth[None, :, 2:])
    shared = np.maximum(high - low + 1, 0).prod(-1)
    areas = [(each[:, 2:] - each[:, :2] + 1).prod(-1) for each in (boxes, truth)]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: Floats = shared / (areas[0][:, None] + areas[1][None] - shared)
    return ratio


def hits(boxes: Floats, points: Floats, truth: Floats, centres: Floats, limits: Limits) -> Floats:
    """How many of the three tests each pair passes, [K, N] in 0..3.

    `boxes` [K, 4], `points` [K, 2] predicted, `truth` [N, 4], `centres` [N, 2]; what a prediction lacks is
    NaN and passes nothing. A point must also lie in its own predicted box.
    """
    edges = np.abs(boxes[:, None] - truth[None]).mean(-1)
    distances = np.linalg.norm(points[:, None] - centres[None], axis=-1)
    inside = ((points >= boxes[:, :2]) & (points <= boxes[:, 2:])).all(-1, keepdims=True)
    found = np.logical_and(distances < limits.point, inside)
    counted: Floats = np.sum([box_iou(boxes, truth) > limits.iou, edges < limits.edge, found], 0, float)
    return counted


def assign(score: Floats) -> Floats:
    """Scores of the pairs of the best one-to-one assignment of a matrix [K, N]: [min(K, N)]."""
    rows, columns = linear_sum_assignment(score, maximize=True)
    chosen: Floats = score[rows, columns]
    return chosen
