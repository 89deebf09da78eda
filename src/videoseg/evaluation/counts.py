"""Pixel counts of mask pairs, from which all mask metrics of the evaluation follow (benchmarks §6.2).

Compiled where numba is installed (`kernel.py`, extra `fast`), else plain NumPy; both give the same
integers. Nothing here divides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from videoseg.masks import BoolArray, Rle

IntArray = NDArray[np.int64]
Mask = Rle | Sequence[Rle] | None
"""One mask, the instances whose union it is, or nothing (an empty mask)."""
INTER, UNION, TRUTH, GUESS, EDGE_TRUTH, EDGE_GUESS, MATCHED_TRUTH, MATCHED_GUESS = range(8)
Counter = Callable[[list[tuple[Rle, ...]], list[tuple[Rle, ...]], tuple[int, int]], IntArray]


def frame_counts(truth: Sequence[Mask], guess: Sequence[Mask], size: tuple[int, int]) -> IntArray:
    """int64 [T, 8] for T pairs of masks of `size` (height, width).

    Columns: |A∧B|, |A∨B|, |A|, |B|, |b(A)|, |b(B)|, and the boundary pixels of A and of B that the other
    boundary matches (0 where one has none). Raises ValueError where the two differ in length, or a mask has
    another size or is damaged.
    """
    if len(truth) != len(guess):
        raise ValueError(
            f"{len(truth)} true masks, {len(guess)} predicted ones; one of each per frame is needed"
        )
    sides = [[_instances(mask, frame, size) for frame, mask in enumerate(side)] for side in (truth, guess)]
    return counter()(sides[0], sides[1], size)


def _instances(mask: Mask, frame: int, size: tuple[int, int]) -> tuple[Rle, ...]:
    codes = () if mask is None else (mask,) if isinstance(mask, Rle) else tuple(mask)
    for code in codes:
        if (code.height, code.width) != size:
            found, wanted = f"{code.height}x{code.width}", f"{size[0]}x{size[1]}"
            raise ValueError(f"frame {frame}: mask of {found}, {wanted} (height x width) is needed")
    return codes


@cache
def counter() -> Counter:
    """The compiled counter where numba is installed, else the plain one."""
    return compiled_counts if find_spec("numba") else plain_counts


def compiled_counts(
    truth: list[tuple[Rle, ...]], guess: list[tuple[Rle, ...]], size: tuple[int, int]
) -> IntArray:
    """`frame_counts` by the compiled kernel; masks never leave their bits."""
    from videoseg.evaluation.kernel import count_frames

    sides = [side for pair in zip(truth, guess, strict=True) for side in pair]
    texts = [code.counts for side in sides for code in side]
    letters = np.frombuffer("".join(texts).encode("latin1", "replace"), dtype=np.uint8)
    starts = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    codes = np.cumsum([0, *map(len, sides)], dtype=np.int64)
    out = np.zeros((len(truth), 8), dtype=np.int64)
    broken = int(count_frames(letters, starts, codes, *size, disk(radius(*size)), out))
    if broken >= 0:
        frame = int(np.searchsorted(codes, broken, side="right") - 1) // 2
        raise ValueError(f"frame {frame}: a mask's counts are no code of {size[0]}x{size[1]} pixels")
    return out


def plain_counts(
    truth: list[tuple[Rle, ...]], guess: list[tuple[Rle, ...]], size: tuple[int, int]
) -> IntArray:
    """`frame_counts` without numba: decoded masks, cropped, as bits of long integers."""
    pairs = zip(truth, guess, strict=True)
    rows = [dense_counts(_dense(a, size), _dense(b, size)) for a, b in pairs]
    return np.array(rows, dtype=np.int64).reshape(len(truth), 8)


def _dense(codes: tuple[Rle, ...], size: tuple[int, int]) -> BoolArray:
    if len(codes) == 1:
        return codes[0].decode()
    return np.logical_or.reduce([code.decode() for code in codes]) if codes else np.zeros(size, dtype=bool)


def dense_counts(truth: BoolArray, guess: BoolArray) -> IntArray:
    """The 8 counts of one pair of masks `bool [H, W]`.

    Boundaries lie in the box of both masks and one pixel around it; each becomes one long integer, line
    after line with r zero bits between, so that what is moved along a line never meets the next one.
    """
    reach, window = radius(*truth.shape), _window(truth, guess)
    truth, guess = truth[window], guess[window]
    inter, areas = np.count_nonzero(truth & guess), [np.count_nonzero(truth), np.count_nonzero(guess)]
    stride = truth.shape[1] + reach
    a, b = (_bits(boundary(mask), stride) for mask in (truth, guess))
    matched = [(a & _dilated(b, stride, reach)).bit_count(), (b & _dilated(a, stride, reach)).bit_count()]
    lengths = [a.bit_count(), b.bit_count()]
    return np.array([inter, sum(areas) - inter, *areas, *lengths, *matched], dtype=np.int64)


def _window(truth: BoolArray, guess: BoolArray) -> tuple[slice, slice]:
    """The box of all pixels, grown by one where the image goes on."""
    both = truth | guess
    places = [np.flatnonzero(both.any(axis=axis)) for axis in (1, 0)]
    if not places[0].size:
        return slice(0, 0), slice(0, 0)
    rows, columns = (slice(max(int(place[0]) - 1, 0), int(place[-1]) + 2) for place in places)
    return rows, columns


def _bits(mask: BoolArray, stride: int) -> int:
    """A mask as an integer whose bit `row * stride + column` is a pixel."""
    padded = np.zeros((mask.shape[0], stride), dtype=bool)
    padded[:, : mask.shape[1]] = mask
    return int.from_bytes(np.packbits(padded, bitorder="little").tobytes(), "little")


def _dilated(bits: int, stride: int, reach: int) -> int:
    """Dilation by the disk; what reaches `reached` columns moves by one more at most (the trap of §6.3)."""
    grown, reached = 0, 0
    for distance, half in reversed(list(enumerate(disk(reach).tolist()))):
        while reached < half:
            step = min(reached + 1, half - reached)
            bits |= bits << step | bits >> step
            reached += step
        grown |= bits << distance * stride | bits >> distance * stride
    return grown


def boundary(mask: BoolArray) -> BoolArray:
    """Pixels that differ from their right, lower or lower-right neighbour inside the image (§1.2)."""
    mask = np.asarray(mask) != 0
    edge = np.zeros_like(mask)
    edge[:, :-1] |= mask[:, :-1] ^ mask[:, 1:]
    edge[:-1] |= mask[:-1] ^ mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return edge


def radius(height: int, width: int) -> int:
    """Tolerance in pixels: the smallest r with (125 r)² >= H² + W² (§1.3)."""
    square = height * height + width * width
    root = math.isqrt(square)
    return -(-(root + (root * root < square)) // 125)


@cache
def disk(reach: int) -> IntArray:
    """Half widths of the disk dx² + dy² <= reach², int64 [reach + 1], by distance from its centre (§1.3)."""
    return np.array([math.isqrt(reach * reach - d * d) for d in range(reach + 1)], dtype=np.int64)
