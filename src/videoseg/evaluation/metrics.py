"""Region similarity J and contour accuracy F, bit-equal to DAVIS (benchmarks specification §1).

Masks are `[H, W]`, any non-zero pixel counts as set.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

BoolArray = NDArray[np.bool_]
TOLERANCE = 0.008


def region(truth: BoolArray, guess: BoolArray, void: BoolArray | None = None) -> float:
    """J = |A ∧ B| / |A ∨ B|, 1 where both are empty; `void` pixels leave both counts (§1.1, §1.8)."""
    truth, guess = _cleared(truth, guess, void)
    union = int(np.count_nonzero(truth | guess))
    return float(np.float64(np.count_nonzero(truth & guess)) / union) if union else 1.0


def contour(truth: BoolArray, guess: BoolArray, void: BoolArray | None = None) -> float:
    """F = 2PR / (P + R) of boundary pixels matched within `radius` pixels (§1.4)."""
    truth, guess = _cleared(truth, guess, void)
    edge_truth, edge_guess = boundary(truth), boundary(guess)
    count_truth, count_guess = int(edge_truth.sum()), int(edge_guess.sum())
    if not count_truth or not count_guess:
        return float(count_truth == count_guess)
    reach = radius(*truth.shape)
    precision = np.float64(_matched(edge_guess, edge_truth, reach)) / count_guess
    recall = np.float64(_matched(edge_truth, edge_guess, reach)) / count_truth
    if precision + recall == 0:
        return 0.0
    return float(2 * precision * recall / (precision + recall))


def boundary(mask: BoolArray) -> BoolArray:
    """Pixels that differ from their right, lower or lower-right neighbour inside the image (§1.2)."""
    mask = np.asarray(mask) != 0
    edge = np.zeros_like(mask)
    edge[:, :-1] |= mask[:, :-1] ^ mask[:, 1:]
    edge[:-1] |= mask[:-1] ^ mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return edge


def radius(height: int, width: int) -> int:
    """Tolerance in pixels: the smallest r with (125 r)² >= H² + W² (§1.3)."""
    square = height * height + width * width
    root = math.isqrt(square)
    return -(-(root + (root * root < square)) // 125)


def jf(truth: Iterable[BoolArray], guess: Iterable[BoolArray]) -> tuple[float, float]:
    """Mean J and mean F over the frames of one expression (§1.6); J&F is the mean of the two.

    Raises ValueError if the two differ in length or hold no frame.
    """
    pairs = list(zip(truth, guess, strict=True))
    if not pairs:
        raise ValueError("J and F need at least one frame")
    regions = np.array([region(a, b) for a, b in pairs])
    contours = np.array([contour(a, b) for a, b in pairs])
    return float(np.mean(regions)), float(np.mean(contours))


def _cleared(truth: BoolArray, guess: BoolArray, void: BoolArray | None) -> tuple[BoolArray, BoolArray]:
    truth, guess = np.asarray(truth) != 0, np.asarray(guess) != 0
    if truth.shape != guess.shape or truth.ndim != 2:
        raise ValueError(f"two masks of one size [H, W] are needed, got {truth.shape} and {guess.shape}")
    if void is None:
        return truth, guess
    kept = np.asarray(void) == 0
    return truth & kept, guess & kept


def _matched(edge: BoolArray, other: BoolArray, reach: int) -> int:
    """Pixels of `edge` with a pixel of `other` at Euclidean distance <= `reach`; both are not empty."""
    rows = np.flatnonzero((edge | other).any(axis=1))
    columns = np.flatnonzero((edge | other).any(axis=0))
    window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    distance = ndimage.distance_transform_edt(~other[window])
    # squared distances are integers: a quarter apart from reach² no rounding of the root matters
    return int(np.count_nonzero(distance[edge[window]] ** 2 <= reach * reach + 0.25))
