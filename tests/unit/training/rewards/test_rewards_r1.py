"""R1's rewards by hand: the cases of the specification (§4), and the faults that are not repeated."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videoseg.training.length import LengthControl
from videoseg.training.matching import Limits, assign, box_iou, hits
from videoseg.training.r1_truth import box_of, cue_of, point_of
from videoseg.training.rewards import r1
from videoseg.training.rewards.base import Outcome, score
from videoseg.training.rewards.r1 import SceneTruth, scene_truth
from videoseg.training.rewards.registry import choose

BOXES = [[100, 100, 300, 300], [500, 500, 700, 800]]
POINTS = [[200, 200], [600, 650]]
TRUTH = SceneTruth(np.array(BOXES, float), np.array(POINTS, float))


def item(number: int, **changes: Any) -> dict[str, Any]:
    made = {"bbox_2d": BOXES[number], "point_2d": POINTS[number], "neg_point_2d": [90, 200], **changes}
    return {key: value for key, value in made.items() if value is not None}


def reply(*items: Any, think: str = "It is red.") -> str:
    return f"<think>{think}</think><answer>{json.dumps(list(items))}</answer>"


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([item(0), item(1)], 3.0),
        ([item(1), item(0)], 3.0),
        ([item(0)], 1.5),
        ([item(0)] * 5, 3 / 5),
        ([item(0), item(0)], 1.5),
        ([], 0.0),
        ([item(0, bbox_2d=[100, 100, 319, 319]), item(1)], (3 + 3) / 2),  # edges 9.5 px on average
        ([item(0, bbox_2d=[100, 100, 320, 320]), item(1)], (2 + 3) / 2),  # 10 px: not below
        ([item(0, point_2d=[229, 200]), item(1)], 3.0),
        ([item(0, point_2d=[230, 200]), item(1)], (2 + 3) / 2),
        ([item(0, bbox_2d=[105, 105, 195, 300]), item(1)], (0 + 3) / 2),  # a point outside of its own box
    ],
)
def test_accuracy_by_hand(items: list[Any], expected: float) -> None:
    assert r1.accuracy(reply(*items), TRUTH) == pytest.approx(expected)


def test_a_point_outside_its_own_box_is_not_found() -> None:
    alone = SceneTruth(TRUTH.boxes[:1], TRUTH.points[:1])
    assert r1.accuracy(reply(item(0)), alone) == 3
    assert r1.accuracy(reply(item(0, bbox_2d=[201, 100, 300, 300])), alone) == 0


@pytest.mark.parametrize("spoilt", [{"point_2d": None}, {"point_2d": [1]}, {"point_2d": [None, 2]}])
def test_an_incomplete_object_does_not_spoil_the_others(spoilt: dict[str, Any]) -> None:
    """The ancestor gives 0 here."""
    assert r1.accuracy(reply(item(0, **spoilt), item(1)), TRUTH) == (2 + 3) / 2


def test_a_dictionary_and_an_empty_list_earn_nothing() -> None:
    for body in (json.dumps(item(0)), "[]", "[1, 2]", "red"):
        text = f"<think>a</think><answer>{body}</answer>"
        assert (r1.accuracy(text, TRUTH), r1.seg_format(text), r1.think_format(text)) == (0, 0, 1)


def test_coordinates_of_another_space_are_scaled() -> None:
    pairs = zip(np.array(BOXES) / 2, np.array(POINTS) / 2, strict=True)
    half = reply(*({"bbox_2d": box.tolist(), "point_2d": point.tolist()} for box, point in pairs))
    assert r1.accuracy(half, TRUTH, extent=420) == 3


def test_at_most_120_objects_count() -> None:
    many = SceneTruth(np.repeat(TRUTH.boxes[:1], 200, 0), np.repeat(TRUTH.points[:1], 200, 0))
    assert r1.accuracy(reply(*[item(0)] * 150), many) == 3


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([item(0)], 3.0),
        ([item(0, neg_point_2d=None)], 2.0),
        ([item(0), {}], 1.5),
        ([item(0, bbox_2d=[1, 2])], 2.0),
    ],
)
def test_format_of_items(items: list[Any], expected: float) -> None:
    assert r1.seg_format(reply(*items)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think></think> \n <answer></answer>", 1),
        ("so <think>a</think><answer>[]</answer>", 0),
        ("<think>a</think>then<answer>[]</answer>", 0),
        ("<answer>[]</answer><think>a</think>", 0),
        ("<think>a</think><answer>[]", 0),
    ],
)
def test_format_of_the_whole(text: str, expected: float) -> None:
    assert r1.think_format(text) == expected


@pytest.mark.parametrize(
    ("think", "expected"),
    [
        ("Red. Red. Blue.", 1),
        ("Red. Red. Red.", 0),
        ("Red! Blue. Red. Blue", 0),
        ("At 10.5 and 20.5 and 10.5 and 20.5 and 10.5.", 1),  # decimals are no sentences
        ("", 1),
    ],
)
def test_repeated_sentences(think: str, expected: float) -> None:
    assert r1.non_repeat(reply(item(0), think=think)) == expected


def test_repeated_coordinates_of_the_answer_are_no_repetition() -> None:
    """The ancestor splits the answer at decimal points too."""
    twice = item(0, bbox_2d=[1.5, 2.5, 3.5, 4.5])
    assert r1.non_repeat(reply(*[twice] * 6)) == 1


def mask(left: int, top: int, right: int, bottom: int, size: tuple[int, int] = (420, 840)) -> np.ndarray:
    drawn = np.zeros(size, bool)
    drawn[top:bottom, left:right] = True
    return drawn


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([[399, 400]], 1.0),  # one pixel left of the object
        ([[360, 400]], 1.0),  # 40 pixels
        ([[359, 400]], 0.0),
        ([[380, 380]], 1.0),  # 20 + 20 by taxicab, beside the corner
        ([[379, 380]], 0.0),
        ([[450, 450]], 0.0),  # on the object
        ([[850, 400]], 0.0),
        ([[399, 400], [450, 450], [None, 1]], 0.5),
        ([], 0.0),
    ],
)
def test_negative_points(points: list[Any], expected: float) -> None:
    truth = scene_truth([mask(400, 200, 500, 250)])  # 400..499 x 400..499 in the square
    text = reply(*({"neg_point_2d": point} for point in points))
    assert r1.negative_point(text, truth) == expected


def test_negatives_of_all_objects_are_one_pool_against_their_union() -> None:
    truth = scene_truth([mask(400, 200, 500, 250), mask(380, 200, 400, 250)])
    assert r1.negative_point(reply({"neg_point_2d": [390, 450]}), truth) == 0


def test_the_truth_of_masks() -> None:
    truth = scene_truth([mask(100, 50, 200, 150), np.zeros((420, 840), bool), mask(0, 0, 840, 1)])
    assert truth.boxes.tolist() == [[100, 100, 200, 300], [0, 0, 840, 2]]
    assert 140 <= truth.points[0][0] <= 160
    empty = scene_truth([np.zeros((4, 4), bool)])
    assert r1.accuracy(reply(item(0)), empty) == r1.negative_point(reply(item(0)), empty) == 0


def test_the_point_is_deep_inside_even_where_the_centroid_is_not() -> None:
    ring = mask(10, 10, 90, 90, (100, 100)) & ~mask(20, 20, 89, 89, (100, 100))
    x, y = point_of(ring)
    assert ring[y, x]
    assert not ring[50, 50]
    assert box_of(ring) == (10, 10, 90, 90)
    full = np.ones((30, 30), bool)
    assert point_of(full) in [(14, 14), (15, 15), (14, 15), (15, 14)]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 60), st.integers(0, 40), st.integers(2, 30), st.integers(2, 30))
def test_a_true_answer_earns_everything(left: int, top: int, width: int, height: int) -> None:
    shown = mask(left, top, left + width, top + height, (80, 100))
    cue, square = cue_of(shown), np.array([840 / 100, 840 / 80])
    assert cue.point is not None
    assert cue.negative is not None
    text = reply(
        {
            "bbox_2d": (np.array(cue.box) * np.tile(square, 2)).tolist(),
            "point_2d": (np.array(cue.point) * square).tolist(),
            "neg_point_2d": (np.array(cue.negative) * square).tolist(),
        }
    )
    truth = scene_truth([shown])
    assert r1.accuracy(text, truth) == 3
    assert r1.negative_point(text, truth) == 1


boxes = st.lists(st.tuples(*[st.integers(0, 839)] * 4), min_size=1, max_size=6)


@given(boxes, boxes)
def test_the_assignment_is_the_best_of_all(mine: list[tuple[int, ...]], true: list[tuple[int, ...]]) -> None:
    from itertools import permutations

    a, b = np.array(mine, float), np.array(true, float)
    passed = hits(a, a[:, :2], b, b[:, :2], Limits())
    rows, columns = sorted(passed.shape)
    wide = passed if passed.shape[0] == rows else passed.T
    best = max(sum(wide[r, c] for r, c in enumerate(chosen)) for chosen in permutations(range(columns), rows))
    assert assign(passed).sum() == best
    assert assign(passed).shape == (rows,)
    assert np.allclose(box_iou(b, b).diagonal()[(b[:, 2:] >= b[:, :2]).all(1)], 1)


def outcome(text: str, tokens: int, length: LengthControl | None, difficulty: float = 3.0) -> Outcome:
    columns = {
        "truth": TRUTH,
        "extent": 840,
        "think_tokens": tokens,
        "difficulty": difficulty,
        "length": length,
    }
    return Outcome((text,), (True,), ((0.0,),), (0.0,), columns)


def total(text: str, tokens: int, length: LengthControl | None, difficulty: float = 3.0) -> float:
    rewards = choose([item.name for item in (*r1.R1, r1.R1_LENGTH)])
    return float(score(rewards, [outcome(text, tokens, length, difficulty)]).total[0])


def test_the_sum_is_multiplied_by_the_length_factor() -> None:
    text = reply(item(0), item(1))
    whole = total(text, 500, None)
    assert whole == pytest.approx(1 + 3 + 3 + 1)  # no mask: the negative points are worth nothing
    assert total(text, 90, LengthControl()) == pytest.approx(whole * 0.9)  # 50 over the budget of 40
    assert total(text, 40, LengthControl()) == pytest.approx(whole)
    assert total(text, 90, LengthControl(), difficulty=9.0) == pytest.approx(whole)
    assert total(text, 10_000, LengthControl()) == 0


def test_a_wrong_answer_may_be_spared_and_an_empty_thought_need_not() -> None:
    wrong = reply({"bbox_2d": [0, 0, 5, 5]})
    spared = LengthControl(on_correct_only=True)
    assert total(wrong, 90, spared) == total(wrong, 0, None)
    assert total(wrong, 90, LengthControl()) < total(wrong, 0, None)
    least = LengthControl(min_think_tokens=5)
    assert total(wrong, 4, least) == pytest.approx(total(wrong, 5, least) - 1)
