"""The counts that J and F are made of, straight from their definition and slow (benchmarks §1.1 to §1.4)."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage


def boundary(mask: np.ndarray) -> np.ndarray:
    """Set where a pixel differs from its right, lower or lower-right neighbour; outside never counts."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (mask != padded[:-1, 1:]) | (mask != padded[1:, :-1]) | (mask != padded[1:, 1:])


def dilated(edge: np.ndarray, reach: int) -> np.ndarray:
    """Every tap of the Euclidean disk over every pixel."""
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    return ndimage.binary_dilation(edge, structure=x * x + y * y <= reach * reach)


def matched(edge: np.ndarray, other: np.ndarray, reach: int) -> int:
    """Pixels of `edge` near one of `other`, by all pairs: for images too large to dilate."""
    if not other.any():
        return 0
    places, others = np.argwhere(edge).astype(np.int32), np.argwhere(other).astype(np.int32)
    parts = np.array_split(places, 1 + len(places) * len(others) // 4_000_000)
    return sum(
        int((((part[:, None] - others) ** 2).sum(axis=2) <= reach * reach).any(axis=1).sum())
        for part in parts
    )


def counts(truth: np.ndarray, guess: np.ndarray, *, pairs: bool = False) -> list[int]:
    """Intersection, union, areas, boundary lengths, matched boundary pixels of two `bool [H, W]`."""
    reach = math.ceil(0.008 * math.hypot(*truth.shape))
    a, b = boundary(truth), boundary(guess)
    if pairs:
        near = [matched(a, b, reach), matched(b, a, reach)]
    else:
        near = [int((a & dilated(b, reach)).sum()), int((b & dilated(a, reach)).sum())]
    areas = [(truth & guess).sum(), (truth | guess).sum(), truth.sum(), guess.sum()]
    return [*map(int, areas), int(a.sum()), int(b.sum()), *near]


def scores(row: list[int]) -> tuple[float, float]:
    """J and F of such counts, one operation after the other."""
    inter, union, _, _, length_a, length_b, matched_a, matched_b = row
    region = np.float64(inter) / np.float64(union) if union else np.float64(1)
    if not length_a or not length_b:
        return float(region), float(length_a == length_b)
    precision, recall = np.float64(matched_b) / length_b, np.float64(matched_a) / length_a
    total = precision + recall
    return float(region), float(2 * precision * recall / total) if total else 0.0
