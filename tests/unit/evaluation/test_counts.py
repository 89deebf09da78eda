"""Counts of mask pairs against their definition, for both implementations: any difference is a failure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jf_reference as reference
from videoseg.evaluation.counts import (
    Counter,
    compiled_counts,
    counter,
    disk,
    frame_counts,
    plain_counts,
    radius,
)
from videoseg.evaluation.metrics import contours, regions
from videoseg.masks import Rle

SIZES = [
    (1, 1),
    (1, 70),
    (70, 1),
    (2, 2),
    (3, 130),
    (64, 64),
    (65, 63),
    (128, 72),
    (90, 127),
    (61, 130),
    (4, 900),
]
KINDS = ["empty", "full", "pixel", "dots", "border", "noise", "blob", "box", "inverse"]


@pytest.fixture(params=["compiled", "plain"])
def count(request: pytest.FixtureRequest) -> Counter:
    if request.param == "plain":
        return plain_counts
    pytest.importorskip("numba", reason="the compiled scorer needs the extra `fast`")
    return compiled_counts


def draw_mask(rng: np.random.Generator, size: tuple[int, int], kind: str) -> np.ndarray:
    height, width = size
    y, x = np.mgrid[:height, :width]
    cy, cx = rng.integers(0, height), rng.integers(0, width)
    ry, rx = rng.integers(1, height + 1), rng.integers(1, width + 1)
    rim = (y == 0) | (x == 0) | (y == height - 1) | (x == width - 1)
    made: dict[str, Callable[[], np.ndarray]] = {
        "empty": lambda: np.zeros(size, dtype=bool),
        "full": lambda: np.ones(size, dtype=bool),
        "pixel": lambda: (y == cy) & (x == cx),
        "dots": lambda: rng.random(size) < 0.01,
        "border": lambda: rim & (rng.random(size) < 0.1),
        "noise": lambda: rng.random(size) < rng.random(),
        "blob": lambda: ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1,
        "box": lambda: (abs(y - cy) < ry) & (abs(x - cx) < rx),
        "inverse": lambda: ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 >= 1,
    }
    return made[kind]()


def draw_pair(rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Two masks; half of the time the second is the first, moved by up to a little more than the radius."""
    truth = draw_mask(rng, size, str(rng.choice(KINDS)))
    if rng.random() < 0.5:
        return truth, draw_mask(rng, size, str(rng.choice(KINDS)))
    reach = radius(*size) + 1
    shift = tuple(int(v) for v in rng.integers(-reach, reach + 1, size=2))
    return truth, moved(truth, shift) ^ (rng.random(size) < 0.002)


def moved(mask: np.ndarray, shift: tuple[int, int]) -> np.ndarray:
    places = np.argwhere(mask) + shift
    inside = ((places >= 0) & (places < mask.shape)).all(axis=1)
    result = np.zeros_like(mask)
    result[tuple(places[inside].T)] = True
    return result


def compare(pairs: list[tuple[np.ndarray, np.ndarray]], counters: list[Counter], slow: bool = False) -> None:
    size = pairs[0][0].shape
    wanted = [reference.counts(a, b, pairs=slow) for a, b in pairs]
    truth, guess = ([(Rle.encode(pair[side]),) for pair in pairs] for side in (0, 1))
    for count in counters:
        found = count(truth, guess, size)
        assert found.tolist() == wanted, (count.__name__, size)
    scores = zip(regions(found).tolist(), contours(found).tolist(), strict=True)
    assert list(scores) == [reference.scores(row) for row in wanted]


def both() -> list[Counter]:
    return [plain_counts] if counter() is plain_counts else [plain_counts, compiled_counts]


any_size = st.sampled_from(SIZES) | st.tuples(st.integers(1, 140), st.integers(1, 140))


@settings(max_examples=1250, deadline=None)
@given(seed=st.integers(0, 2**32), size=any_size)
def test_ten_thousand_random_masks(seed: int, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    compare([draw_pair(rng, size) for _ in range(8)], both())


@pytest.mark.parametrize("size", [(480, 854), (640, 360), (1080, 1920), (2160, 3840), (3840, 2160)])
def test_large_masks(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(size[0])
    y, x = np.mgrid[: size[0], : size[1]]
    truth = (y - size[0] // 3) ** 2 + (x - size[1] // 2) ** 2 < (min(size) // 6) ** 2
    reach = radius(*size)
    corners = np.zeros(size, dtype=bool)
    corners[:: size[0] - 1, :: size[1] - 1] = True
    guesses = [moved(truth, tuple(rng.integers(-reach, reach + 1, 2))), corners, truth | corners]
    compare([(truth, guess) for guess in guesses] + [(corners, truth)], both(), slow=True)


def border_dots(size: tuple[int, int], gap: int) -> np.ndarray:
    """Single pixels along all borders and in the corners."""
    dots = np.zeros(size, dtype=bool)
    dots[0, ::gap] = dots[-1, ::gap] = dots[::gap, 0] = dots[::gap, -1] = True
    dots[:: max(size[0] - 1, 1), :: max(size[1] - 1, 1)] = True
    return dots


@pytest.mark.parametrize("size", [(300, 420), (420, 300), (257, 640), (64, 1200), (1000, 129)])
def test_border_dots(size: tuple[int, int]) -> None:
    """The clipped-edge trap (§6.3): widening by too long steps leaves gaps, only at the image's edge."""
    reach = radius(*size) + 2
    dots = border_dots(size, 4 * reach + 3)
    steps = range(-reach, reach + 1)
    shifts = [(dy, dx) for dy in steps for dx in steps if max(abs(dy), abs(dx)) >= reach - 3 or dy * dx == 0]
    pairs = [(dots, guess) for guess in (moved(dots, shift) for shift in shifts) if guess.any()]
    compare(pairs, both(), slow=True)


@pytest.mark.parametrize("size", [(80, 1400), (1400, 80)])
def test_single_pixels_at_the_edge(size: tuple[int, int], count: Counter) -> None:
    """One pixel in each mask: matched exactly where their boundaries are within the radius."""
    reach = radius(*size)
    places = [(y, x) for y in (0, 1, 2) for x in (0, 1, 2)]
    pairs = list(_single(size, places, reach))
    truth, guess = ([(Rle.encode(pair[side]),) for pair in pairs] for side in (0, 1))
    wanted = [reference.counts(a, b, pairs=True) for a, b in pairs]
    assert count(truth, guess, size).tolist() == wanted


def _single(size: tuple[int, int], places: list, reach: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for y, x in places:
        for dy in range(0, reach + 3, 2):
            for dx in (0, int(max(reach * reach - dy * dy, 0) ** 0.5), reach, reach + 1):
                a, b = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
                a[y, x] = b[y + dy, x + dx] = True
                yield a, b


def test_disk_is_euclidean() -> None:
    for reach in (1, 6, 18, 36):
        y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
        inside = x * x + y * y <= reach * reach
        assert [2 * int(half) + 1 for half in disk(reach)] == inside.sum(axis=0)[reach:].tolist()


def test_instances_are_united_and_missing_masks_are_empty(count: Counter) -> None:
    size = (50, 70)
    rng = np.random.default_rng(3)
    a, b, c = (draw_mask(rng, size, "blob") for _ in range(3))
    codes = [Rle.encode(mask) for mask in (a, b, c)]
    found = count([(codes[0], codes[1]), ()], [(codes[2],), (codes[2],)], size)
    empty = np.zeros(size, dtype=bool)
    assert found.tolist() == [reference.counts(a | b, c), reference.counts(empty, c)]


def test_one_frame_does_not_leak_into_the_next(count: Counter) -> None:
    size, rng = (100, 90), np.random.default_rng(5)
    pairs = [draw_pair(rng, size) for _ in range(20)]
    truth, guess = ([(Rle.encode(pair[side]),) for pair in pairs] for side in (0, 1))
    together = count(truth, guess, size).tolist()
    assert together == [count([a], [b], size)[0].tolist() for a, b in zip(truth, guess, strict=True)]


def test_frame_counts_takes_one_mask_instances_or_none() -> None:
    mask = Rle.encode(np.eye(9, dtype=bool))
    found = frame_counts([mask, [mask], None], [mask, mask, [mask, mask]], (9, 9))
    assert found[:, :4].tolist() == [[9, 9, 9, 9], [9, 9, 9, 9], [0, 9, 0, 9]]
    assert frame_counts([], [], (9, 9)).shape == (0, 8)


@pytest.mark.parametrize(
    ("truth", "guess", "message"),
    [
        ([None], [None, None], "1 true masks, 2 predicted"),
        ([None, Rle.empty(3, 4)], [None, None], "frame 1: mask of 3x4, 4x3"),
    ],
)
def test_what_cannot_be_counted(truth: list, guess: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        frame_counts(truth, guess, (4, 3))


@pytest.mark.parametrize("counts", ["", "0", "zzzz", "~", "P" * 20, Rle.empty(9, 9).counts, "é"])
def test_a_damaged_code_is_refused_with_its_frame(counts: str) -> None:
    pytest.importorskip("numba")
    good = Rle.empty(9, 8)
    with pytest.raises(ValueError, match="frame 1: a mask's counts are no code of 9x8"):
        compiled_counts([(good,), (good,)], [(good,), (Rle(9, 8, counts),)], (9, 8))
