"""R1's answers: what is read, what is refused, and that printing and reading cancel."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videoseg.dialogue.cues import answer_items, format_cues, parse_cues, parse_seconds, parse_share
from videoseg.dialogue.r1 import R1Preset, answer_map
from videoseg.errors import ReplyError
from videoseg.types import Cue, Cues, Interval

SIZE = (420, 1680)
TO_FRAME = answer_map(SIZE, R1Preset())


def reply(*items: object, think: str = "so") -> str:
    return f"<think>{think}</think><answer>{json.dumps(items)}</answer>"


def read(*items: object) -> tuple[Cue, ...]:
    return parse_cues(reply(*items), TO_FRAME, SIZE).objects


def test_coordinates_of_the_square_become_pixels_of_the_frame() -> None:
    found = read({"bbox_2d": [10, 20, 101, 201], "point_2d": [50, 100], "neg_point_2d": [5, 101]})
    assert found == (Cue((20, 10, 202, 100), (100, 50), (10, 50)),)


def test_points_may_be_missing() -> None:
    assert read({"bbox_2d": [0, 0, 10, 10]}) == (Cue((0, 0, 20, 5)),)
    assert read({"bbox_2d": [0, 0, 10, 10], "point_2d": [1, 2, 3], "neg_point_2d": "x"}) == (
        Cue((0, 0, 20, 5)),
    )


def test_a_negative_on_the_point_is_dropped_and_one_in_the_box_is_kept() -> None:
    same = read({"bbox_2d": [0, 0, 10, 10], "point_2d": [4, 4], "neg_point_2d": [4, 4.2]})[0]
    inside = read({"bbox_2d": [0, 0, 10, 10], "point_2d": [4, 4], "neg_point_2d": [8, 8]})[0]
    assert same.negative is None
    assert inside.negative == (16, 4)


@pytest.mark.parametrize(
    "box", [[5, 5, 5, 9], [9, 5, 5, 9], [900, 5, 950, 9], [1, 2, 3], [1, 2, 3, None], "box"]
)
def test_a_box_without_an_area_in_the_frame_drops_its_object_only(box: object) -> None:
    assert len(read({"bbox_2d": box, "point_2d": [1, 1]}, {"bbox_2d": [0, 0, 10, 10]})) == 1


def test_boxes_are_clipped() -> None:
    assert read({"bbox_2d": [-10, -10, 900, 900]})[0].box == (0, 0, 1680, 420)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("nothing", "no_answer"),
        ("<answer>[]", "no_answer"),
        ("<answer>the red one</answer>", "bad_json"),
        ("<answer>[{'bbox_2d': [1, 2, 3, 4]}]</answer>", "bad_json"),
        ('<answer>{"bbox_2d": [1, 2, 3, 4]}</answer>', "not_a_list"),
        ("<answer>" + "[" * 50_000 + "</answer>", "bad_json"),
        ("<answer>" + " " * 10 + "[" + "1," * 100_000 + "1]</answer>", "not_a_list"),
    ],
)
def test_anything_but_a_json_list_is_an_error_that_says_which(text: str, kind: str) -> None:
    with pytest.raises(ReplyError) as caught:
        answer_items(text)
    assert caught.value.kind == kind


@given(st.text())
def test_no_text_raises_anything_else(text: str) -> None:
    with contextlib.suppress(ReplyError):
        parse_cues(f"<answer>{text}</answer>", TO_FRAME, SIZE)


def test_a_thought_may_mention_the_tags() -> None:
    text = reply({"bbox_2d": [0, 0, 10, 10]}, think="I will write <answer>[1]</answer>")
    assert len(parse_cues(text, TO_FRAME, SIZE).objects) == 1


points = st.tuples(st.integers(0, 839), st.integers(0, 839))


@given(st.lists(st.tuples(points, points, points), max_size=4))
def test_printing_and_reading_cancel(drawn: list[tuple[tuple[int, int], ...]]) -> None:
    """On a frame as large as the square nothing is lost by rounding."""
    size = (840, 840)
    plane = answer_map(size, R1Preset())
    objects = tuple(
        Cue((x, y, x + 1, y + 1), point, None if negative == point else negative)
        for (x, y), point, negative in drawn
    )
    cues = Cues("as it is", objects)
    assert parse_cues(format_cues(cues, plane.inverse()), plane, size) == cues


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The event happens in 1.0 - 2.5 seconds.", Interval(10, 25)),
        ("The event happens in 2.5 - 1 seconds.", Interval(10, 25)),
        ("<think>3 of 4 discs</think>The event happens in 0 to 99 seconds", Interval(5, 40)),
        ("from 1.5 s until 2 s", Interval(15, 20)),
        ("It happens at 2 seconds.", None),
        ("never", None),
    ],
)
def test_seconds(text: str, expected: Interval | None) -> None:
    assert parse_seconds(text, 10.0, Interval(5, 40)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("40%", 0.4), ("100 %", 1.0), ("the last 40%", 0.6), ("70", 0.7), ("250%", 1.0), ("middle", None)],
)
def test_shares(text: str, expected: float | None) -> None:
    assert parse_share(text) == (None if expected is None else pytest.approx(expected))
