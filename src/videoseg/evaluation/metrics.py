"""The evaluation's metrics: J, F, A, R, tIoU, vIoU, temporal grounding (benchmarks specification §1, §4.3).

Those of masks are formed from the integer counts of `counts.frame_counts`; J and F equal DAVIS bit for bit.
`region`, `contour` and `jf` take dense masks `[H, W]`, any non-zero pixel counting as set.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from videoseg.evaluation.counts import (
    EDGE_GUESS,
    EDGE_TRUTH,
    GUESS,
    INTER,
    MATCHED_GUESS,
    MATCHED_TRUTH,
    TRUTH,
    UNION,
    IntArray,
    Mask,
    boundary,
    dense_counts,
    frame_counts,
    radius,
)
from videoseg.masks import BoolArray, Rle, union

__all__ = [
    "appearance",
    "boundary",
    "contour",
    "contours",
    "grounding",
    "jf",
    "jf_rle",
    "keyframe_hit",
    "radius",
    "region",
    "regions",
    "robustness",
    "span_iou",
    "summed_errors",
    "temporal_iou",
    "video_iou",
]
FloatArray = NDArray[np.float64]
THRESHOLDS = (0.3, 0.5, 0.7)


def regions(counts: IntArray) -> FloatArray:
    """J per frame, float64 [T] in [0, 1]: |A ∧ B| / |A ∨ B|, 1 where both are empty (§1.1)."""
    return _share(counts[:, INTER], counts[:, UNION], 1.0)


def contours(counts: IntArray) -> FloatArray:
    """F per frame, float64 [T] in [0, 1]: 2PR / (P + R) of boundary pixels matched within `radius` (§1.4)."""
    precision = _share(counts[:, MATCHED_GUESS], counts[:, EDGE_GUESS], 0.0)
    recall = _share(counts[:, MATCHED_TRUTH], counts[:, EDGE_TRUTH], 0.0)
    scores = _share(2 * precision * recall, precision + recall, 0.0)
    scores[(counts[:, EDGE_TRUTH] == 0) & (counts[:, EDGE_GUESS] == 0)] = 1.0
    return scores


def appearance(
    counts: IntArray, size: tuple[int, int], errors: tuple[IntArray, IntArray] | None = None
) -> FloatArray:
    """A per frame: share of pixels that are equal (§1.10); `errors` of `summed_errors` for summed truth."""
    wrong = counts[:, UNION] - counts[:, INTER] if errors is None else errors[0]
    pixels = size[0] * size[1]
    return np.asarray((pixels - wrong) / pixels, dtype=np.float64)


def robustness(
    counts: IntArray, foreground: IntArray, errors: tuple[IntArray, IntArray] | None = None
) -> FloatArray:
    """R per frame: max(0, 1 - |B outside A| / (foreground + 1e-6)), 1 where nothing is predicted outside.

    `foreground` int64 [T]: pixels of any annotated object of the video (§1.10). `errors` as in `appearance`.
    """
    outside = counts[:, GUESS] - counts[:, INTER] if errors is None else errors[1]
    return np.maximum(0.0, 1 - outside / (foreground + 1e-6))


def summed_errors(
    truth: Sequence[Mask], guess: Sequence[Mask], counts: IntArray
) -> tuple[IntArray, IntArray]:
    """Unequal pixels and Σ(1 - truth)·guess, int64 [T] each, with instances *added* in uint8 (§3.6).

    That is what the released scripts of ReVOS and Ref-SAV compute for A and R: where two instances overlap
    the truth is 2, unequal to a prediction of 1, and 1 - 2 is 255.
    """
    unequal, outside = counts[:, UNION] - counts[:, INTER], counts[:, GUESS] - counts[:, INTER]
    for frame, instances in enumerate(truth):
        if instances is None or isinstance(instances, Rle):
            continue
        if sum(code.area for code in instances) == counts[frame, TRUTH]:
            continue
        summed = sum((code.decode().astype(np.uint8) for code in instances), start=np.uint8(0))
        found = _united(guess[frame], instances[0]).decode().astype(np.uint8)
        unequal[frame] = np.count_nonzero(summed != found)
        outside[frame] = ((np.uint8(1) - summed) * found).sum(dtype=np.int64)
    return unequal, outside


def _united(mask: Mask, like: Rle) -> Rle:
    codes = [] if mask is None else [mask] if isinstance(mask, Rle) else list(mask)
    return union(codes) if codes else Rle.empty(like.height, like.width)


def temporal_iou(counts: IntArray) -> float:
    """tIoU: frames with truth and prediction over frames with either; 1 if there is none (§1.10)."""
    both, either = _present(counts)
    return float(both.sum() / either.sum()) if either.any() else 1.0


def video_iou(counts: IntArray) -> float:
    """vIoU: J summed over frames with truth and prediction, over frames with either; 1 if none (§1.10)."""
    both, either = _present(counts)
    return float(regions(counts)[both].sum() / either.sum()) if either.any() else 1.0


def keyframe_hit(truth: Sequence[Rle], keyframe: int) -> bool:
    """Whether the target has a pixel on the keyframe, a position in `truth`; False outside it."""
    return 0 <= keyframe < len(truth) and truth[keyframe].area > 0


def span_iou(truth: tuple[float, float], guess: tuple[float, float] | None) -> float:
    """IoU of two spans in seconds; 0 for no span or one that does not end after its start (§4.3).

    Raises ValueError where `truth` has no length: an error in the data, not a division.
    """
    if not truth[0] < truth[1]:
        raise ValueError(f"the true span {truth} does not end after its start")
    if guess is None or not guess[0] < guess[1]:
        return 0.0
    hull = max(truth[1], guess[1]) - min(truth[0], guess[0])
    return max(0.0, min(truth[1], guess[1]) - max(truth[0], guess[0])) / hull


def grounding(ious: Sequence[float]) -> dict[str, float]:
    """R1@0.3, R1@0.5, R1@0.7 and mIoU in percent over all annotations, at least one (§4.3)."""
    values = np.asarray(ious, dtype=np.float64)
    if not values.size:
        raise ValueError("temporal grounding needs at least one annotation")
    recalls = {f"R1@{level}": 100 * float(np.mean(values >= level)) for level in THRESHOLDS}
    return {**recalls, "mIoU": 100 * float(np.mean(values))}


def region(truth: BoolArray, guess: BoolArray, void: BoolArray | None = None) -> float:
    """J of two dense masks; `void` pixels leave both counts (§1.1, §1.8)."""
    truth, guess = _cleared(truth, guess, void)
    total = int(np.count_nonzero(truth | guess))
    return float(np.float64(np.count_nonzero(truth & guess)) / total) if total else 1.0


def contour(truth: BoolArray, guess: BoolArray, void: BoolArray | None = None) -> float:
    """F of two dense masks; both are cleared on `void` first (§1.4, §1.8)."""
    return float(contours(dense_counts(*_cleared(truth, guess, void))[None])[0])


def jf(truth: Iterable[BoolArray], guess: Iterable[BoolArray]) -> tuple[float, float]:
    """Mean J and mean F over the frames of one expression (§1.6); J&F is the mean of the two.

    Raises ValueError if the two differ in length or hold no frame.
    """
    rows = [dense_counts(*_cleared(a, b, None)) for a, b in zip(truth, guess, strict=True)]
    return _means(np.array(rows, dtype=np.int64).reshape(len(rows), 8))


def jf_rle(truth: Sequence[Mask], guess: Sequence[Mask], size: tuple[int, int]) -> tuple[float, float]:
    """`jf` of run-length codes of `size` (height, width); raises ValueError as `frame_counts` does."""
    return _means(frame_counts(truth, guess, size))


def _means(counts: IntArray) -> tuple[float, float]:
    if not len(counts):
        raise ValueError("J and F need at least one frame")
    return float(np.mean(regions(counts))), float(np.mean(contours(counts)))


def _share(part: NDArray, whole: NDArray, otherwise: float) -> FloatArray:
    """part / whole in float64, `otherwise` where whole is 0."""
    result = np.full(part.shape, otherwise, dtype=np.float64)
    return np.divide(part, whole, out=result, where=whole != 0)


def _present(counts: IntArray) -> tuple[BoolArray, BoolArray]:
    truth, guess = counts[:, TRUTH] > 0, counts[:, GUESS] > 0
    return truth & guess, truth | guess


def _cleared(truth: BoolArray, guess: BoolArray, void: BoolArray | None) -> tuple[BoolArray, BoolArray]:
    truth, guess = np.asarray(truth) != 0, np.asarray(guess) != 0
    if truth.shape != guess.shape or truth.ndim != 2:
        raise ValueError(f"two masks of one size [H, W] are needed, got {truth.shape} and {guess.shape}")
    if void is None:
        return truth, guess
    kept = np.asarray(void) == 0
    return truth & kept, guess & kept
