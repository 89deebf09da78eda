"""What the builder rejects: each reason from a reply that differs from a good one in that point alone."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from cot_builders import BEST, FIRST, FRAMES, LAST, THOUGHT, answer, make_videos, select
from videoseg.data.readers.mevis import MevisReader
from videoseg.dialogue.grammar import parse
from videoseg.errors import UsageError
from videoseg.training.cot.checks import Limits, Reason, Truth, check_reply
from videoseg.training.cot.guide import facts, teacher_prompt
from videoseg.types import Interval, Select


@pytest.fixture
def truth(tmp_path: Path) -> Truth:
    return Truth.of(MevisReader(make_videos(tmp_path, ["the square"]))[0])


def reasons(
    text: str, truth: Truth, limits: Limits | None = None, *, query: str = "the square", earlier: Any = ()
) -> list[str]:
    found = check_reply(parse(text), 1, earlier, truth, query, limits or Limits())
    assert all(one.turn == 1 and one.detail for one in found)
    return [one.reason.value for one in found]


def test_the_masks_as_the_builder_sees_them(truth: Truth) -> None:
    assert (truth.num_frames, truth.expected) == (FRAMES, True)
    assert truth.visible == frozenset(range(FIRST, LAST + 1))
    assert truth.share(BEST) == 1
    assert truth.share(FIRST) == 4 / 64
    assert truth.tiou(Interval(FIRST, LAST)) == 1
    assert truth.tiou(Interval(0, FRAMES - 1)) == 6 / 12
    assert truth.tiou(Interval(LAST, FRAMES - 1)) == 1 / 9
    assert truth.tiou(Interval(9, 11)) == 0


def test_good_replies_pass(truth: Truth) -> None:
    assert reasons(select(), truth) == []
    assert reasons(answer(), truth) == []
    assert reasons(select(5, 5, 5), truth) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (select(-1, 8), ["out_of_range"]),
        (select(3, FRAMES), ["out_of_range"]),
        (answer(keyframe=99), ["out_of_range"]),
        (select(8, 3), ["empty_interval"]),
        (select(3, 5, 6), ["keyframe_outside_interval"]),
        (select(seg=False), ["no_seg"]),
        (answer(seg=False), ["no_seg"]),
        (select(0, 8, 1), ["keyframe_without_target"]),
        (select(3, 8, 3), ["keyframe_without_target"]),  # a corner of it is no clear view
        (select(9, 11, 10), ["keyframe_without_target", "interval_without_target"]),
        (answer(0, 11), []),
        (answer(6, 7, 6), ["low_tiou"]),
        (select(6, 7, 6), []),  # zooming in needs no whole lifetime
        (select(think="x" * 50), ["missing_steps"]),
        (select(think=THOUGHT), ["missing_steps"]),
        (
            select(think=THOUGHT.replace("Step 2: a bright square on the left", "Step 2:") + "Action: go."),
            ["missing_steps"],
        ),
        (
            select(think="Step 2: a square. Step 1: it comes in. Step 3: it fits. Action: look."),
            ["missing_steps"],
        ),
        (select(think=THOUGHT + "Action: Confirmed."), ["wrong_action"]),
        (answer(think=THOUGHT + "Action: See new segment because of it."), ["wrong_action"]),
        (answer(think=THOUGHT + "Action: done."), []),
        (select(think="Step 1: a. Step 2: b. Step 3: c. Action: d"), ["short_thought"][:0]),
        (select(think="Step 1: a Step 2: b Step 3: c Action: d"), ["short_thought"]),
        (select(think=THOUGHT + "very " * 400 + "Action: look."), ["long_thought"]),
        (select(think=THOUGHT + "The masks show it. Action: look."), ["leak"]),
        (select(think=THOUGHT + "The ground-truth says so. Action: look."), ["leak"]),
        (select(think=THOUGHT + "I was told. Action: look."), ["leak"]),
        (select(think=THOUGHT + "It is unmasked. Action: look."), []),
    ],
)
def test_reasons(truth: Truth, text: str, expected: list[str]) -> None:
    assert reasons(text, truth) == expected


def test_a_word_of_the_query_is_no_leak(truth: Truth) -> None:
    text = select(think=THOUGHT + "He wears a mask. Action: look.")
    assert reasons(text, truth) == ["leak"]
    assert reasons(text, truth, query="the man with the mask") == []


def test_a_repeated_select(truth: Truth) -> None:
    earlier = [Select(Interval(FIRST, LAST), BEST)]
    assert reasons(select(), truth, earlier=earlier) == ["repeated_select"]
    assert reasons(select(keyframe=5), truth, earlier=earlier) == []
    assert reasons(answer(), truth, earlier=earlier) == []


def test_no_such_object() -> None:
    truth = Truth(FRAMES, dict.fromkeys(range(FRAMES), 0), expected=False)
    assert reasons(answer(seg=False), truth) == []
    assert reasons(answer(), truth) == ["false_target"]
    assert reasons(select(), truth) == []


def test_only_annotated_frames_count() -> None:
    truth = Truth(FRAMES, {0: 0, 4: 50, 8: 60}, expected=True)
    assert truth.tiou(Interval(4, 11)) == 1
    assert reasons(answer(1, 9, 8), truth) == []
    assert reasons(answer(1, 9, 7), truth) == ["keyframe_not_annotated"]
    assert "interval_without_target" in reasons(select(5, 7, 6), truth)


def test_every_limit_can_be_lifted(truth: Truth) -> None:
    off = Limits().override(
        min_tiou=0,
        min_interval_frames=0,
        min_keyframe_share=0,
        keyframe_inside=False,
        steps=False,
        action=False,
        new_selects=False,
        min_thought=0,
        max_thought=10**6,
        leaks=[],
    )
    assert set(asdict(off)) == set(asdict(Limits()))
    earlier = [Select(Interval(9, 11), 3)]
    assert reasons(select(9, 11, 3, think="the mask says"), truth, off, earlier=earlier) == []
    # A keyframe without a single pixel of the target contradicts the masks whatever the limits.
    assert reasons(select(9, 11, 10), truth, off) == ["keyframe_without_target"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"min_iou": 0.3}, "unknown limit 'min_iou'"),
        ({"min_tiou": 30}, "share from 0 to 1"),
        ({"min_tiou": "0.3"}, "min_tiou is '0.3'"),
        ({"steps": 1}, "steps is 1"),
        ({"min_thought": True}, "min_thought is True"),
        ({"min_thought": 5.5}, "min_thought is 5.5"),
        ({"leaks": "mask"}, "leaks is 'mask'"),
        ({"min_thought": 99, "max_thought": 9}, "exceeds"),
    ],
)
def test_bad_limits_are_named(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Limits().override(**values)


def test_reasons_are_stable_words() -> None:
    assert all(reason.value == reason.name.lower() for reason in Reason)


def test_hints_say_when_and_where(tmp_path: Path) -> None:
    sample = MevisReader(make_videos(tmp_path, ["the square"]))[0]
    truth = Truth.of(sample)
    told = facts(sample, truth)
    assert "frames 3 to 8" in told
    assert "frame 6 shows most" in told
    assert "between 12 and 38 percent of the width" in told
    assert "between 25 and 58 percent of the height" in told
    assert told in teacher_prompt(sample, truth, 3, hints=True)
    assert told not in teacher_prompt(sample, truth, 3, hints=False)
    assert "at most 3 replies" in teacher_prompt(sample, truth, 3, hints=False)
