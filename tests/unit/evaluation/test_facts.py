"""Facts of a dialogue beside its masks, worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_builders import square
from videoseg.data.frames import ImageFrames
from videoseg.data.sample import Origin
from videoseg.evaluation.facts import dialogue_summary, interval_iou, item_facts, last_interval, valid_format
from videoseg.evaluation.truth import Item
from videoseg.masks import Rle
from videoseg.types import Answer, Interval, MaskReason, Query, Reply, Select, StopReason, Trace, Turn

STEMS = tuple(f"{number:05d}" for number in range(10))
ITEM = Item(
    ("v", "0"),
    Origin("mevis", Path("meta.json"), "v/0"),
    STEMS,
    (),
    group="motion",
    text="the disc",
    video=ImageFrames(Path("v"), tuple(f"{stem}.jpg" for stem in STEMS)),
)
MASK = [Rle.encode(square())]


def trace(*replies: Reply | None, keyframe: int = 4, stop: StopReason = StopReason.ANSWER) -> Trace:
    turns = tuple(Turn(i, (), "text", reply, num_tokens=7) for i, reply in enumerate(replies))  # type: ignore[arg-type]
    return Trace(Query("the disc"), turns, stop, keyframe, None, MaskReason.OK)


def facts(found: Trace | None, shown: set[int], item: Item = ITEM) -> dict[str, Any]:
    truth = [MASK if place in shown else [] for place in range(len(item.frames))]
    made = item_facts(item, truth, found)
    assert made is not None
    return made


def test_a_dialogue_of_two_turns() -> None:
    made = facts(trace(Select(Interval(0, 3), 1), Answer(Interval(2, 5), 4)), {3, 4, 5, 6})
    assert made == {
        "group": "motion",
        "query": "the disc",
        "frames": 10,
        "turns": 2,
        "stop": "answer",
        "valid_format": True,
        "keyframe": 4,
        "keyframe_hit": True,
        "interval": [2, 5],
        "interval_iou": pytest.approx(3 / 5),
        "tokens": 14,
    }


def test_what_cannot_be_said_is_none() -> None:
    nothing = facts(trace(Answer(Interval(2, 5), 4)), set())
    assert (nothing["keyframe_hit"], nothing["interval_iou"]) == (None, None)
    unread = facts(trace(None), {3})
    assert (unread["interval"], unread["interval_iou"], unread["valid_format"]) == (None, 0.0, False)
    assert item_facts(ITEM, [MASK] * 10, None) is None


def test_only_some_frames_are_evaluated() -> None:
    """Every third frame: positions count the whole video; a keyframe in between says nothing."""
    item = replace(ITEM, frames=STEMS[::3])
    made = facts(trace(Answer(Interval(3, 9), 3), keyframe=3), {1, 2}, item)
    assert (made["keyframe_hit"], made["interval_iou"]) == (True, pytest.approx(4 / 7))
    assert facts(trace(Answer(Interval(3, 9), 4), keyframe=4), {1}, item)["keyframe_hit"] is None
    assert facts(trace(Answer(Interval(3, 9), 0), keyframe=0), {1}, item)["keyframe_hit"] is False


@pytest.mark.parametrize(
    ("guess", "iou"),
    [((3, 6), 1.0), ((0, 2), 0.0), ((6, 3), 0.0), (None, 0.0), ((0, 9), 0.4), ((6, 6), 0.25)],
)
def test_intervals_count_both_ends(guess: tuple[int, int] | None, iou: float) -> None:
    assert interval_iou((3, 6), guess) == pytest.approx(iou)


def test_the_interval_is_cut_to_the_video_and_the_last_that_is_there() -> None:
    assert last_interval(trace(Select(Interval(1, 2), 1), Answer(Interval(-3, 40), 4)), 10) == (0, 9)
    assert last_interval(trace(Select(Interval(1, 2), 1), None), 10) == (1, 2)


def test_valid_format_needs_every_reply_and_an_answer() -> None:
    good = (Select(Interval(0, 1), 0), Answer(Interval(0, 1), 0))
    assert valid_format(trace(*good))
    assert not valid_format(trace(None, good[1]))
    assert not valid_format(trace(good[0], stop=StopReason.TURN_LIMIT))


def test_the_summary_counts_what_is_known() -> None:
    some = [
        facts(trace(Answer(Interval(3, 6), 4)), {3, 4, 5, 6}),
        facts(trace(Select(Interval(0, 1), 0), Answer(Interval(9, 9), 9), keyframe=9), {3}),
        facts(trace(None, stop=StopReason.INVALID_REPLY), set()),
        None,
    ]
    assert dialogue_summary(some) == {
        "expressions": 3,
        "turns": {"1": 2, "2": 1},
        "stop": {"answer": 2, "invalid_reply": 1},
        "valid_format": pytest.approx(200 / 3),
        "keyframe_hit": 50.0,
        "grounding": {"R1@0.3": 50.0, "R1@0.5": 50.0, "R1@0.7": 50.0, "mIoU": 50.0},
        "tokens": pytest.approx(28 / 3),
    }
    assert dialogue_summary([None]) is None
