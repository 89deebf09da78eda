"""R1's true answers from masks: box, point and negative point of an object (R1 specification §4)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from videoseg.types import Box, Cue, Point

BoolArray = NDArray[np.bool_]
NEAR = 25 / 840
"""How far from the object a true negative point lies, as a share of the frame's width."""


def box_of(mask: BoolArray) -> Box:
    """The extreme pixels of a mask bool [H, W] that is not empty: x1, y1, x2, y2, the last two exclusive."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def point_of(mask: BoolArray) -> Point:
    """The pixel (x, y) farthest from the edge: the maximum of the Euclidean distance transform."""
    depth = distance_transform_edt(np.pad(mask, 1))
    y, x = np.unravel_index(int(np.argmax(depth)), depth.shape)
    return int(x) - 1, int(y) - 1


def negative_of(mask: BoolArray, point: Point) -> Point:
    """A pixel beside the object at the height of its point: left of it, or right where the frame ends."""
    columns = np.flatnonzero(mask[point[1]])
    step = max(1, round(NEAR * mask.shape[1]))
    left, right = int(columns[0]) - step, int(columns[-1]) + step
    return (left if left >= 0 else min(right, mask.shape[1] - 1)), point[1]


def cue_of(mask: BoolArray) -> Cue:
    """Box, point and negative point of a mask bool [H, W] that is not empty."""
    point = point_of(mask)
    return Cue(box_of(mask), point, negative_of(mask, point))
