"""What travels through the house: queries, turns, traces and results, as frozen data.

Frame indices are 0-based; intervals include both ends. No torch import here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from videoseg.masks import Masklets


class Role(StrEnum):
    """Why a frame is shown, which decides its size (O3 specification §4, R1 specification §3).

    O3 shows the first three, R1 frames of the key segment, references from elsewhere, and the target.
    """

    LOW = "low"
    HIGH = "high"
    KEYFRAME = "keyframe"
    SEGMENT = "segment"
    REFERENCE = "reference"
    TARGET = "target"


O3_ROLES = (Role.LOW, Role.HIGH, Role.KEYFRAME)
Box = tuple[int, int, int, int]
"""x1, y1, x2, y2 in pixels of the frame."""
Point = tuple[int, int]
"""x, y in pixels of the frame."""


class StopReason(StrEnum):
    """Why an episode ended."""

    ANSWER = "answer"
    TURN_LIMIT = "turn_limit"
    EMPTY_INTERVAL = "empty_interval"
    INVALID_REPLY = "invalid_reply"
    LENGTH = "length"


class MaskReason(StrEnum):
    """Where the masks come from, or why there are none."""

    OK = "ok"
    NO_SEG = "no_seg"
    NO_ANSWER = "no_answer"


@dataclass(frozen=True, slots=True)
class Query:
    """A question about a video; `id` names it in files."""

    text: str
    id: str = "0"


@dataclass(frozen=True, slots=True)
class Interval:
    """Frames `start` to `end`, both included."""

    start: int
    end: int

    def __len__(self) -> int:
        return max(0, self.end - self.start + 1)


@dataclass(frozen=True, slots=True)
class Reply:
    """What an assistant turn says (O3 specification §2), before clamping to the video."""

    interval: Interval
    keyframe: int
    think: str = ""
    has_seg: bool = True


@dataclass(frozen=True, slots=True)
class Select(Reply):
    """Ask for the frames of `interval` and the keyframe at higher resolution."""


@dataclass(frozen=True, slots=True)
class Answer(Reply):
    """The final turn."""


@dataclass(frozen=True, slots=True)
class Cue:
    """Where R1 sees one object on the target frame (R1 specification §3); what SAM2 is prompted with."""

    box: Box
    point: Point | None = None
    negative: Point | None = None


@dataclass(frozen=True, slots=True)
class Cues:
    """R1's answer: the objects that fit the query, in pixels of the frame."""

    think: str
    objects: tuple[Cue, ...]


@dataclass(frozen=True, slots=True)
class Vote:
    """What R1's frame sampler made of several replies (R1 specification §2).

    `values` are the replies that could be read, frame indices (start, end) or a share in [0, 1]; `asked` how
    many were asked for, `spread` the standard deviation of each column. `interval` is the key segment
    after this step, `keyframe` the target frame once it is chosen.
    """

    interval: Interval
    values: tuple[tuple[float, ...], ...]
    asked: int
    spread: tuple[float, ...]
    keyframe: int | None = None


@dataclass(frozen=True, slots=True)
class ShownFrame:
    """A frame as the model saw it; width and height in pixels after resizing."""

    frame: int
    role: Role
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Turn:
    """One exchange: the frames shown, the reply as text and as parsed."""

    index: int
    shown: tuple[ShownFrame, ...]
    text: str
    reply: Select | Answer | Vote | Cues | None
    error: str | None = None
    steps: tuple[tuple[str, str], ...] = ()
    num_tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Trace:
    """How an answer came about; `keyframe` is where the mask was decoded."""

    query: Query
    turns: tuple[Turn, ...]
    stop: StopReason
    keyframe: int
    seg_turn: int | None
    mask_reason: MaskReason
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What is known of a video without decoding it; `source` is its path or a description."""

    source: str
    num_frames: int
    height: int
    width: int
    fps: float


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to one query on one video."""

    query: Query
    video: VideoInfo
    masklets: Masklets
    trace: Trace
    provenance: dict[str, Any] = field(default_factory=dict)
