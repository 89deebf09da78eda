"""The environment: what is shown, when it stops, which keyframe counts, and 20,000 mutated replies."""

from __future__ import annotations

import pickle
import random
import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videoseg.dialogue.episode import Episode, ImagePart, Observation, TextPart
from videoseg.dialogue.grammar import RESERVED, format_reply
from videoseg.dialogue.preset import DEFAULT, RELEASED, RL_BUDGET, Preset, preset
from videoseg.errors import QueryError, UsageError
from videoseg.types import Answer, Interval, Role, Select, StopReason


def select(start: int, end: int, keyframe: int) -> str:
    return format_reply(Select(Interval(start, end), keyframe, "see"))


def answer(start: int, end: int, keyframe: int) -> str:
    return format_reply(Answer(Interval(start, end), keyframe, "done"))


def played(replies: list[str], num_frames: int = 12, chosen: Preset = DEFAULT) -> Episode:
    episode = Episode(num_frames, "the red disc", chosen)
    for reply in replies:
        episode.step(reply)
    return episode


def frames(observation: Observation, role: Role) -> list[int]:
    return [image.frame for image in observation.images if image.role is role]


def test_first_observation() -> None:
    observation = Episode(26, "a cat", DEFAULT).observation
    assert observation is not None
    assert observation.turn == 0
    assert len(frames(observation, Role.LOW)) == 20
    assert frames(observation, Role.HIGH) == [0, 3, 7, 10, 14, 17, 21, 25]
    kinds = [type(part) for part in observation.parts]
    assert kinds == [ImagePart] * 20 + [TextPart] + [ImagePart] * 8 + [TextPart] * 2


def test_first_observation_of_the_rl_budget() -> None:
    observation = Episode(11, "a cat", preset("default", budget=RL_BUDGET)).observation
    assert observation is not None
    assert frames(observation, Role.LOW) == list(range(11))
    assert frames(observation, Role.HIGH) == [0, 2, 5, 7, 10]


def test_later_observation() -> None:
    episode = Episode(12, "a cat", DEFAULT)
    observation = episode.step(select(-4, 99, 50))
    assert isinstance(observation, Observation)
    assert observation is episode.observation
    assert observation.turn == 1
    assert frames(observation, Role.LOW) == [0, 2, 5, 8, 11]
    assert frames(observation, Role.KEYFRAME) == [11]
    assert [type(part) for part in observation.parts] == [ImagePart] * 5 + [
        TextPart,
        ImagePart,
        TextPart,
        TextPart,
    ]


@pytest.mark.parametrize(
    ("replies", "stop"),
    [
        ([answer(0, 3, 1)], StopReason.ANSWER),
        ([select(0, 3, 1), answer(0, 3, 1)], StopReason.ANSWER),
        ([select(9, 4, 3)], StopReason.EMPTY_INTERVAL),
        ([select(20, 30, 3)], StopReason.EMPTY_INTERVAL),
        (["<think>hm</think>"], StopReason.INVALID_REPLY),
        ([select(0, 3, 1), ""], StopReason.INVALID_REPLY),
        ([select(0, 3, 1), select(0, 3, 1), select(0, 3, 1)], StopReason.TURN_LIMIT),
        ([select(0, 3, 1), select(0, 3, 1), select(9, 3, 1)], StopReason.TURN_LIMIT),
    ],
)
def test_stop_reasons(replies: list[str], stop: StopReason) -> None:
    episode = played(replies)
    assert episode.stop is stop
    assert episode.observation is None
    assert len(episode.turns) == len(replies)
    with pytest.raises(RuntimeError, match="stopped"):
        episode.step(answer(0, 1, 0))


def test_truncated_replies() -> None:
    assert Episode(5, "q", DEFAULT).step("<think> and then", truncated=True) is StopReason.LENGTH
    assert Episode(5, "q", DEFAULT).step(answer(0, 1, 0), truncated=True) is StopReason.ANSWER
    assert isinstance(Episode(5, "q", DEFAULT).step(select(0, 1, 0), truncated=True), Observation)


# middle high-resolution frame of 12 frames is 6
@pytest.mark.parametrize(
    ("replies", "observed", "last_select", "from_answer"),
    [
        ([], 6, 6, 6),
        ([answer(0, 3, 1)], 1, 1, 1),
        ([answer(0, 3, 99)], 11, 11, 11),
        (["junk"], 6, 6, 6),
        ([f"junk {answer(0, 3, 2)[:-9]}"], 6, 2, 6),
        (['<answer><VTG>{"keyframe": "3"}</VTG></answer>'], 6, 3, 6),
        (['<select><VTG>{"start": 1, "end": 3}</VTG></select>'], 6, 6, 6),
        ([select(0, 3, 2), answer(0, 3, 1)], 2, 2, 1),
        ([select(0, 3, 2), "junk"], 2, 2, 2),
        ([select(0, 3, 2)], 2, 2, 2),
        ([select(9, 3, 4)], 6, 4, 6),
        ([select(0, 3, 2), select(9, 3, 4)], 2, 4, 2),
        ([select(0, 3, 2), select(0, 3, 5), select(0, 3, 8)], 5, 8, 5),
        ([select(0, 3, 2), select(0, 3, 5), answer(0, 3, 8)], 5, 5, 8),
    ],
)
def test_keyframe_policies(replies: list[str], observed: int, last_select: int, from_answer: int) -> None:
    found = [
        played(replies, chosen=preset("default", keyframe_policy=policy)).keyframe()
        for policy in ("observed", "last_select", "answer")
    ]
    assert found == [observed, last_select, from_answer]


def test_released_reads_numbers_loosely() -> None:
    text = '<select>{"start": "1", "end": 7.8, "keyframe": true}</select>'
    observation = played([text], chosen=RELEASED).observation
    assert observation is not None
    assert frames(observation, Role.LOW) == [1, 2, 4, 5, 7]
    assert frames(observation, Role.KEYFRAME) == [1]
    assert played([text]).stop is StopReason.INVALID_REPLY


def test_record_of_a_turn() -> None:
    episode = played([select(-1, 3, 9), "junk"])
    first, second = episode.turns
    assert first.reply == Select(Interval(-1, 3), 9, "see")
    assert (first.interval, first.keyframe, first.error) == (Interval(0, 3), 9, None)
    assert second.reply is None
    assert second.error is not None
    assert second.error.startswith("no_action: ")
    assert frames(second.observation, Role.KEYFRAME) == [9]
    assert episode.warnings == ("turn 0: keyframe 9 lies outside the interval 0..3",)
    assert episode.pending_keyframes() == (6, 9)
    assert played([select(0, 3, 1)]).warnings == ()


def test_given_high_frames() -> None:
    episode = Episode(9, "q", DEFAULT, high_frames=[1, 4, 8])
    assert episode.observation is not None
    assert frames(episode.observation, Role.HIGH) == [1, 4, 8]
    assert episode.keyframe() == 4
    for wrong in ([], [9], [-1, 2]):
        with pytest.raises(UsageError, match="high_frames"):
            Episode(9, "q", DEFAULT, high_frames=wrong)


def test_one_frame_is_a_video() -> None:
    episode = Episode(1, "q", DEFAULT)
    observation = episode.step(select(0, 0, 0))
    assert isinstance(observation, Observation)
    assert [image.frame for image in observation.images] == [0, 0]
    assert episode.step(answer(5, 5, 5)) is StopReason.ANSWER
    assert episode.keyframe() == 0


def test_refused_beginnings() -> None:
    with pytest.raises(UsageError, match="frame"):
        Episode(0, "q", DEFAULT)
    for query in ("", " \n\t"):
        with pytest.raises(QueryError, match="empty"):
            Episode(3, query, DEFAULT)
    with pytest.raises(QueryError, match="empty"):
        Episode(3, "<image> <video>", RELEASED)
    Episode(3, "<image>", DEFAULT)


@given(st.lists(st.sampled_from([select(0, 3, 2), select(2, 9, 20), "junk", answer(1, 1, 1)]), max_size=3))
def test_pickling_in_mid_dialogue_changes_nothing(replies: list[str]) -> None:
    episode = Episode(12, "the red disc", DEFAULT)
    for reply in replies:
        if episode.stop is not None:
            break
        copy = pickle.loads(pickle.dumps(episode))
        assert copy.step(reply) == episode.step(reply)
        assert copy.turns == episode.turns
        assert copy.keyframe() == episode.keyframe()


def mutate(text: str, rng: random.Random) -> str:
    """One to six random cuts, copies, swaps and insertions of grammar pieces, digits or odd characters."""
    odd = [
        *RESERVED,
        "NaN",
        "1e999",
        "-1",
        "9" * 50,
        "{",
        "}",
        '"',
        "\x00",
        "\ud800",
        "é",
        "\n",
        "null",
        "true",
    ]
    for _ in range(rng.randint(1, 6)):
        low, high = sorted(rng.randint(0, len(text)) for _ in range(2))
        high = min(high, low + rng.choice([1, 3, 30]))
        new = rng.choice(["", "", text[low:high] * 2, rng.choice(odd), rng.choice(string.printable)])
        text = text[:low] + new + text[high:]
    return text


@pytest.mark.parametrize("chosen", [DEFAULT, RELEASED], ids=["default", "released"])
def test_twenty_thousand_mutated_replies(chosen: Preset) -> None:
    rng = random.Random(0)
    count, stops, started = 0, set(), time.perf_counter()
    while count < 10_000:
        num_frames = rng.choice([1, 2, 7, 60])
        episode = Episode(num_frames, "q", chosen)
        while episode.observation is not None:
            numbers = [rng.randint(-2, num_frames + 2) for _ in range(3)]
            source = rng.choice([select, select, answer])(*numbers)
            text = source if rng.random() < 0.3 else mutate(source, rng)
            shown = episode.observation
            episode.step(text, truncated=rng.random() < 0.1)
            count += 1
            assert all(0 <= image.frame < num_frames for image in shown.images)
        assert len(episode.turns) <= chosen.budget.max_turns
        assert 0 <= episode.keyframe() < num_frames
        assert isinstance(episode.warnings, tuple)
        stops.add(episode.stop)
    assert stops == set(StopReason)
    assert time.perf_counter() - started < 30
