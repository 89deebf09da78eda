"""Frames in and out: the byte-bounded cache of decoded frames."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]

MAX_CACHED_FRAMES = 128


class FrameCache:
    """The most recently used frames, at most `max_bytes` and `max_frames` of them.

    Both bounds hold whatever the length of the video. `peak_frames` and `peak_bytes` tell the most
    that was ever held, for tests and `doctor`.
    """

    def __init__(self, max_bytes: int, max_frames: int = MAX_CACHED_FRAMES) -> None:
        self.max_bytes = max_bytes
        self.max_frames = max_frames
        self.num_bytes = 0
        self.peak_bytes = 0
        self.peak_frames = 0
        self._frames: OrderedDict[int, Frame] = OrderedDict()

    def __len__(self) -> int:
        return len(self._frames)

    def capacity(self, frame_bytes: int) -> int:
        """How many frames of `frame_bytes` fit; 0 where not even one does."""
        return min(self.max_frames, self.max_bytes // max(1, frame_bytes))

    def get(self, index: int) -> Frame | None:
        """The frame if it is held; it becomes the most recently used one."""
        frame = self._frames.get(index)
        if frame is not None:
            self._frames.move_to_end(index)
        return frame

    def put(self, index: int, frame: Frame) -> None:
        """Hold a frame; room is made first, and a frame that can never fit is not held."""
        if index in self._frames:
            self._frames.move_to_end(index)
            return
        if self.capacity(frame.nbytes) == 0:
            return
        while len(self._frames) >= self.max_frames or self.num_bytes + frame.nbytes > self.max_bytes:
            _, oldest = self._frames.popitem(last=False)
            self.num_bytes -= oldest.nbytes
        self._frames[index] = frame
        self.num_bytes += frame.nbytes
        self.peak_bytes = max(self.peak_bytes, self.num_bytes)
        self.peak_frames = max(self.peak_frames, len(self._frames))

    def clear(self) -> None:
        """Let go of all frames."""
        self._frames.clear()
        self.num_bytes = 0
