"""The scorer's compiled part: pixel counts of mask pairs straight from run-length codes (benchmarks §6.2).

Needs numba (extra `fast`); `counts.py` chooses between this and plain NumPy. A mask is a plane of 64-bit
words: bit y % 64 of `plane[y // 64, x]` is row y of column x, so loops along x are ones over neighbouring
words, which the compiler turns into vector instructions. Every function works on integers only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np

F = TypeVar("F", bound=Callable[..., Any])
ZERO, ONE = np.uint64(0), np.uint64(1)
ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
Area = tuple[int, int, int, int]
"""First and last column, first and last word (64 rows)."""


def compiled(function: F) -> F:
    """Compile on the first call and keep the machine code on disk where that can be written."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no folder for the cache
        return numba.njit(nogil=True)(function)


@compiled
def ones(word: np.uint64) -> int:
    """Number of set bits; LLVM knows the pattern and makes one instruction of it."""
    word = word - ((word >> ONE) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return int((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@compiled
def fill(plane: np.ndarray, column: int, start: int, stop: int) -> None:
    """Set rows `start` to `stop` (excluded, at least one) of a column."""
    first, last = start >> 6, (stop - 1) >> 6
    head = ALL << np.uint64(start & 63)
    tail = ALL >> np.uint64(63 - ((stop - 1) & 63))
    if first == last:
        plane[first, column] |= head & tail
        return
    plane[first, column] |= head
    for word in range(first + 1, last):
        plane[word, column] = ALL
    plane[last, column] |= tail


@compiled
def write(letters: np.ndarray, plane: np.ndarray, height: int, width: int, box: np.ndarray) -> bool:
    """Add the pixels of a compressed code to a plane and widen `box` (first and last column, row).

    False if the code is not one of `height` x `width` pixels; part of it may have been written.
    """
    place, total, position, index = 0, height * width, 0, 0
    before, earlier = 0, 0
    while place < letters.size:
        value, shift, more = 0, 0, True
        while more:
            if place >= letters.size or shift > 30:
                return False
            letter = int(letters[place]) - 48
            if letter < 0 or letter > 63:
                return False
            place += 1
            value |= (letter & 31) << shift
            shift += 5
            more = (letter & 32) != 0
            if not more and (letter & 16) != 0:
                value -= 1 << shift
        if index > 2:
            value += earlier
        earlier, before = before, value
        if value < 0 or position + value > total:
            return False
        if (index & 1) and value:
            write_run(plane, position, position + value, height, box)
        position += value
        index += 1
    return position == total


@compiled
def write_run(plane: np.ndarray, start: int, stop: int, height: int, box: np.ndarray) -> None:
    """Set pixels `start` to `stop` (excluded) in column-major order."""
    column, last = start // height, (stop - 1) // height
    top, bottom = start - column * height, stop - last * height
    box[0], box[1] = min(box[0], column), max(box[1], last)
    if column == last:
        box[2], box[3] = min(box[2], top), max(box[3], bottom - 1)
        fill(plane, column, top, bottom)
        return
    box[2], box[3] = 0, height - 1
    fill(plane, column, top, height)
    for middle in range(column + 1, last):
        fill(plane, middle, 0, height)
    fill(plane, last, 0, bottom)


@compiled
def edges(plane: np.ndarray, height: int, width: int, area: Area, edge: np.ndarray) -> int:
    """Boundary pixels (§1.2) of a plane within `area` into `edge`; their number."""
    left, right, first, last = area
    count = 0
    for word in range(first, last + 1):
        inner = ALL
        if word == (height - 1) >> 6:  # the last row has no lower neighbour
            inner = ~(ONE << np.uint64((height - 1) & 63))
        line, under = plane[word, left : right + 2], plane[word + 1, left : right + 2]
        found = edge[word, left : right + 1]
        for x in range(right - left + 1):
            below = (line[x] >> ONE) | (under[x] << np.uint64(63))
            across = (line[x + 1] >> ONE) | (under[x + 1] << np.uint64(63))
            found[x] = (((line[x] ^ below) | (line[x] ^ across)) & inner) | (line[x] ^ line[x + 1])
        if right == width - 1:  # the last column has no right neighbour
            x = right - left
            found[x] = (line[x] ^ ((line[x] >> ONE) | (under[x] << np.uint64(63)))) & inner
        for x in range(right - left + 1):
            count += ones(found[x])
    return count


@compiled
def widen(source: np.ndarray, target: np.ndarray, first: int, last: int, columns: int, step: int) -> None:
    """`source` ORed with itself moved up and down by `step` (1 to 63) rows, within words first..last.

    The words before and after these are zero.
    """
    near, far = np.uint64(step), np.uint64(64 - step)
    for word in range(first, last + 1):
        above, here, below, wide = source[word - 1], source[word], source[word + 1], target[word]
        for x in range(columns):
            wide[x] = here[x] | here[x] << near | here[x] >> near | above[x] >> far | below[x] << far


@compiled
def dilate(edge: np.ndarray, area: Area, half: np.ndarray, work: np.ndarray, grown: np.ndarray) -> None:
    """Every pixel of `area` within Euclidean distance r of a pixel of `edge` in it into `grown`.

    `half[d]` is the disk's half height d columns from its centre; r = len(half) - 1. What reaches `reached`
    rows may next be moved by `reached + 1` at most: a column lost its pixels beyond the end of the area,
    and a longer step would leave a gap where they were (§6.3).
    """
    left, right, first, last = area
    columns, reached = right - left + 1, 0
    source, target = work[0], work[1]
    for word in range(first, last + 1):
        source[word + 1, :columns] = edge[word, left : right + 1]
        grown[word, left : right + 1] = ZERO
    work[:, first, :columns] = ZERO
    work[:, last + 2, :columns] = ZERO
    for distance in range(half.size - 1, -1, -1):
        while reached < half[distance]:
            step = min(reached + 1, half[distance] - reached, 63)
            widen(source, target, first + 1, last + 1, columns, step)
            source, target = target, source
            reached += step
        for word in range(first, last + 1):
            wide, sink = source[word + 1, :columns], grown[word, left : right + 1]
            for x in range(columns - distance):
                sink[x + distance] |= wide[x]
            for x in range(columns - distance):
                sink[x] |= wide[x + distance]


@compiled
def common(a: np.ndarray, b: np.ndarray, area: Area) -> int:
    """Pixels of `area` that are set in both planes."""
    left, right, first, last = area
    count = 0
    for word in range(first, last + 1):
        p, q = a[word, left : right + 1], b[word, left : right + 1]
        for x in range(right - left + 1):
            count += ones(p[x] & q[x])
    return count


@compiled
def near(boxes: np.ndarray, area: Area, reach: int) -> Area:
    """The part of `area` where boundary pixels of both masks can lie within `reach` of each other."""
    a, b = boxes[0], boxes[1]
    left, right = max(a[0], b[0]) - 1 - reach, min(a[1], b[1]) + reach
    top, bottom = max(a[2], b[2]) - 1 - reach, min(a[3], b[3]) + reach
    return max(left, area[0]), min(right, area[1]), max(top >> 6, area[2]), min(bottom >> 6, area[3])


@compiled
def count_frames(
    letters: np.ndarray,
    starts: np.ndarray,
    codes: np.ndarray,
    height: int,
    width: int,
    half: np.ndarray,
    out: np.ndarray,
) -> int:
    """Counts of T frames into `out` int64 [T, 8] (columns of `counts.py`).

    Code c is `letters[starts[c]:starts[c + 1]]`; side s (0 truth, 1 guess) of frame t is the union of codes
    `codes[2t + s]` to `codes[2t + s + 1]` (excluded). Returns -1, or the number of a damaged code.
    """
    words = (height + 63) >> 6
    planes = np.zeros((2, words + 1, width + 1), dtype=np.uint64)
    edge = np.empty((2, words, width), dtype=np.uint64)
    grown = np.empty((words, width), dtype=np.uint64)
    work = np.empty((2, words + 2, width), dtype=np.uint64)
    boxes = np.empty((2, 4), dtype=np.int64)
    for frame in range(out.shape[0]):
        for side in range(2):
            boxes[side, 0], boxes[side, 1], boxes[side, 2], boxes[side, 3] = width, -1, height, -1
            for code in range(codes[2 * frame + side], codes[2 * frame + side + 1]):
                text = letters[starts[code] : starts[code + 1]]
                if not write(text, planes[side], height, width, boxes[side]):
                    return code
        left, right = min(boxes[0, 0], boxes[1, 0]), max(boxes[0, 1], boxes[1, 1])
        top, bottom = min(boxes[0, 2], boxes[1, 2]), max(boxes[0, 3], boxes[1, 3])
        if right < 0:
            continue
        area = (max(left - 1, 0), right, max(top - 1, 0) >> 6, bottom >> 6)
        out[frame, 0] = common(planes[0], planes[1], area)
        for side in range(2):
            out[frame, 2 + side] = common(planes[side], planes[side], area)
            out[frame, 4 + side] = edges(planes[side], height, width, area, edge[side])
        out[frame, 1] = out[frame, 2] + out[frame, 3] - out[frame, 0]
        close = near(boxes, area, half.size - 1)
        if out[frame, 4] and out[frame, 5] and close[0] <= close[1] and close[2] <= close[3]:
            for side in range(2):
                dilate(edge[1 - side], close, half, work, grown)
                out[frame, 6 + side] = common(edge[side], grown, close)
        planes[:, area[2] : area[3] + 1, left : right + 1] = ZERO
    return -1
