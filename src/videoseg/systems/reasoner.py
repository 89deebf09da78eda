"""Who reasons for R1: a Qwen-VL here, or any model behind an OpenAI-compatible endpoint (R1 spec §3).

Both are asked the same observations on one video and give back texts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from videoseg.dialogue.budget import ImageGeometry
from videoseg.dialogue.chatml import END, PAD, check_query
from videoseg.dialogue.episode import ImagePart, Observation
from videoseg.dialogue.pixels import resize
from videoseg.dialogue.r1 import SYSTEM, R1Preset, resize_plans
from videoseg.dialogue.render import Renderer
from videoseg.errors import QueryError
from videoseg.models.o3 import TextSide
from videoseg.models.remote import ask
from videoseg.models.remote_types import ChatRequest, ChatSettings, Message, Picture, picture
from videoseg.models.session import RandomSampler, RowInput, Session, greedy
from videoseg.models.vlm import VLM
from videoseg.systems.images import Frames, ImageStore
from videoseg.types import ShownFrame

NAMED = 200
"""How many characters of a question name its requests: enough to know the query by."""


@dataclass(frozen=True, slots=True)
class Draw:
    """How replies are drawn: `count` of them, greedily at temperature 0."""

    count: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    max_tokens: int = 1024


@dataclass(frozen=True, slots=True)
class Said:
    """A reply; `truncated` where the token limit cut it, `error` why an endpoint gave none (no text then)."""

    text: str
    num_tokens: int
    truncated: bool = False
    error: str = ""


class Talk(Protocol):
    """A reasoner that looks at one video."""

    def ask(self, observation: Observation, draw: Draw) -> list[Said]:
        """Replies to one question, all drawn at once."""
        ...

    def shown(self, observation: Observation) -> tuple[ShownFrame, ...]:
        """The question's frames with the sizes at which they are shown."""
        ...


class Reasoner(Protocol):
    """A model that can be asked about videos."""

    @property
    def source(self) -> dict[str, Any]:
        """Its name and place, for the provenance of results."""
        ...

    def check(self, query: str) -> None:
        """Raise QueryError on a query that cannot be asked."""
        ...

    def look(self, frames: Frames, frame_size: tuple[int, int], preset: R1Preset) -> Talk:
        """Look at a video whose frames are (height, width)."""
        ...


class LocalReasoner:
    """Qwen2.5-VL or Qwen3-VL with our cache: a question is encoded once for all its replies."""

    def __init__(self, vlm: VLM, text: TextSide) -> None:
        self.vlm, self.text = vlm, text

    @property
    def source(self) -> dict[str, Any]:
        """See `Reasoner`."""
        return self.text.source

    def check(self, query: str) -> None:
        """See `Reasoner`."""
        check_query(query, self.text.tokenizer)

    def look(self, frames: Frames, frame_size: tuple[int, int], preset: R1Preset) -> LocalTalk:
        """See `Reasoner`."""
        return LocalTalk(self, r1_renderer(self.text, preset, frame_size), frames)


def r1_renderer(text: TextSide, preset: R1Preset, frame_size: tuple[int, int]) -> Renderer:
    """The renderer of R1's questions: its system message, its sizes (specification §3)."""
    plans = resize_plans(frame_size, preset, text.geometry)
    return Renderer(text.tokenizer, text.geometry, text.preset, frame_size, system=SYSTEM, plans=plans)


class LocalTalk:
    """`Talk` of a `LocalReasoner`; image features are kept for the next question."""

    def __init__(self, reasoner: LocalReasoner, renderer: Renderer, frames: Frames) -> None:
        self._vlm, self._renderer = reasoner.vlm, renderer
        self._stop = tuple(reasoner.text.token_id(token) for token in (END, PAD))
        self._images = ImageStore(reasoner.vlm, renderer, frames)

    def ask(self, observation: Observation, draw: Draw) -> list[Said]:
        """See `Talk`."""
        chunk = self._renderer.first(observation)
        session = Session(self._vlm)
        session.extend([RowInput(chunk.ids.tolist(), self._images.features(chunk.images))])
        if draw.count > 1:
            session.fork(draw.count)
        sampler = RandomSampler(draw.temperature, draw.top_p, 0, draw.seed) if draw.temperature else greedy
        forbidden = self._renderer.forbidden_ids
        replies = session.generate(sampler, self._stop, draw.max_tokens, forbidden)
        return [
            Said(self._renderer.history_text(reply.ids), len(reply.ids), not reply.stopped)
            for reply in replies
        ]

    def shown(self, observation: Observation) -> tuple[ShownFrame, ...]:
        """See `Talk`."""
        return self._renderer.shown(observation)


@dataclass(frozen=True, slots=True)
class RemoteReasoner:
    """A model behind an endpoint; `geometry` is its tokens' (Qwen2.5-VL's unless given)."""

    settings: ChatSettings
    geometry: ImageGeometry = field(default_factory=lambda: ImageGeometry(patch=14))

    @property
    def source(self) -> dict[str, Any]:
        """See `Reasoner`."""
        return {"endpoint": self.settings.endpoint, "name": self.settings.model}

    def check(self, query: str) -> None:
        """See `Reasoner`."""
        if not query.strip():
            raise QueryError("the query is empty; say in words what to find")

    def look(self, frames: Frames, frame_size: tuple[int, int], preset: R1Preset) -> RemoteTalk:
        """See `Reasoner`."""
        return RemoteTalk(self, frames, frame_size, preset)


class RemoteTalk:
    """`Talk` of a `RemoteReasoner`: pictures are resized here as a local model would see them."""

    def __init__(
        self, reasoner: RemoteReasoner, frames: Frames, frame_size: tuple[int, int], preset: R1Preset
    ) -> None:
        self._settings, self._frames = reasoner.settings, frames
        self._plans = resize_plans(frame_size, preset, reasoner.geometry)

    def ask(self, observation: Observation, draw: Draw) -> list[Said]:
        """See `Talk`. Of several replies those that fail hold their error; RemoteError if all do."""
        parts = tuple(self._part(part) for part in observation.parts)
        messages = (Message("system", (SYSTEM,)), Message("user", parts))
        name = next(part.text for part in observation.parts if not isinstance(part, ImagePart))[
            :NAMED
        ].strip()
        requests = [
            ChatRequest(
                f"{name} (reply {n})", messages, draw.max_tokens, draw.temperature, draw.seed + n, draw.top_p
            )
            for n in range(draw.count)
        ]
        outcomes = ask(self._settings, requests)
        if all(outcome.error for outcome in outcomes) and outcomes[0].error:
            raise outcomes[0].error
        return [Said(*_text(o.reply)) if o.reply else Said("", 0, error=str(o.error)) for o in outcomes]

    def shown(self, observation: Observation) -> tuple[ShownFrame, ...]:
        """See `Talk`."""
        sizes = [(image, self._plans[image.role][-1]) for image in observation.images]
        return tuple(ShownFrame(i.frame, i.role, width=size.width, height=size.height) for i, size in sizes)

    def _part(self, part: Any) -> str | Picture:
        if isinstance(part, ImagePart):
            return picture(resize(self._frames[part.frame], self._plans[part.role]))
        text: str = part.text
        return text


def _text(reply: Any) -> tuple[str, int, bool]:
    """A reply's text, with the reasoning in front that the server kept apart; tokens; whether it was cut."""
    text = reply.text if not reply.reasoning else f"<think>{reply.reasoning}</think>{reply.text}"
    return text, reply.completion_tokens, reply.truncated
