"""J and F on cases that can be computed by hand (benchmarks specification §1)."""

from __future__ import annotations

import math

import numpy as np
import pytest

from videoseg.evaluation.counts import Counter, compiled_counts, frame_counts, plain_counts
from videoseg.evaluation.metrics import (
    appearance,
    boundary,
    contour,
    contours,
    grounding,
    jf,
    jf_rle,
    keyframe_hit,
    radius,
    region,
    regions,
    robustness,
    span_iou,
    summed_errors,
    temporal_iou,
    video_iou,
)
from videoseg.masks import Rle

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


@pytest.mark.parametrize("count", [compiled_counts, plain_counts])
def test_table_of_empty_and_full_codes(count: Counter) -> None:
    """§1.5 from run-length codes, also where an empty mask is no code at all."""
    if count is compiled_counts:
        pytest.importorskip("numba")
    part, none = box(5, 5, 9, 9), EMPTY
    pairs = [(none, none), (none, part), (none, FULL), (part, none), (part, FULL), (FULL, FULL), (part, part)]
    codes = [
        [(Rle.encode(mask),) if mask.any() else () for mask in side] for side in zip(*pairs, strict=True)
    ]
    rows = count(codes[0], codes[1], EMPTY.shape)
    assert regions(rows).tolist() == [1, 0, 0, 0, 81 / 2400, 1, 1]
    assert contours(rows).tolist() == [1, 0, 1, 0, 0, 1, 1]


def codes(*masks: np.ndarray) -> list[Rle]:
    return [Rle.encode(mask) for mask in masks]


def test_means_of_codes_equal_those_of_masks() -> None:
    truth, guess = (box(5, 5, 9, 9), box(0, 0, 20, 30), EMPTY), (box(6, 5, 9, 9), box(0, 3, 22, 30), FULL)
    assert jf_rle(codes(*truth), codes(*guess), EMPTY.shape) == jf(truth, guess)
    with pytest.raises(ValueError, match="at least one frame"):
        jf_rle([], [], EMPTY.shape)


def test_appearance_and_robustness_by_hand() -> None:
    truth, guess = codes(box(0, 0, 10, 10), EMPTY), codes(box(0, 5, 10, 10), box(0, 0, 4, 5))
    counts = frame_counts(truth, guess, EMPTY.shape)
    assert appearance(counts, EMPTY.shape).tolist() == [(2400 - 100) / 2400, (2400 - 20) / 2400]
    found = robustness(counts, np.array([200, 0]))
    assert found.tolist() == [1 - 50 / (200 + 1e-6), 0.0]
    nothing = frame_counts([None], [None], EMPTY.shape)
    assert robustness(nothing, np.array([0])).tolist() == [1.0]


def test_added_instances_as_the_released_scripts_count_them() -> None:
    """Two overlapping instances, predicted perfectly: where they overlap the sum is 2, and 1 - 2 wraps."""
    a, b = box(0, 0, 10, 10), box(0, 8, 10, 10)
    truth, guess = [codes(a, b), codes(a), None], [Rle.encode(a | b), *codes(b), None]
    counts = frame_counts(truth, guess, EMPTY.shape)
    summed, found = a.astype(np.uint8) + b, (a | b).astype(np.uint8)
    unequal, outside = summed_errors(truth, guess, counts)
    assert unequal.tolist() == [20, 160, 0]
    assert outside.tolist() == [int(np.sum((1 - summed) * found)), 80, 0]
    assert outside[0] == 20 * 255
    scores = appearance(counts, EMPTY.shape, (unequal, outside))
    assert scores.tolist()[:2] == [np.mean(summed == found), 2240 / 2400]
    foreground = np.array([180, 180, 0])
    assert robustness(counts, foreground, (unequal, outside)).tolist() == [0.0, 1 - 80 / (180 + 1e-6), 1.0]
    assert robustness(counts, foreground).tolist()[0] == 1.0


def test_iou_in_time_and_of_the_tube() -> None:
    part, half = box(0, 0, 10, 10), box(0, 5, 10, 5)
    truth, guess = codes(part, part, part, EMPTY, EMPTY), codes(part, half, EMPTY, part, EMPTY)
    counts = frame_counts(truth, guess, EMPTY.shape)
    assert temporal_iou(counts) == 2 / 4
    assert video_iou(counts) == (1 + 0.5) / 4
    assert temporal_iou(counts[4:]) == video_iou(counts[4:]) == 1.0
    assert temporal_iou(counts[3:]) == video_iou(counts[3:]) == 0.0


@pytest.mark.parametrize(("keyframe", "hit"), [(0, False), (1, True), (2, False), (-1, False)])
def test_keyframe_hit(keyframe: int, hit: bool) -> None:
    assert keyframe_hit(codes(EMPTY, FULL), keyframe) is hit


@pytest.mark.parametrize(
    ("guess", "iou"),
    [
        ((2, 6), 1),
        ((4, 8), 2 / 6),
        ((6, 8), 0),
        ((7, 9), 0),
        (None, 0),
        ((5, 5), 0),
        ((5, 3), 0),
        ((0, 10), 0.4),
    ],
)
def test_iou_of_spans(guess: tuple[float, float] | None, iou: float) -> None:
    assert span_iou((2, 6), guess) == iou


def test_grounding_over_all_annotations() -> None:
    assert grounding([0.3, 0.5, 0.0, 1.0]) == {"R1@0.3": 75, "R1@0.5": 50, "R1@0.7": 25, "mIoU": 45}
    with pytest.raises(ValueError, match="does not end"):
        span_iou((3, 3), (3, 3))
    with pytest.raises(ValueError, match="at least one"):
        grounding([])
