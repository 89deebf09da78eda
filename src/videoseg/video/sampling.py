"""Which frames of a video are looked at: the pure index maths of O3 (specification §4).

Every function returns strictly increasing 0-based indices. `np.linspace(..., dtype=int)` is called
literally, so that floating-point edge cases agree with the reference.
"""

from __future__ import annotations

import numpy as np


def spread(first: int, last: int, count: int) -> tuple[int, ...]:
    """`count` indices from `first` to `last` (both included), evenly spread and truncated to integers."""
    return tuple(int(index) for index in np.linspace(first, last, count, dtype=int))


def sample_interval(first: int, last: int, count: int, *, slack: int = 0) -> tuple[int, ...]:
    """All frames of `first`..`last` (both included) if at most `count + slack`, else `count` spread ones.

    Raises ValueError if the interval is empty or `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"at least one frame must be sampled, got count={count}")
    length = last - first + 1
    if length < 1:
        raise ValueError(f"the interval {first}..{last} holds no frame")
    if length <= count + slack:
        return tuple(range(first, last + 1))
    return spread(first, last, count)


def sample_video(num_frames: int, count: int, *, slack: int = 0) -> tuple[int, ...]:
    """Turn-0 indices of a video: all if it has at most `count + slack` frames, else `count` spread ones.

    Evaluation uses slack 0, the RL and cold-start loaders 1 (O3 specification §4). Raises ValueError if
    the video has no frame.
    """
    return sample_interval(0, num_frames - 1, count, slack=slack)


def middle(indices: tuple[int, ...]) -> int:
    """The middle one of `indices` (the later of the two middle ones if their number is even)."""
    return indices[len(indices) // 2]
