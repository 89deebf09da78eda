"""VTS-CoT builder: one sample's dialogue, the teacher playing the student's episode (O3 spec §4, §11).

Frames, prompts and pixel sizes are those of cold start, so a thought can only speak of what the student sees.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from videoseg.data.sample import RefVideoSample
from videoseg.dialogue.budget import ImageGeometry, resize_plan
from videoseg.dialogue.episode import Episode, ImagePart, Observation
from videoseg.dialogue.grammar import format_reply, parse
from videoseg.dialogue.preset import COLD_START_BUDGET, DEFAULT, Preset
from videoseg.errors import ReplyError
from videoseg.models.remote_types import ChatReply, ChatRequest, Message, Picture, picture
from videoseg.training.cot.checks import Limits, Reason, Rejection, Truth, check_reply
from videoseg.training.cot.guide import teacher_prompt
from videoseg.types import Answer, Select
from videoseg.video.sampling import sample_video


class Teacher(Protocol):
    """Whoever replies to messages; `RemoteChat` for one."""

    async def complete(self, request: ChatRequest) -> ChatReply:
        """The reply, or an error of the `RemoteError` family."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaySettings:
    """How dialogues are held: the student's preset, hints from the masks, limits, sampling."""

    preset: Preset = field(default_factory=lambda: replace(DEFAULT, budget=COLD_START_BUDGET))
    limits: Limits = field(default_factory=Limits)
    hints: bool = False
    temperature: float = 0.7

    def override(self, *, preset: dict[str, Any], limits: dict[str, Any]) -> PlaySettings:
        """A copy with fields of the preset (or its budget) and limits replaced; UsageError on a bad one."""
        return replace(self, preset=self.preset.override(**preset), limits=self.limits.override(**limits))


@dataclass(frozen=True, slots=True)
class Dialogue:
    """An accepted dialogue: its turn-0 high-resolution frames and its replies, as data and as text."""

    high_frames: tuple[int, ...]
    replies: tuple[Select | Answer, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """The replies in canonical form."""
        return tuple(format_reply(reply) for reply in self.replies)

    @property
    def selects(self) -> tuple[Select, ...]:
        """All replies but the answer."""
        return tuple(reply for reply in self.replies if isinstance(reply, Select))


@dataclass(frozen=True, slots=True)
class Try:
    """One attempt at a dialogue: accepted, or rejected for reasons; and what it cost."""

    seed: int
    dialogue: Dialogue | None
    rejections: tuple[Rejection, ...] = ()
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def record(self) -> dict[str, Any]:
        """The attempt as it stands in the journal."""
        return {
            "seed": self.seed,
            "accepted": self.dialogue is not None,
            "rejections": [[found.reason.value, found.turn, found.detail] for found in self.rejections],
            "requests": self.requests,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
        }


class Gallery:
    """The frames of one sample as the student sees them, encoded once per frame and size."""

    def __init__(self, sample: RefVideoSample, preset: Preset) -> None:
        self._sample = sample
        self._preset = preset
        self._kept: dict[ImagePart, Picture] = {}

    def show(self, images: Sequence[ImagePart]) -> list[Picture]:
        """Pictures of `images` in order; raises `DatasetError` where a frame cannot be read."""
        missing = sorted({*images} - {*self._kept}, key=lambda image: (image.frame, image.role))
        with self._sample.origin.naming("frames"):
            frames = self._sample.frames.read([image.frame for image in missing])
        for image, frame in zip(missing, frames, strict=True):
            height, width = frame.shape[:2]
            plan = resize_plan((height, width), image.role, self._preset, ImageGeometry())
            size = (plan[-1].height, plan[-1].width) if plan else None
            self._kept[image] = picture(frame, size)
        return [self._kept[image] for image in images]


def high_frames(truth: Truth, preset: Preset) -> tuple[int, ...]:
    """Turn-0 high-resolution frames, spread evenly over those whose masks are known."""
    known = sorted(truth.areas)
    budget = preset.budget
    return tuple(known[i] for i in sample_video(len(known), budget.high_frames, slack=budget.slack))


async def play(
    sample: RefVideoSample,
    truth: Truth,
    gallery: Gallery,
    teacher: Teacher,
    settings: PlaySettings,
    seed: int,
) -> Try:
    """One attempt: turn by turn until an answer, or the first turn that contradicts format or masks.

    Raises the errors of the teacher and of the sample's files.
    """
    preset = settings.preset
    episode = Episode(truth.num_frames, sample.query, preset, high_frames=high_frames(truth, preset))
    system = teacher_prompt(sample, truth, preset.budget.max_turns, hints=settings.hints)
    messages = [Message("system", (system,))]
    replies: list[Select | Answer] = []
    costs: list[ChatReply] = []
    rejections: tuple[Rejection, ...] = ()
    while episode.observation is not None and not rejections:
        turn = len(replies)
        messages.append(await asyncio.to_thread(_user, episode.observation, gallery))
        said = await teacher.complete(_request(sample, messages, settings, seed, turn))
        costs.append(said)
        reply, rejections = _judge(said, replies, truth, sample.query, settings)
        if reply is not None and not rejections:
            replies.append(reply)
            text = format_reply(reply)
            messages.append(Message("assistant", (text,)))
            episode.step(text)
    if not rejections and not isinstance(replies[-1], Answer):
        rejections = (Rejection(Reason.TURN_LIMIT, len(replies) - 1, "the last allowed reply is no answer"),)
    dialogue = None if rejections else Dialogue(episode.high_frames, tuple(replies))
    return Try(
        seed,
        dialogue,
        rejections,
        len(costs),
        sum(cost.prompt_tokens for cost in costs),
        sum(cost.completion_tokens for cost in costs),
    )


def _user(observation: Observation, gallery: Gallery) -> Message:
    shown = iter(gallery.show(observation.images))
    parts = (next(shown) if isinstance(part, ImagePart) else part.text for part in observation.parts)
    return Message("user", tuple(parts))


def _request(
    sample: RefVideoSample, messages: Sequence[Message], settings: PlaySettings, seed: int, turn: int
) -> ChatRequest:
    name = f"{sample.origin.dataset} {sample.origin.key}, {sample.query!r}, turn {turn}"
    tokens = settings.preset.budget.max_new_tokens
    return ChatRequest(name, tuple(messages), tokens, settings.temperature, seed)


def _judge(
    said: ChatReply, earlier: Sequence[Select | Answer], truth: Truth, query: str, settings: PlaySettings
) -> tuple[Select | Answer | None, tuple[Rejection, ...]]:
    """The parsed reply, or None; and what is wrong with it."""
    turn = len(earlier)
    try:
        reply = parse(said.text)
        format_reply(reply)
    except (ReplyError, ValueError) as error:
        reason = Reason.TRUNCATED if said.truncated else Reason.BAD_FORMAT
        return None, (Rejection(reason, turn, str(error)),)
    reply = replace(reply, think=" ".join(reply.think.split()))
    selects = [one for one in earlier if isinstance(one, Select)]
    return reply, check_reply(reply, turn, selects, truth, query, settings.limits)
