from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco

from data_builders import HEIGHT, WIDTH, binary_png, code, palette_png, square
from videoseg.data.tracks import PngTrack, SparseTrack, coco_mask, listed_masks, polygons_rle, rle_of
from videoseg.masks import Rle


@given(
    seed=st.integers(0, 10_000), height=st.integers(1, 40), width=st.integers(1, 40), share=st.floats(0, 1)
)
def test_every_code_of_the_library_is_accepted(seed: int, height: int, width: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < share
    encoded = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    assert (rle_of(encoded).decode() == mask).all()
    assert (rle_of({"size": [height, width], "counts": encoded["counts"].decode()}).decode() == mask).all()


def test_lists_of_counts_are_accepted() -> None:
    assert rle_of({"size": [2, 2], "counts": [1, 2, 1]}).decode().tolist() == [[False, True], [True, False]]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("abc", "a mask is"),
        ({"size": [4, 4]}, "a mask is"),
        ({"size": [4], "counts": "04"}, "is not .height, width"),
        ({"size": [4, -4], "counts": "04"}, "is not .height, width"),
        ({"size": [4, True], "counts": "04"}, "is not .height, width"),
        ({"size": [4, 4], "counts": ""}, "not a compressed"),
        ({"size": [4, 4], "counts": "0 4"}, "not a compressed"),
        ({"size": [4, 4], "counts": "0é"}, "not a compressed"),
        ({"size": [4, 4], "counts": "P"}, "cut off"),
        ({"size": [4, 4], "counts": "o" * 60 + "0"}, "longer than any picture"),
        ({"size": [4, 4], "counts": "01"}, "counts cover 1 pixels"),
        ({"size": [4, 4], "counts": [4, 40]}, "counts cover 44 pixels"),
        ({"size": [4, 4], "counts": [20, -4]}, "counts cover 16 pixels"),
        ({"size": [4, 4], "counts": [1.5, 2]}, "whole numbers"),
    ],
)
def test_codes_that_do_not_fit_are_refused_before_the_library_sees_them(entry: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        rle_of(entry)


def test_the_code_of_another_size_is_refused() -> None:
    wrong = {**code(square()), "size": [WIDTH, WIDTH]}
    with pytest.raises(ValueError, match=r"counts cover 768 pixels, size \[height, width\] is \[32, 32\]"):
        rle_of(wrong)


def test_overlapping_polygons_are_a_union_and_not_a_sum() -> None:
    left, right = [2, 2, 12, 2, 12, 12, 2, 12], [8, 2, 18, 2, 18, 12, 8, 12]
    both = polygons_rle([left, right], HEIGHT, WIDTH)
    assert both.area == 160
    assert set(np.unique(both.decode().astype(int))) == {0, 1}
    assert polygons_rle(left, HEIGHT, WIDTH).area == 100


@pytest.mark.parametrize(
    "bad", [[], [[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6, 7]], [[0, 0, 1, float("nan"), 2, 2]], ["x"]]
)
def test_polygons_without_three_points_are_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match="polygon"):
        coco_mask(bad, HEIGHT, WIDTH)


def test_a_segmentation_is_polygons_or_a_code_or_codes() -> None:
    mask = square()
    assert coco_mask(code(mask), HEIGHT, WIDTH) == Rle.encode(mask)
    joined = coco_mask([code(mask), code(square(left=20))], HEIGHT, WIDTH)
    assert joined.area == 128


def test_listed_masks_must_match_the_frames() -> None:
    with pytest.raises(ValueError, match="2 masks for 3 frames"):
        listed_masks([None, None], [0], 3)
    with pytest.raises(ValueError, match="mask 1: a mask is"):
        listed_masks([None, "x"], [1], 2)


def test_palette_pictures_are_read_by_index_and_not_by_colour(tmp_path: Path) -> None:
    labels = square().astype(int) + 2 * square(left=20)
    palette_png(tmp_path / "00000.png", labels)
    first, second = (PngTrack(tmp_path, ("00000",), value=value).read([0])[0] for value in (1, 2))
    assert first is not None
    assert second is not None
    assert (first.decode() == square()).all()
    assert (second.decode() == square(left=20)).all()
    assert PngTrack(tmp_path, ("00000",), value=3).read([0]) == [None]


def test_label_pictures_in_colour_are_refused_where_numbers_count(tmp_path: Path) -> None:
    colours = np.repeat((square() * 200).astype(np.uint8)[..., None], 3, axis=2)
    Image.fromarray(colours).save(tmp_path / "a.png")
    assert PngTrack(tmp_path, ("a",)).read([0]) == [Rle.encode(square())]
    with pytest.raises(ValueError, match=r"a\.png is a colour picture"):
        PngTrack(tmp_path, ("a",), value=1).read([0])
    Image.fromarray(square()).save(tmp_path / "b.png")
    assert PngTrack(tmp_path, ("b",), value=1).read([0]) == [Rle.encode(square())]


def test_a_missing_picture_is_an_absent_object_unless_it_is_required(tmp_path: Path) -> None:
    binary_png(tmp_path / "a.png", square())
    track = PngTrack(tmp_path, ("a", "b"))
    found = track.read([1, 0])
    assert found[0] is None
    assert found[1] == Rle.encode(square())
    with pytest.raises(ValueError, match=r"b\.png is missing"):
        PngTrack(tmp_path, ("a", "b"), required=True).read([1])


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"a\.png cannot be read as a picture"):
        PngTrack(tmp_path, ("a",)).read([0])


def test_sparse_masks_name_the_frame() -> None:
    track = SparseTrack({0: [[1, 1, 5, 1, 5, 5]], 2: "x"}, HEIGHT, WIDTH)
    assert track.read([1]) == [None]
    with pytest.raises(ValueError, match="frame 2: polygons"):
        track.read([0, 2])
