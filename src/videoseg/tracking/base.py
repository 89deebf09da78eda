"""What every tracker offers: carry masks from one frame through a video with bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

from videoseg.errors import UsageError

Features = TypeVar("Features", contravariant=True)
Prompt = TypeVar("Prompt", contravariant=True)
Prediction = TypeVar("Prediction", covariant=True)


class LiveMemories(NamedTuple):
    """What a tracker holds now: frames whose map is kept, and single vectors.

    The vectors are SAM2's object pointers, XMem's long-term prototypes.
    """

    maps: int
    pointers: int


class Tracker(Protocol[Features, Prompt, Prediction]):
    """Follow the objects of one keyframe: first forward, then backward from it.

    Frames come one by one and are not kept; what a tracker keeps (`live_memories`) is bounded by a constant
    that does not depend on the length of the video.
    """

    def start(self, features: Features, prompt: Prompt, frame: int) -> Prediction:
        """Begin at the keyframe `frame`; forget whatever was tracked before."""

    def step(self, features: Features, frame: int) -> Prediction:
        """Track into the next frame: keyframe + 1, + 2, ..., then keyframe - 1, - 2, ..."""

    def state(self) -> dict[str, Any]:
        """Everything remembered, as plain values and tensors: what `restore` needs to go on."""

    def restore(self, state: dict[str, Any], prompt: Callable[[], Prompt]) -> None:
        """Go on from `state` as if every earlier frame had been tracked here; `prompt` gives start's."""

    @property
    def live_memories(self) -> LiveMemories:
        """What is kept at this moment."""

    def close(self) -> None:
        """Release everything; `start` may be called again."""


def direction(keyframe: int, last: int, frame: int) -> int:
    """+1 or -1: the way from frame `last` to `frame`.

    Frames come in the order keyframe, + 1, + 2, ..., keyframe - 1, - 2, ...; UsageError where `frame` is not
    the next.
    """
    turning = last >= keyframe and frame == keyframe - 1
    sign = -1 if last < keyframe or turning else 1
    if not turning and frame != last + sign:
        expected = f"{last + sign}" + (f" or {keyframe - 1}" if sign > 0 else "")
        raise UsageError(f"frame {frame} does not follow frame {last}: expected {expected}")
    return sign
