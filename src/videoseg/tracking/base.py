"""What every tracker offers: carry masks from one frame through a video with bounded memory."""

from __future__ import annotations

from typing import NamedTuple, Protocol, TypeVar

Features = TypeVar("Features", contravariant=True)
Prompt = TypeVar("Prompt", contravariant=True)
Prediction = TypeVar("Prediction", covariant=True)


class LiveMemories(NamedTuple):
    """How many frames' memories a tracker holds now: spatial maps and pointers."""

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

    @property
    def live_memories(self) -> LiveMemories:
        """What is kept at this moment."""

    def close(self) -> None:
        """Release everything; `start` may be called again."""
