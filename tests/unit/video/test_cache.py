"""The frame cache stays within its bounds for any sequence of frames."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from videoseg.video.cache import FrameCache


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 40)), max_size=60),
    st.integers(0, 100),
    st.integers(1, 8),
)
def test_bounds_hold(puts: list[tuple[int, int]], max_bytes: int, max_frames: int) -> None:
    cache = FrameCache(max_bytes, max_frames)
    for index, size in puts:
        frame = np.zeros(size, np.uint8)
        cache.put(index, frame)
        held = [cache.get(key) for key in range(21)]
        assert cache.num_bytes == sum(frame.nbytes for frame in held if frame is not None) <= max_bytes
        assert len(cache) == sum(frame is not None for frame in held) <= max_frames
    assert cache.peak_bytes <= max_bytes
    assert cache.peak_frames <= max_frames
    cache.clear()
    assert (len(cache), cache.num_bytes) == (0, 0)


def test_least_recently_used_goes_first() -> None:
    cache = FrameCache(30)
    for index in range(3):
        cache.put(index, np.full(10, index, np.uint8))
    assert cache.get(0) is not None
    cache.put(3, np.zeros(10, np.uint8))
    assert cache.get(1) is None
    assert [cache.get(index) is not None for index in (0, 2, 3)] == [True] * 3


def test_frame_that_never_fits_displaces_nothing() -> None:
    cache = FrameCache(10)
    cache.put(0, np.zeros(10, np.uint8))
    cache.put(1, np.zeros(11, np.uint8))
    assert cache.get(0) is not None
    assert cache.get(1) is None
    assert cache.capacity(11) == 0
