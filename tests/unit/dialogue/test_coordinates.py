"""Coordinate maps are inverse to each other and say where pixels go."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from videoseg.dialogue.coordinates import PlaneMap, crop, rotate, scale
from videoseg.errors import UsageError

sides = st.integers(1, 4000)
places = st.floats(-5000, 5000)
maps = st.one_of(
    st.builds(lambda h, w, side: scale((h, w), (side, side)), sides, sides, sides),
    st.builds(crop, places, places),
    st.builds(lambda h, w, quarters: rotate((h, w), quarters), sides, sides, st.integers(-5, 5)),
)
chains = st.lists(maps, min_size=1, max_size=4)


def chained(parts: list[PlaneMap]) -> PlaneMap:
    whole = PlaneMap()
    for part in parts:
        whole = whole.then(part)
    return whole


@given(chains, places, places)
def test_a_map_and_its_inverse_cancel(parts: list[PlaneMap], x: float, y: float) -> None:
    whole = chained(parts)
    there = whole.point(x, y)
    tolerance = (
        1e-6 * (1 + max(map(abs, (x, y, *there)))) * max(1, *(abs(v) for v in _slopes(whole.inverse())))
    )
    assert whole.inverse().point(*there) == pytest.approx((x, y), abs=tolerance)


def _slopes(plane: PlaneMap) -> tuple[float, ...]:
    return plane.a, plane.b, plane.d, plane.e


@given(chains, places, places)
def test_chaining_is_one_after_the_other(parts: list[PlaneMap], x: float, y: float) -> None:
    step = (x, y)
    for part in parts:
        step = part.point(*step)
    assert chained(parts).point(x, y) == pytest.approx(step, rel=1e-6, abs=1e-3)


@given(sides, sides, st.integers(0, 3))
def test_four_quarters_are_none_and_the_frame_stays_in_view(height: int, width: int, quarters: int) -> None:
    turned = rotate((height, width), quarters)
    size = (width, height) if quarters % 2 else (height, width)
    assert turned.box((0, 0, width, height)) == (0, 0, size[1], size[0])
    back = rotate(size, 4 - quarters)
    assert turned.then(back).point(3, 5) == pytest.approx((3, 5))


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_turn_agrees_with_turning_the_pixels(quarters: int) -> None:
    picture = np.zeros((4, 6))
    picture[1, 2] = 1
    turned = np.rot90(picture, -quarters)  # rot90 turns counter-clockwise
    x, y = rotate((4, 6), quarters).point(2.5, 1.5)
    assert turned[int(y), int(x)] == 1


def test_a_crop_and_a_scale_move_a_box() -> None:
    assert crop(10, 20).then(scale((50, 100), (100, 100))).box((10, 20, 60, 45)) == (0, 0, 50, 50)


def test_a_reversed_box_stays_reversed_when_scaled() -> None:
    assert scale((100, 100), (50, 50)).box((40, 0, 20, 10)) == (20, 0, 10, 5)


def test_an_empty_picture_is_refused() -> None:
    with pytest.raises(UsageError):
        scale((0, 10), (840, 840))
