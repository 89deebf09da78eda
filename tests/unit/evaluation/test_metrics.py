"""J and F on cases that can be computed by hand (benchmarks specification §1)."""

from __future__ import annotations

import math

import numpy as np
import pytest

from videoseg.evaluation.metrics import boundary, contour, jf, radius, region

EMPTY = np.zeros((40, 60), dtype=bool)
FULL = ~EMPTY


def box(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = EMPTY.copy()
    mask[top : top + height, left : left + width] = True
    return mask


@pytest.mark.parametrize(
    ("truth", "guess", "j", "f"),
    [
        (EMPTY, EMPTY, 1, 1),
        (EMPTY, box(5, 5, 9, 9), 0, 0),
        (EMPTY, FULL, 0, 1),
        (box(5, 5, 9, 9), EMPTY, 0, 0),
        (box(0, 0, 20, 60), FULL, 0.5, 0),
        (FULL, FULL, 1, 1),
        (box(5, 5, 9, 9), box(5, 5, 9, 9), 1, 1),
    ],
)
def test_table_of_empty_and_full_masks(truth: np.ndarray, guess: np.ndarray, j: float, f: float) -> None:
    assert region(truth, guess) == j
    assert contour(truth, guess) == f


def test_region_counts_pixels() -> None:
    assert region(box(0, 0, 10, 10), box(0, 5, 10, 10)) == 50 / 150


def test_boundary_leans_to_the_origin_and_ignores_the_border() -> None:
    edge = boundary(box(10, 10, 2, 2))
    assert edge.sum() == 8
    assert edge[9, 9]
    assert not edge[12].any()
    assert not boundary(FULL).any()


@pytest.mark.parametrize("shift", range(6))
def test_contour_tolerates_the_radius_and_no_more(shift: int) -> None:
    reach = radius(*EMPTY.shape)
    a, b = EMPTY.copy(), EMPTY.copy()
    a[20, 20:40], b[20 + shift, 20:40] = True, True
    assert reach == 1
    assert (contour(a, b) == 1.0) == (shift <= reach)


@pytest.mark.parametrize("size", [(1, 1), (125, 0), (360, 640), (480, 854), (1080, 1920), (2160, 3840)])
def test_radius_equals_the_float_form(size: tuple[int, int]) -> None:
    assert radius(*size) == math.ceil(0.008 * math.hypot(*size))


def test_void_pixels_leave_both_masks() -> None:
    void = box(0, 30, 40, 30)
    assert region(box(0, 0, 40, 30), FULL, void) == 1.0
    assert contour(box(5, 5, 9, 9), box(5, 5, 9, 9) | box(5, 45, 9, 9), void) == 1.0


def test_means_over_frames() -> None:
    assert jf([EMPTY, FULL], [EMPTY, EMPTY]) == (0.5, 1.0)
    with pytest.raises(ValueError, match="at least one frame"):
        jf([], [])


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match="one size"):
        region(EMPTY, EMPTY[:-1])
