"""Hand tables of the default rewards, and where the released ones differ."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videoseg.dialogue.grammar import format_reply
from videoseg.training.rewards import o3, o3_released
from videoseg.training.rewards.base import Outcome, Reward, score
from videoseg.types import Answer, Interval, Select

THOUGHT = "Step 1: a. Step 2: b. Step 3: c. Action: d."


def select(start: int = 0, end: int = 3, keyframe: int = 1, think: str = THOUGHT) -> str:
    return format_reply(Select(Interval(start, end), keyframe, think))


def answer(start: int = 0, end: int = 3, keyframe: int = 1, think: str = THOUGHT) -> str:
    return format_reply(Answer(Interval(start, end), keyframe, think))


def outcome(*replies: str, present: str = "1111", masks: Any = None, keys: Any = None) -> Outcome:
    turns = len(replies)
    return Outcome(
        tuple(replies),
        tuple(frame == "1" for frame in present),
        tuple(masks or [(0.5,) * 5] * turns),
        tuple(keys or [0.5] * turns),
    )


def value(reward: Reward, given: Outcome) -> float:
    return float(reward.values([given])[0])


FORMAT = [
    ((answer(),), 1.0, 1.0),
    ((select(), answer()), 1.0, 1.0),
    ((answer(), select()), -1.0, 1.0),
    ((select(), select()), -1.0, 1.0),
    ((answer(), answer()), -1.0, 1.0),
    ((answer(think="").replace("<think></think>", ""),), -1.0, -1.0),
    ((answer().replace("[SEG]", ""),), -1.0, -1.0),
    ((answer().replace('"keyframe": 1', '"key": 1'),), -1.0, -1.0),
    ((answer().replace('"', "'"),), -1.0, -1.0),
    ((select().replace("</select>", ""), answer()), -1.0, -1.0),
    ((answer().replace("</VTG><RefSeg>", "</VTG>, <RefSeg>"),), 1.0, 1.0),
    ((answer().replace("RefSeg", "RefVOS"),), 1.0, -1.0),
    (("nothing",), -1.0, -1.0),
]


@pytest.mark.parametrize(("replies", "default", "released"), FORMAT)
def test_format(replies: tuple[str, ...], default: float, released: float) -> None:
    assert value(o3.format_reward, outcome(*replies)) == default
    assert value(o3_released.format_released, outcome(*replies)) == released


STEPS = [
    ((answer(think="STEP 1 step 2 Step 3 ACTION"),), 1.0),
    ((select(think="step 1, action"), answer()), 0.75),
    ((select(think="nothing"), answer(think="step 3")), 0.125),
    (("step 1 without a thought",), 0.0),
]


@pytest.mark.parametrize(("replies", "expected"), STEPS)
def test_think_steps(replies: tuple[str, ...], expected: float) -> None:
    assert value(o3.think_steps_reward, outcome(*replies)) == expected
    assert value(o3_released.think_steps_released, outcome(*replies)) == expected


INTERVAL = [  # start, end, presence, default, released
    (1, 2, "0110", 0.5, 0.5),
    (0, 3, "0111", 0.375, 1 / 3),
    (0, 4, "00110", -0.5, -0.5),  # released: exactly one half fails, by the 1e-6 in the denominator
    (0, 5, "111000", 0.25, 0.3),
    (1, 3, "0111", 0.5, 0.5),
    (1, 2, "01111111", -0.5, 0.5),
    (2, 2, "0010", 0.5, -0.5),
    (3, 1, "1111", -0.5, -0.5),
    (0, 2, "0000", 0.5, 0.5),
    (2, 1, "0000", -0.5, -0.5),
    (-5, 99, "1111", 0.5, 0.5),
    (7, 9, "1111", -0.5, -0.5),
    (0, 1, "1001", -0.5, 0.5),
]


@pytest.mark.parametrize(("start", "end", "present", "default", "released"), INTERVAL)
def test_interval_iou(start: int, end: int, present: str, default: float, released: float) -> None:
    given = outcome(select(), answer(start, end), present=present)
    assert value(o3.interval_iou, given) == pytest.approx(default)
    assert value(o3_released.interval_iou_released, given) == pytest.approx(released, abs=1e-6)


@pytest.mark.parametrize(("keyframe", "expected"), [(1, 1.0), (0, -1.0), (-3, -1.0), (99, 1.0)])
def test_keyframe_hit(keyframe: int, expected: float) -> None:
    given = outcome(select(keyframe=2), answer(keyframe=keyframe), present="0101")
    assert value(o3.keyframe_hit, given) == expected
    assert value(o3_released.keyframe_hit_released, given) == expected


def test_an_unreadable_last_turn_misses_interval_and_keyframe() -> None:
    given = outcome(select(), "mumble")
    assert value(o3.interval_iou, given) == -0.5
    assert value(o3.keyframe_hit, given) == -1.0
    assert value(o3.termination, given) == 0.0


def test_a_video_without_frames_is_missed_not_an_error() -> None:
    given = outcome(answer(), present="")
    assert value(o3.interval_iou, given) == -0.5
    assert value(o3.keyframe_hit, given) == -1.0
    with pytest.raises(IndexError):
        value(o3_released.keyframe_hit_released, given)


MASK = [(1.0, 1.5), (0.9, 1.5), (0.6, 0.6), (0.4, 0.0), (0.3, 0.0), (0.2, -1.0), (0.0, -1.0)]


@pytest.mark.parametrize(("iou", "expected"), MASK)
def test_mask_iou(iou: float, expected: float) -> None:
    given = outcome(select(), answer(), masks=[(0.9,) * 5, (iou,)])
    assert value(o3.mask_iou, given) == pytest.approx(expected)
    assert value(o3_released.mask_iou_released, given) == pytest.approx(expected)


def test_mask_iou_is_the_mean_over_frames() -> None:
    assert value(o3.mask_iou, outcome(answer(), masks=[(1.0, 0.6, 0.3, 0.1, 0.0)])) == pytest.approx(0.02)


PROGRESS = [
    (0.6, 2.0, 0.5),
    (0.15, 1.0, 0.5),
    (0.08, 0.5, 0.5),
    (0.0, 0.0, 0.0),
    (-0.04, 0.0, 0.0),
    (-0.2, -1, -1),
]


@pytest.mark.parametrize(("difference", "default", "released"), PROGRESS)
def test_keyframe_progress(difference: float, default: float, released: float) -> None:
    given = outcome(select(), select(), answer(), keys=[0.3, 0.1, 0.3 + difference])
    assert value(o3.keyframe_progress, given) == pytest.approx(default)
    assert value(o3_released.keyframe_progress_released, given) == released


GAIN = [
    (0.6, 2.0, 0.5),
    (0.3, 1.0, 0.5),
    (0.15, 0.5, 0.5),
    (0.05, 0.0, 0.0),
    (-0.04, 0.0, 0.0),
    (-0.2, -1, -1),
]


@pytest.mark.parametrize(("difference", "default", "released"), GAIN)
def test_keyframe_gain(difference: float, default: float, released: float) -> None:
    given = outcome(select(), answer(), masks=[(1.0,), (0.2, 0.4)], keys=[1.0, 0.3 + difference])
    assert value(o3.keyframe_gain, given) == pytest.approx(default)
    assert value(o3_released.keyframe_gain_released, given) == released


def test_a_single_turn_gains_and_progresses_nothing() -> None:
    given = outcome(answer(), keys=[1.0])
    assert value(o3.keyframe_gain, given) == value(o3.keyframe_progress, given) == 0.0


@pytest.mark.parametrize(("iou", "expected"), [(1.0, 2.5), (0.6, 1.0), (0.3, 0.0), (0.2, -1.0)])
def test_keyframe_iou(iou: float, expected: float) -> None:
    assert value(o3.keyframe_iou, outcome(answer(), keys=[iou])) == pytest.approx(expected)


ENDS = [(answer(), 0.9, 1), (answer(), 0.5, 0), (answer(), 0.1, -1), (select(), 0.4, 1), (select(), 0.5, 0)]


@pytest.mark.parametrize(("reply", "iou", "expected"), ENDS)
def test_termination(reply: str, iou: float, expected: float) -> None:
    given = outcome(reply, keys=[iou])
    assert value(o3.termination, given) == value(o3_released.termination_released, given) == expected


def test_best_and_worst_totals_are_those_of_the_specification() -> None:
    best = outcome(select(), answer(), masks=[(0.0,), (0.9,) * 4 + (0.0,)], keys=[0.0, 1.0])
    worst = outcome("x", "y", present="0000", masks=[(0.0,), (0.2,)], keys=[1.0, 0.0])
    assert score(o3.DEFAULT, [worst]).total[0] == -5.5
    assert score(o3_released.RELEASED, [worst]).total[0] == -5.5
    assert sum(item.low for item in o3.DEFAULT) == sum(item.low for item in o3_released.RELEASED) == -5.5
    assert sum(item.high for item in o3.DEFAULT) == 9.0
    assert sum(item.high for item in o3_released.RELEASED) == 6.0
    assert 6 < score(o3.DEFAULT, [best]).total[0] < 9


texts = st.one_of(
    st.text(max_size=40),
    st.builds(
        lambda kind, *numbers: kind(*numbers),
        st.sampled_from([select, answer]),
        st.integers(-20, 40),
        st.integers(-20, 40),
        st.integers(-20, 40),
    ),
)
ious = st.floats(0, 1)


@st.composite
def outcomes(draw: st.DrawFn) -> Outcome:
    turns = draw(st.integers(1, 3))
    each = lambda part: tuple(draw(st.lists(part, min_size=turns, max_size=turns)))  # noqa: E731
    frames = st.lists(ious, min_size=1, max_size=5).map(tuple)
    presence = draw(st.lists(st.booleans(), min_size=1, max_size=20))
    return Outcome(each(texts), tuple(presence), each(frames), each(ious))


@given(outcomes())
def test_every_reward_stays_in_its_range(given: Outcome) -> None:
    """`values` itself refuses what leaves the range."""
    names = (*o3.DEFAULT, *o3.OPTIONAL, *o3_released.RELEASED, *o3_released.RELEASED_OPTIONAL)
    for reward in names:
        assert math.isfinite(value(reward, given))
        assert reward.low > -math.inf
        assert reward.high < math.inf
