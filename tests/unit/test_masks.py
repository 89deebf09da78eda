"""Run-length codes: round trip, areas, boxes and algebra against dense masks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from videoseg.masks import Masklet, Masklets, Rle, intersection, iou, masklet_from_frames, union

SHAPES = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)
MASKS = arrays(bool, SHAPES)
PAIRS = SHAPES.flatmap(lambda shape: st.tuples(arrays(bool, shape), arrays(bool, shape)))


@given(MASKS)
def test_round_trip(mask: np.ndarray) -> None:
    code = Rle.encode(mask)
    assert code.decode().dtype == bool
    np.testing.assert_array_equal(code.decode(), mask)
    assert Rle.from_coco(code.to_coco()) == code
    assert code.area == mask.sum()


@given(MASKS)
def test_uncompressed_and_byte_codes_are_read(mask: np.ndarray) -> None:
    """`counts` may be a list of run lengths, column by column, that starts with zeros."""
    flat = np.concatenate([[False], mask.ravel(order="F")])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff([0, *edges, mask.size]).tolist()
    assert Rle.from_coco({"size": list(mask.shape), "counts": runs}) == Rle.encode(mask)
    raw = {"size": list(mask.shape), "counts": Rle.encode(mask).counts.encode()}
    assert Rle.from_coco(raw) == Rle.encode(mask)


@given(MASKS)
def test_box(mask: np.ndarray) -> None:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    expected = (0, 0, 0, 0)
    if rows.size:
        expected = (columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1)
    assert Rle.encode(mask).box == expected


@given(PAIRS)
def test_algebra(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = (Rle.encode(mask) for mask in pair)
    np.testing.assert_array_equal(union([a, b]).decode(), pair[0] | pair[1])
    np.testing.assert_array_equal(intersection([a, b]).decode(), pair[0] & pair[1])
    assert union([a]) == intersection([a]) == union([a, a]) == a
    either = (pair[0] | pair[1]).sum()
    assert iou(a, b) == pytest.approx((pair[0] & pair[1]).sum() / either if either else 1.0)
    assert iou(a, b) == iou(b, a)


@given(SHAPES)
def test_empty(shape: tuple[int, int]) -> None:
    code = Rle.empty(*shape)
    assert (code.height, code.width, code.area, code.box) == (*shape, 0, (0, 0, 0, 0))
    assert iou(code, code) == 1.0


def test_nonzero_numbers_count_as_set() -> None:
    assert Rle.encode(np.array([[0, 255], [1, 0]], np.uint8)).area == 2  # type: ignore[arg-type]


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[H, W\]"):
        Rle.encode(np.zeros((1, 2, 3), bool))
    with pytest.raises(ValueError, match="one size"):
        union([Rle.empty(2, 3), Rle.empty(3, 2)])
    with pytest.raises(ValueError, match="one size"):
        union([])


def disc(object_id: int, count: int = 3) -> Masklet:
    mask = np.zeros((4, 5), bool)
    mask[1, object_id] = True
    return Masklet(object_id, (Rle.encode(mask),) * count, (0.5,) * count, (0.9,) * count)


def test_dense_views() -> None:
    masklets = Masklets(3, 4, 5, (disc(1), disc(2)))
    assert len(masklets) == 2
    assert [masklet.object_id for masklet in masklets] == [1, 2]
    assert masklets.frame(0).shape == (2, 4, 5)
    assert masklets.dense().shape == (3, 4, 5)
    assert masklets.objects[0].dense().shape == (3, 4, 5)
    assert np.argwhere(masklets.union(2)).tolist() == [[1, 1], [1, 2]]
    assert all(view.dtype == bool for view in (masklets.frame(0), masklets.dense(), masklets.union(0)))


def test_no_object_is_a_valid_answer() -> None:
    masklets = Masklets(3, 4, 5)
    assert masklets.frame(1).shape == (0, 4, 5)
    assert not masklets.dense().any()
    assert masklets.dense().shape == (3, 4, 5)


def test_absent() -> None:
    masklet = Masklet.absent(7, 2, 4, 5)
    assert (masklet.object_id, masklet.presence, masklet.scores) == (7, (0.0, 0.0), (0.0, 0.0))
    assert not masklet.dense().any()


def test_lengths_and_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match="object 4: 1 masks, 2 presence values and 1 scores"):
        Masklet(4, (Rle.empty(2, 2),), (0.1, 0.2), (0.3,))
    with pytest.raises(ValueError, match="object 1 has 3 frames, the video 4"):
        Masklets(4, 4, 5, (disc(1),))
    with pytest.raises(ValueError, match="object 1, frame 0: mask of 4x5, the video is 5x4"):
        Masklets(3, 5, 4, (disc(1),))


@given(st.permutations(range(6)))
def test_frames_may_come_in_any_order(order: list[int]) -> None:
    entries = [(index, Rle.empty(2, index + 1), index / 10, index / 20) for index in order]
    masklet = masklet_from_frames(3, entries, 6)
    assert [code.width for code in masklet.rles] == [1, 2, 3, 4, 5, 6]
    assert masklet.presence == tuple(index / 10 for index in range(6))
    assert masklet.scores == tuple(index / 20 for index in range(6))


def test_missing_frames_are_named() -> None:
    with pytest.raises(ValueError, match=r"object 3: no mask for frames \[1\]"):
        masklet_from_frames(3, [(0, Rle.empty(2, 2), 0, 0), (2, Rle.empty(2, 2), 0, 0)], 3)
