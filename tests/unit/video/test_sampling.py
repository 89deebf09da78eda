"""Index sampling: counts, ends, order, and agreement with literal values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from videoseg.video.sampling import middle, sample_interval, sample_video, spread

counts = st.integers(1, 40)


@pytest.mark.parametrize(
    ("num_frames", "count", "expected"),
    [
        (26, 8, (0, 3, 7, 10, 14, 17, 21, 25)),
        (1, 20, (0,)),
        (2, 1, (0,)),
        (8, 8, tuple(range(8))),
        (9, 8, (0, 1, 2, 3, 4, 5, 6, 8)),
    ],
)
def test_sample_video(num_frames: int, count: int, expected: tuple[int, ...]) -> None:
    assert sample_video(num_frames, count) == expected


@pytest.mark.parametrize(
    ("first", "last", "count", "expected"),
    [
        (3, 22, 5, (3, 7, 12, 17, 22)),
        (4, 9, 5, (4, 5, 6, 7, 9)),
        (1, 4, 5, (1, 2, 3, 4)),
        (0, 11, 10, (0, 1, 2, 3, 4, 6, 7, 8, 9, 11)),
        (7, 7, 5, (7,)),
    ],
)
def test_sample_interval(first: int, last: int, count: int, expected: tuple[int, ...]) -> None:
    assert sample_interval(first, last, count) == expected


def test_slack_shows_one_frame_more() -> None:
    assert sample_video(11, 10, slack=1) == tuple(range(11))
    assert len(sample_video(12, 10, slack=1)) == 10
    assert len(sample_video(11, 10)) == 10


@given(st.integers(0, 10**6), st.integers(0, 10**6), counts, st.integers(0, 2))
def test_samples_increase_within_the_interval(first: int, length: int, count: int, slack: int) -> None:
    last = first + length
    frames = sample_interval(first, last, count, slack=slack)
    assert list(frames) == sorted(set(frames))
    assert frames[0] == first
    assert all(type(frame) is int for frame in frames)
    assert len(frames) == (length + 1 if length + 1 <= count + slack else count)
    if len(frames) > 1:
        assert frames[-1] == last


@given(st.integers(2, 500), st.integers(2, 40))
def test_spread_is_numpy_truncation(num_frames: int, count: int) -> None:
    expected = np.linspace(0, num_frames - 1, count).astype(int)
    assert spread(0, num_frames - 1, count) == tuple(expected.tolist())


@pytest.mark.parametrize(("first", "last", "count"), [(5, 4, 3), (0, -1, 3), (0, 5, 0)])
def test_empty_requests_are_refused(first: int, last: int, count: int) -> None:
    with pytest.raises(ValueError, match="frame"):
        sample_interval(first, last, count)


def test_middle_is_the_later_of_two() -> None:
    assert middle((0, 3, 7, 10)) == 7
    assert middle((5,)) == 5
