"""The one renderer: dialogues to token ids, images and loss mask (design contract 2; specification §3).

Inference, supervised training, rollouts and log-probabilities all go through `Renderer`. Text is ChatML; an
image is `<|vision_start|><|image_pad|>…<|vision_end|>` with one `<|image_pad|>` per visual token. Chunks can
be appended to a key-value cache one after the other: together they equal the tokenised whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from videoseg.dialogue.budget import ImageGeometry, ResizeStep, resize_plan
from videoseg.dialogue.chatml import (
    END,
    GENERATE,
    IMAGE,
    PAD,
    PLACEHOLDER,
    RESERVED,
    START,
    VIDEO,
    VISION_END,
    VISION_START,
    Tokenizer,
    check_query,
    check_template,
    token_id,
)
from videoseg.dialogue.episode import ImagePart, Observation, TextPart
from videoseg.dialogue.pixels import patchify, resize
from videoseg.dialogue.preset import Preset
from videoseg.dialogue.prompts import SYSTEM_PROMPT
from videoseg.errors import QueryError, RenderError
from videoseg.types import O3_ROLES, Role, ShownFrame

__all__ = ["Chunk", "ImageRef", "Renderer", "check_query", "check_template", "join", "require_features"]

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image of a dialogue, by frame and resize plan; `grid` is (rows, columns) of patches."""

    frame: int
    role: Role
    turn: int
    plan: tuple[ResizeStep, ...]
    grid: tuple[int, int]
    patch: int
    merge: int

    @property
    def key(self) -> tuple[int, tuple[ResizeStep, ...]]:
        """Equal for images with equal pixels of one video: the key of a feature cache."""
        return self.frame, self.plan

    @property
    def num_tokens(self) -> int:
        """Visual tokens after merging."""
        return self.grid[0] * self.grid[1] // self.merge**2

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels as shown."""
        return self.grid[0] * self.patch, self.grid[1] * self.patch


@dataclass(frozen=True, eq=False, slots=True)
class Chunk:
    """A piece of a dialogue: `ids` int64 [L] with image tokens expanded, `loss_mask` bool [L], its images."""

    ids: Ids
    loss_mask: NDArray[np.bool_]
    images: tuple[ImageRef, ...]

    @property
    def num_image_tokens(self) -> int:
        """Image tokens in `ids`, by the images' grids."""
        return sum(image.num_tokens for image in self.images)


def join(chunks: Iterable[Chunk]) -> Chunk:
    """One chunk after the other."""
    parts = tuple(chunks)
    return Chunk(
        np.concatenate([chunk.ids for chunk in parts]),
        np.concatenate([chunk.loss_mask for chunk in parts]),
        tuple(image for chunk in parts for image in chunk.images),
    )


class Renderer:
    """Renders the dialogues of one video shape: `frame_size` is (height, width) of the decoded frames.

    `system` (None: no system message) and `plans` (how frames are resized by role) are O3's if not given.

    Raises CheckpointError if the tokenizer lacks a ChatML or vision token.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        geometry: ImageGeometry,
        preset: Preset,
        frame_size: tuple[int, int],
        *,
        system: str | None = SYSTEM_PROMPT,
        plans: Mapping[Role, tuple[ResizeStep, ...]] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.geometry = geometry
        self.preset = preset
        self.frame_size = frame_size
        self.image_id = token_id(tokenizer, IMAGE)
        self.end_id = token_id(tokenizer, END)
        self._special = tuple(token_id(tokenizer, text) for text in (START, VISION_START, VISION_END))
        self._header = self._encode(GENERATE)
        self._system = system
        self._plans = plans or {role: resize_plan(frame_size, role, preset, geometry) for role in O3_ROLES}

    @property
    def forbidden_ids(self) -> tuple[int, ...]:
        """Tokens that a reply must not hold, to be suppressed while generating."""
        video = self.tokenizer.convert_tokens_to_ids(VIDEO)
        return (self.image_id, *self._special, *(() if video is None else (video,)))

    def first(self, observation: Observation) -> Chunk:
        """System message, the first user message, and the opening of the assistant's turn."""
        return self._chunk(self._first_text(observation), self._images(observation))

    def later(self, observation: Observation, *, closed: bool) -> Chunk:
        """What follows an assistant's turn: its end (if not `closed`), the user message, the next opening.

        `closed` tells whether the turn's ids already end with `<|im_end|>`; a turn cut by the token limit
        does not.
        """
        return self._chunk(self._later_text(observation, closed=closed), self._images(observation))

    def reply(self, ids: Sequence[int], turn: int = 0) -> Chunk:
        """An assistant's turn as sampled: loss on every token. Raises RenderError on an image token in it."""
        if self.image_id in ids:
            raise RenderError(f"turn {turn}: the reply holds {IMAGE}, which no image feature belongs to")
        return Chunk(np.asarray(ids, dtype=np.int64), np.ones(len(ids), dtype=np.bool_), ())

    def dialogue(self, turns: Sequence[tuple[Observation, Sequence[int]]]) -> Chunk:
        """A stored trajectory, each turn's observation and reply ids as sampled; loss on the replies only."""
        chunks: list[Chunk] = []
        closed = True
        for index, (observation, ids) in enumerate(turns):
            chunks.append(self.later(observation, closed=closed) if index else self.first(observation))
            chunks.append(self.reply(ids, observation.turn))
            closed = len(ids) > 0 and ids[-1] == self.end_id
        return join(chunks)

    def prompt(self, history: Sequence[tuple[Observation, Sequence[int]]], pending: Observation) -> Chunk:
        """The whole prompt of turn `len(history)`, replies re-tokenised from their text; no loss anywhere.

        Equals the appended chunks wherever `retokenises` holds; else the cache must be rebuilt from this.
        """
        if not history:
            return self.first(pending)
        observations = [observation for observation, _ in history] + [pending]
        texts = [self._first_text(observations[0])]
        for (_, ids), observation in zip(history, observations[1:], strict=True):
            texts += [self.history_text(ids), self._later_text(observation, closed=False)]
        images = tuple(image for observation in observations for image in self._images(observation))
        return self._chunk("".join(texts), images)

    def encode_reply(self, text: str) -> list[int]:
        """The ids of a reply with its final `<|im_end|>`, as a training target or a forced reply."""
        return [*self._encode(text), self.end_id]

    def history_text(self, ids: Sequence[int]) -> str:
        """A reply as it enters the history of later prompts (O3 specification §3), without `<|im_end|>`."""
        text = self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if self.preset.strip_history:
            # In this order, as released: white space before `<|im_end|>` stays.
            return text.strip().replace(END, "")
        return text.replace(END, "").replace(PAD, "")

    def retokenises(self, ids: Sequence[int]) -> bool:
        """Whether the next turn may append to the cache: the history text gives back the sampled ids (§9)."""
        sampled = list(ids[:-1]) if len(ids) and ids[-1] == self.end_id else list(ids)
        again = self._encode(GENERATE + self.history_text(ids) + END)
        return again == [*self._header, *sampled, self.end_id]

    def shown(self, observation: Observation) -> tuple[ShownFrame, ...]:
        """The observation's frames with their sizes, for the trace."""
        return tuple(
            ShownFrame(image.frame, image.role, width=image.size[1], height=image.size[0])
            for image in self._images(observation)
        )

    def patches(self, image: ImageRef, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The image's patches, float32 [rows·columns, 3·temporal_patch·patch²], in the vision tower's order.

        `frame` is uint8 [H, W, 3] RGB of `frame_size`. Raises RenderError naming turn and frame otherwise.
        """
        if frame.shape != (*self.frame_size, 3) or frame.dtype != np.uint8:
            raise RenderError(
                f"turn {image.turn}, frame {image.frame}: expected uint8 pixels of shape "
                f"{(*self.frame_size, 3)}, got {frame.dtype} {frame.shape}"
            )
        return patchify(resize(frame, image.plan), self.geometry)

    def _first_text(self, observation: Observation) -> str:
        system = "" if self._system is None else f"{START}system\n{self._system}{END}\n"
        return system + self._user_text(observation)

    def _later_text(self, observation: Observation, *, closed: bool) -> str:
        return ("" if closed else END) + f"\n{self._user_text(observation)}"

    def _user_text(self, observation: Observation) -> str:
        pieces: list[str] = []
        for before, part in zip((None, *observation.parts), observation.parts, strict=False):
            if isinstance(part, TextPart):
                pieces.append(_without_reserved(part.text, observation.turn))
            elif isinstance(before, ImagePart):
                pieces += [self.preset.image_separator, PLACEHOLDER]
            else:
                pieces.append(PLACEHOLDER)
        return f"{START}user\n{''.join(pieces)}{END}\n{GENERATE}"

    def _images(self, observation: Observation) -> tuple[ImageRef, ...]:
        return tuple(self._image(part, observation.turn) for part in observation.images)

    def _image(self, part: ImagePart, turn: int) -> ImageRef:
        plan = self._plans[part.role]
        height, width = (plan[-1].height, plan[-1].width) if plan else self.frame_size
        patch = self.geometry.patch
        grid = (height // patch, width // patch)
        return ImageRef(part.frame, part.role, turn, plan, grid, patch, self.geometry.merge)

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _chunk(self, text: str, images: tuple[ImageRef, ...]) -> Chunk:
        """Tokenise text with one placeholder per image, then repeat each placeholder's token."""
        ids = np.asarray(self._encode(text), dtype=np.int64)
        slots = ids == self.image_id
        if slots.sum() != len(images):
            turns = ", ".join(str(turn) for turn in sorted({image.turn for image in images}))
            frames = ", ".join(str(image.frame) for image in images)
            raise RenderError(
                f"turn {turns}: {slots.sum()} image tokens for the {len(images)} frames {frames}; "
                f"does a text hold {IMAGE}?"
            )
        repeats = np.ones(len(ids), dtype=np.int64)
        repeats[slots] = [image.num_tokens for image in images]
        ids = np.repeat(ids, repeats)
        return Chunk(ids, np.zeros(len(ids), dtype=np.bool_), images)


def _without_reserved(text: str, turn: int) -> str:
    """The text itself; a second guard behind `check_query` against forged turns and images."""
    if found := [token for token in RESERVED if token in text]:
        raise QueryError(
            f"turn {turn}: the user message holds {found[0]!r}; run check_query on the query first"
        )
    return text


def require_features(chunk: Chunk, counts: Sequence[int], image_id: int) -> None:
    """Check before a forward pass that every image of `chunk` has as many features as tokens.

    `counts` are the visual features of each image. Raises RenderError naming the first turn and frame that
    disagree, or a total that does not fit the ids.
    """
    for index, image in enumerate(chunk.images):
        count = counts[index] if index < len(counts) else 0
        if count != image.num_tokens:
            raise RenderError(
                f"turn {image.turn}, frame {image.frame}: {image.num_tokens} image tokens, {count} features"
            )
    total = int((chunk.ids == image_id).sum())
    if len(counts) != len(chunk.images) or total != chunk.num_image_tokens:
        raise RenderError(
            f"{total} image tokens and {len(chunk.images)} images in the dialogue, but features of "
            f"{len(counts)} images with {sum(counts)} tokens"
        )
