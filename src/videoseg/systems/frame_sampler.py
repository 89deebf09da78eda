"""R1's hierarchical frame sampler: a key segment, then a target frame in it, by asking a model (R1 spec §2).

All K or M replies to a question are drawn in one generation. The alternatives of Table 5 are here too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from videoseg.dialogue.cues import parse_seconds, parse_share
from videoseg.dialogue.episode import Observation
from videoseg.dialogue.r1 import R1Preset, ask_interval, ask_percentage
from videoseg.systems.reasoner import Draw, Said, Talk
from videoseg.types import Interval, Turn, Vote
from videoseg.video.sampling import sample_interval

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The key segment, the target frame in it, and the questions that led there."""

    segment: Interval
    target: int
    turns: tuple[Turn, ...] = ()


class FrameSampler:
    """Chooses frames of one video of `num_frames` at `fps`; `notify` hears of every question."""

    def __init__(
        self,
        talk: Talk,
        num_frames: int,
        fps: float,
        preset: R1Preset,
        seed: int = 0,
        notify: Callable[[Turn], None] | None = None,
    ) -> None:
        self._talk, self._num, self._fps = talk, num_frames, fps if fps > 0 else 1.0
        self._preset, self._seed, self._notify = preset, seed, notify
        self._turns: list[Turn] = []

    def choose(self, query: str) -> Chosen:
        """The frames for a query, as `preset.frames` says."""
        self._turns = []
        whole = Interval(0, self._num - 1)
        if self._preset.frames == "first":
            return Chosen(whole, 0)
        segment = whole if self._preset.frames == "target_only" else self._key_segment(query, whole)
        if self._preset.frames == "random":
            target = int(np.random.default_rng(self._seed).integers(segment.start, segment.end + 1))
        else:
            target = self._target(query, segment)
        return Chosen(segment, target, tuple(self._turns))

    def _key_segment(self, query: str, segment: Interval) -> Interval:
        """Ask for an interval inside the segment until it is short enough (semantic compression)."""
        preset = self._preset
        if self._num <= preset.short:
            return segment
        for _ in range(preset.rounds):
            if len(segment) <= preset.shrink * self._num:
                break
            shorter = self._shorten(query, segment)
            if shorter is None:
                break
            if len(shorter) > (1 - preset.least_ratio) * len(segment):
                segment = cut(segment, max(1, round(preset.shrink * self._num)))
                self._turns[-1] = _amended(self._turns[-1], segment)
                break
            segment = shorter
        return segment

    def _shorten(self, query: str, segment: Interval) -> Interval | None:
        frames = sample_interval(segment.start, segment.end, self._preset.sampler_frames)
        observation = ask_interval(query, frames, self._fps)
        replies, started = self._ask(observation, self._preset.intervals)
        found = [parse_seconds(said.text, self._fps, segment) for said in replies]
        values = [(float(span.start), float(span.end)) for span in found if span]
        shorter = None
        if values:
            start, end = (round(value) for value in self._average(values))
            shorter = Interval(start, end)
        self._record(observation, replies, started, _vote(shorter or segment, values, len(replies)))
        return shorter

    def _target(self, query: str, segment: Interval) -> int:
        """Ask at which percentage of the segment the target is clearest; the middle if nobody can tell."""
        frames = sample_interval(segment.start, segment.end, self._preset.sampler_frames)
        observation = ask_percentage(query, frames)
        replies, started = self._ask(observation, self._preset.percentages)
        values = [(share,) for said in replies if (share := parse_share(said.text)) is not None]
        share = self._average(values)[0] if values else 0.5
        # At 100 % the paper's formula points behind the segment.
        target = segment.start + min(int(len(segment) * share), len(segment) - 1)
        vote = replace(_vote(segment, values, len(replies)), keyframe=target)
        self._record(observation, replies, started, vote)
        return target

    def _average(self, values: Sequence[tuple[float, ...]]) -> list[float]:
        average = np.median if self._preset.average == "median" else np.mean
        return [float(value) for value in average(np.array(values), axis=0)]

    def _ask(self, observation: Observation, count: int) -> tuple[list[Said], float]:
        preset, started = self._preset, time.perf_counter()
        draw = Draw(count, preset.temperature, preset.top_p, self._seed, preset.sampler_tokens)
        return self._talk.ask(observation, draw), started

    def _record(self, observation: Observation, replies: Sequence[Said], started: float, vote: Vote) -> None:
        wrong = [said.error for said in replies if said.error]
        wrong += [] if vote.values else ["no reply could be read"]
        turn = Turn(
            index=len(self._turns),
            shown=self._talk.shown(observation),
            text="\n".join(said.text for said in replies if not said.error),
            reply=vote,
            error="\n".join(wrong) or None,
            num_tokens=sum(said.num_tokens for said in replies),
            seconds=time.perf_counter() - started,
        )
        spread = ", ".join(f"{value:.3g}" for value in vote.spread)
        log.info("%d of %d replies read, spread %s", len(vote.values), vote.asked, spread or "-")
        self._turns.append(turn)
        if self._notify:
            self._notify(turn)


def cut(segment: Interval, length: int) -> Interval:
    """The middle `length` frames of a segment."""
    start = segment.start + (len(segment) - length) // 2
    return Interval(start, start + length - 1)


def _vote(interval: Interval, values: Sequence[tuple[float, ...]], asked: int) -> Vote:
    spread = tuple(float(value) for value in np.array(values).std(axis=0)) if values else ()
    return Vote(interval, tuple(values), asked, spread)


def _amended(turn: Turn, segment: Interval) -> Turn:
    """The turn with the segment that was cut out of its answer."""
    if not isinstance(turn.reply, Vote):
        raise RuntimeError("a question of the sampler ends in a vote")
    return replace(turn, reply=replace(turn.reply, interval=segment))
