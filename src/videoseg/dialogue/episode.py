"""O3's environment: the state of one multi-turn dialogue, without any model (specification §2, §4, §8.1).

An `Episode` says what to show next, reads a reply, and either shows more or stops. It is pure and can be
pickled, so the same object serves inference, training data and rollouts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from videoseg.dialogue import prompts
from videoseg.dialogue.grammar import clamp, first_vtg_keyframe, parse
from videoseg.dialogue.preset import Preset
from videoseg.errors import QueryError, ReplyError, UsageError
from videoseg.types import Answer, Interval, Role, Select, StopReason
from videoseg.video.sampling import middle, sample_interval, sample_video


@dataclass(frozen=True, slots=True)
class ImagePart:
    """A frame to show, at the size of its role."""

    frame: int
    role: Role


@dataclass(frozen=True, slots=True)
class TextPart:
    """Text of a user message, verbatim."""

    text: str


@dataclass(frozen=True, slots=True)
class Observation:
    """One user message: images and texts in the order in which the model reads them."""

    parts: tuple[ImagePart | TextPart, ...]
    turn: int

    @property
    def images(self) -> tuple[ImagePart, ...]:
        """The images alone."""
        return tuple(part for part in self.parts if isinstance(part, ImagePart))


@dataclass(frozen=True, slots=True)
class Exchange:
    """A finished turn: what was shown, what was replied, and how it was understood.

    `reply` is None if the text did not parse (`error` says why); `interval` and `keyframe` are clamped to
    the video.
    """

    observation: Observation
    text: str
    reply: Select | Answer | None
    error: str | None = None
    interval: Interval | None = None
    keyframe: int | None = None


class Episode:
    """One query on one video, turn by turn.

    `observation` is what the model should see next (None once stopped), `turns` what happened so far,
    `stop` why it ended (None while running), `high_frames` the high-resolution frames of turn 0 (sampled,
    or given, as in cold-start data). Raises QueryError on a blank query, UsageError on a video without
    frames or `high_frames` outside it.
    """

    def __init__(
        self, num_frames: int, query: str, preset: Preset, *, high_frames: Sequence[int] | None = None
    ) -> None:
        if num_frames < 1:
            raise UsageError(f"a dialogue needs a video of at least one frame, got {num_frames}")
        if not prompts.clean_query(query, preset).strip():
            raise QueryError("the query is empty; say in words what to find")
        self.num_frames = num_frames
        self.query = query
        self.preset = preset
        self.high_frames = self._choose_high(high_frames)
        self.turns: tuple[Exchange, ...] = ()
        self.stop: StopReason | None = None
        self.observation: Observation | None = self._first()

    def step(self, reply_text: str, *, truncated: bool = False) -> Observation | StopReason:
        """Read a reply; return the next observation, or why the episode ends.

        `truncated` tells that the reply was cut by the token limit. No text makes this raise; RuntimeError
        only if the episode has already stopped.
        """
        if self.observation is None:
            raise RuntimeError(f"this episode has stopped ({self.stop}); start a new one")
        exchange = self._read(self.observation, reply_text)
        self.turns += (exchange,)
        self.stop = self._stop_reason(exchange, truncated)
        self.observation = self._later(exchange) if self.stop is None else None
        return self.observation or self._stopped()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Remarks for the trace: keyframes outside the interval they were given with."""
        return tuple(
            f"turn {turn.observation.turn}: keyframe {turn.keyframe} lies outside the interval "
            f"{turn.interval.start}..{turn.interval.end}"
            for turn in self.turns
            if turn.interval
            and turn.keyframe is not None
            and not turn.interval.start <= turn.keyframe <= turn.interval.end
        )

    def keyframe(self) -> int:
        """The frame on which the final mask is decoded, by the preset's `keyframe_policy` (§8.1).

        `observed`: the keyframe last shown; if none was, the answer's; else the middle high-resolution
        frame. `answer`: the answer's keyframe if the final turn is a valid answer, else as `observed`.
        `last_select`: the last parsed select's keyframe, shown or not; without a select, that of the first
        `<VTG>` of the final text; else the middle high-resolution frame.
        """
        policy = self.preset.keyframe_policy
        if policy == "last_select":
            return self._last_select_keyframe()
        shown = [part.frame for part in self._shown() if part.role is Role.KEYFRAME]
        answer = self._answer_keyframe()
        order = (answer, *shown[-1:]) if policy == "answer" else (*shown[-1:], answer)
        return next((frame for frame in order if frame is not None), middle(self.high_frames))

    def pending_keyframes(self) -> tuple[int, ...]:
        """Per shown turn the frame of its mask in RL: T//2, then each keyframe shown (§8.1)."""
        shown = (part.frame for part in self._shown() if part.role is Role.KEYFRAME)
        return (self.num_frames // 2, *shown)

    def _choose_high(self, given: Sequence[int] | None) -> tuple[int, ...]:
        if given is None:
            budget = self.preset.budget
            return sample_video(self.num_frames, budget.high_frames, slack=budget.slack)
        if not given or min(given) < 0 or max(given) >= self.num_frames:
            raise UsageError(
                f"high_frames must be one or more frames of 0..{self.num_frames - 1}, got {list(given)}"
            )
        return tuple(int(frame) for frame in given)

    def _first(self) -> Observation:
        budget = self.preset.budget
        low = sample_video(self.num_frames, budget.low_frames, slack=budget.slack)
        texts = prompts.first_texts(low, self.high_frames, self.query, self.num_frames, self.preset)
        return _observation(0, low, (self.high_frames, Role.HIGH), texts)

    def _later(self, exchange: Exchange) -> Observation:
        if exchange.interval is None or exchange.keyframe is None:
            raise RuntimeError("only a parsed reply can be followed by an observation")
        interval = exchange.interval
        frames = sample_interval(interval.start, interval.end, self.preset.budget.later_frames)
        texts = prompts.later_texts(frames, exchange.keyframe, self.query, self.num_frames, self.preset)
        return _observation(len(self.turns), frames, ((exchange.keyframe,), Role.KEYFRAME), texts)

    def _read(self, observation: Observation, text: str) -> Exchange:
        try:
            preset = self.preset
            reply = parse(text, optional_vtg=preset.optional_vtg, loose_json=preset.loose_json)
        except ReplyError as error:
            return Exchange(observation, text, None, error=f"{error.kind}: {error}")
        interval, keyframe = clamp(reply, self.num_frames)
        return Exchange(observation, text, reply, interval=interval, keyframe=keyframe)

    def _stop_reason(self, exchange: Exchange, truncated: bool) -> StopReason | None:
        if exchange.reply is None:
            return StopReason.LENGTH if truncated else StopReason.INVALID_REPLY
        if isinstance(exchange.reply, Answer):
            return StopReason.ANSWER
        if len(self.turns) >= self.preset.budget.max_turns:
            return StopReason.TURN_LIMIT
        return None if exchange.interval else StopReason.EMPTY_INTERVAL

    def _stopped(self) -> StopReason:
        if self.stop is None:
            raise RuntimeError("this episode is still running")
        return self.stop

    def _shown(self) -> tuple[ImagePart, ...]:
        """Every image shown so far, the pending observation included."""
        observations = [turn.observation for turn in self.turns]
        if self.observation is not None:
            observations.append(self.observation)
        return tuple(image for observation in observations for image in observation.images)

    def _answer_keyframe(self) -> int | None:
        if self.turns and isinstance(self.turns[-1].reply, Answer):
            return self.turns[-1].keyframe
        return None

    def _last_select_keyframe(self) -> int:
        selected = [turn.keyframe for turn in self.turns if isinstance(turn.reply, Select)]
        if selected and selected[-1] is not None:
            return selected[-1]
        found = first_vtg_keyframe(self.turns[-1].text) if self.turns else None
        return middle(self.high_frames) if found is None else max(0, min(self.num_frames - 1, found))


def _observation(
    turn: int, low: Sequence[int], sharp: tuple[Sequence[int], Role], texts: tuple[str, str, str]
) -> Observation:
    """Low-resolution images, their text, the sharper images, their text, the request."""
    frames, role = sharp
    low_images = tuple(ImagePart(frame, Role.LOW) for frame in low)
    sharp_images = tuple(ImagePart(frame, role) for frame in frames)
    after_low, after_sharp, request = (TextPart(text) for text in texts)
    return Observation((*low_images, after_low, *sharp_images, after_sharp, request), turn)
