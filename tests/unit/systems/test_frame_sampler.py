"""R1's frame sampler: the loop of the segment level, the frame level, and the alternatives of Table 5."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1_builders import INTERVAL, ScriptedReasoner
from videoseg.dialogue.r1 import R1Preset
from videoseg.systems.frame_sampler import Chosen, FrameSampler, cut
from videoseg.types import Interval, Vote


def choose(
    script: Sequence[Sequence[str]], length: int = 100, **fields: Any
) -> tuple[Chosen, ScriptedReasoner]:
    talk = ScriptedReasoner(script)
    return FrameSampler(talk, length, 10.0, R1Preset().override(**fields)).choose("the disc"), talk


def spans(*ends: tuple[float, float]) -> list[str]:
    return [INTERVAL.format(*pair) for pair in ends]


def test_intervals_are_averaged_and_all_replies_drawn_at_once() -> None:
    chosen, talk = choose([spans((2, 4), (4, 6)), ["50%", "no idea", "70%"]])
    assert chosen.segment == Interval(30, 50)
    assert chosen.target == 30 + int(21 * 0.6)
    assert [draw.count for _, draw in talk.asked] == [10, 10]
    assert {(draw.temperature, draw.top_p) for _, draw in talk.asked} == {(0.6, 0.9)}
    first, second = (turn.reply for turn in chosen.turns)
    assert isinstance(first, Vote)
    assert isinstance(second, Vote)
    assert first.spread == (10.0, 10.0)
    assert (second.asked, len(second.values), second.keyframe) == (3, 2, chosen.target)
    assert second.spread == pytest.approx((0.1,))


def test_it_asks_again_inside_the_segment_until_that_is_short() -> None:
    chosen, talk = choose([spans((0, 8)), spans((1, 6)), spans((2, 4)), ["0%"]], rounds=5)
    assert (chosen.segment, chosen.target) == (Interval(20, 40), 20)
    shown = [image.frame for image in talk.asked[1][0].images]
    assert (shown[0], shown[-1]) == (0, 80)


def test_rounds_are_bounded() -> None:
    chosen, _ = choose([spans((0, 9)), spans((0, 8)), spans((0, 7)), ["0%"]])
    assert chosen.segment == Interval(0, 70)


def test_a_segment_that_hardly_shrinks_is_cut_around_its_middle() -> None:
    chosen, _ = choose([spans((0, 9.8)), ["0%"]])
    assert chosen.segment == Interval(25, 74)
    vote = chosen.turns[0].reply
    assert isinstance(vote, Vote)
    assert vote.interval == chosen.segment


def test_where_nothing_can_be_read_the_segment_stays_and_the_middle_is_taken() -> None:
    chosen, _ = choose([["never", ""], ["nowhere"]])
    assert (chosen.segment, chosen.target) == (Interval(0, 99), 50)
    assert all(turn.error for turn in chosen.turns)


def test_a_hundred_percent_stays_in_the_segment() -> None:
    chosen, _ = choose([spans((2, 4)), ["100%"]])
    assert chosen.target == 40


def test_short_videos_are_left_whole() -> None:
    chosen, talk = choose([["100%"]], length=8)
    assert (chosen.segment, chosen.target, len(talk.asked)) == (Interval(0, 7), 7, 1)


def test_a_median_ignores_an_event_elsewhere() -> None:
    replies = spans((1, 2), (1, 2), (8, 9))
    assert choose([replies, ["0%"]], average="median")[0].segment == Interval(10, 20)


def test_the_alternatives_of_table_5() -> None:
    assert choose([], frames="first")[0] == Chosen(Interval(0, 99), 0)
    chosen, talk = choose([["30%"]], frames="target_only")
    assert (chosen.segment, chosen.target, len(talk.asked)) == (Interval(0, 99), 30, 1)
    drawn, _ = choose([spans((2, 4))], frames="random")
    assert drawn.segment == Interval(20, 40)
    assert 20 <= drawn.target <= 40


@given(st.integers(0, 50), st.integers(1, 50), st.integers(1, 50))
def test_a_cut_lies_inside(start: int, size: int, length: int) -> None:
    segment = Interval(start, start + size - 1)
    length = min(length, size)
    inner = cut(segment, length)
    assert len(inner) == length
    assert segment.start <= inner.start <= inner.end <= segment.end
    assert abs((inner.start - segment.start) - (segment.end - inner.end)) <= 1
