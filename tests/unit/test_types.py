"""The data that travels through the house is frozen and comparable."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videoseg.types import Answer, Interval, Query, Reply, Role, Select, ShownFrame, StopReason, Turn


@given(st.integers(-5, 50), st.integers(-5, 50))
def test_length_of_an_interval_includes_both_ends(start: int, end: int) -> None:
    assert len(Interval(start, end)) == len(range(start, end + 1))


def test_select_and_answer_are_different_replies() -> None:
    select, answer = Select(Interval(1, 2), 1), Answer(Interval(1, 2), 1)
    assert select != answer
    assert isinstance(select, Reply)
    assert isinstance(answer, Reply)
    assert select == Select(Interval(1, 2), 1, "", True)


def test_data_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Query("where").text = "there"  # type: ignore[misc]


def test_turns_can_be_sent_to_another_process() -> None:
    turn = Turn(
        0, (ShownFrame(3, Role.HIGH, 28, 56),), "text", Answer(Interval(0, 3), 2), steps=(("a", "b"),)
    )
    assert pickle.loads(pickle.dumps(turn)) == turn


def test_names_in_files_are_stable() -> None:
    assert [role.value for role in Role] == ["low", "high", "keyframe", "segment", "reference", "target"]
    assert StopReason("turn_limit") is StopReason.TURN_LIMIT
    assert f"{Role.LOW}" == "low"
