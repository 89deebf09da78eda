"""Propagation of masks through a video by XMem, in both directions with fresh memories (R1 spec §6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from videoseg.errors import UsageError
from videoseg.models.sam2 import MEAN, STD
from videoseg.models.xmem import FrameKeys, MemoryOptions, XMem, XMemSession
from videoseg.tracking.base import LiveMemories, direction


@dataclass(frozen=True, eq=False, slots=True)
class XMemPrediction:
    """The masks of N objects in one frame.

    `probabilities` [1 + N, h, w] at the tracker's size, background first; `given` bool [N, H, W] on the
    keyframe, whose masks are those that were given.
    """

    probabilities: Tensor
    given: Tensor | None = None

    def masks(self, size: tuple[int, int]) -> Tensor:
        """Masks bool [N, H, W] of `size` (H, W); those of tracked frames do not overlap."""
        if self.given is not None:
            return self.given
        full = F.interpolate(self.probabilities[None], size, mode="bilinear", align_corners=False)
        numbers = torch.arange(1, len(self.probabilities), device=full.device)
        return full[0].argmax(0) == numbers[:, None, None]

    @property
    def presence(self) -> Tensor:
        """Highest probability of each object in the frame, [N]."""
        return self.probabilities[1:].flatten(1).amax(1)

    @property
    def score(self) -> Tensor:
        """Mean probability of each object where it is more likely than not, [N]; 0 where that is nowhere."""
        objects = self.probabilities[1:].flatten(1)
        inside = objects > 0.5
        return (objects * inside).sum(1) / inside.sum(1).clamp(min=1)


class XMemFrames:
    """Keys of a video's frames, computed when asked for."""

    def __init__(self, xmem: XMem, frame: Callable[[int], np.ndarray]) -> None:
        """`frame(t)` returns frame t as uint8 [H, W, 3] RGB (`Video.__getitem__`)."""
        self._xmem, self._frame = xmem, frame

    @torch.no_grad()
    def __call__(self, index: int) -> FrameKeys:
        """Keys of frame `index` at the network's size."""
        image = preprocess(self._frame(index), self._xmem.image_size).to(self._xmem.device)
        with self._xmem.precision():
            return self._xmem.encode_frame(image[None])


class XMemTracker:
    """Tracks the objects of one keyframe; implements `tracking.base.Tracker`.

    The backward sweep begins with the memory as it was just after the keyframe, which is the same as a run
    of its own. Memory: that of one frame, and what `MemoryOptions` allows (fewer than 10 frames and 10,000
    tokens by default), however long the video. Objects with an empty mask stay empty.
    """

    def __init__(
        self, xmem: XMem, *, num_frames: int | None = None, options: MemoryOptions | None = None
    ) -> None:
        """`num_frames` None: a stream of unknown length."""
        self._xmem, self._frames = xmem, num_frames
        self._options = options or MemoryOptions()
        self.close()

    def close(self) -> None:
        """Release every memory."""
        self._session: XMemSession | None = None
        self._key: dict[str, Any] | None = None
        self._tracked: list[bool] = []
        self._keyframe = self._last = 0
        self._started = False

    def start(self, features: FrameKeys, prompt: Tensor, frame: int) -> XMemPrediction:
        """Remember masks bool [N, H, W] (the video's size) of the keyframe `frame`; they are the answer."""
        self.close()
        self._keyframe = self._last = frame
        self._tracked = [bool(mask.any()) for mask in prompt]
        self._started = True
        small = fit(prompt.to(self._xmem.device), self._xmem.image_size)
        if any(self._tracked):
            self._session = self._sweep(None if self._frames is None else self._frames - frame)
            self._session.step(features, small[self._tracked].float())
            self._key = self._session.state() if frame > 0 else None
        background = ~small.any(0, keepdim=True)
        return XMemPrediction(torch.cat([background, small]).float(), prompt)

    def _sweep(self, frames: int | None) -> XMemSession:
        return XMemSession(self._xmem, self._options.for_frames(frames))

    def step(self, features: FrameKeys, frame: int) -> XMemPrediction:
        """Track into `frame`: keyframe + 1, + 2, ...; then, without a new start, keyframe - 1, - 2, ..."""
        if not self._started:
            raise UsageError("the tracker has no keyframe: call start before step")
        sign = direction(self._keyframe, self._last, frame)
        if self._key is not None and sign < 0:
            self._session = self._sweep(self._keyframe + 1)
            self._session.restore(self._key)
            self._key = None
        self._last = frame
        if self._session is None:
            return XMemPrediction(self._nothing(features))
        end = 0 if sign < 0 else None if self._frames is None else self._frames - 1
        return XMemPrediction(self._widened(self._session.step(features, last=frame == end)))

    def _nothing(self, features: FrameKeys) -> Tensor:
        """Background everywhere."""
        empty = features.crop(features.image[0, :1])
        return torch.cat([torch.ones_like(empty), torch.zeros_like(empty).expand(len(self._tracked), -1, -1)])

    def _widened(self, probabilities: Tensor) -> Tensor:
        """With empty rows for the objects that are not tracked."""
        if all(self._tracked):
            return probabilities
        rows = [0] + [row for row, tracked in enumerate(self._tracked, start=1) if tracked]
        full = probabilities.new_zeros(1 + len(self._tracked), *probabilities.shape[1:])
        full[rows] = probabilities
        return full

    def state(self) -> dict[str, Any]:
        """Everything remembered, as plain values and tensors: what `restore` needs to go on."""
        session = self._session and self._session.state()
        places = {"keyframe": self._keyframe, "last": self._last, "started": self._started}
        return {"session": session, "key": self._key, "tracked": list(self._tracked), **places}

    def restore(self, state: dict[str, Any], prompt: Callable[[], Tensor]) -> None:
        """Go on from `state`, as if every earlier frame had been tracked here; the prompt is not needed."""
        self.close()
        self._keyframe, self._last, self._started = state["keyframe"], state["last"], state["started"]
        self._tracked, self._key = list(state["tracked"]), state["key"]
        if state["session"] is not None:
            forward = self._last >= self._keyframe
            length = None if self._frames is None else self._frames - self._keyframe
            self._session = self._sweep(length if forward else self._keyframe + 1)
            self._session.restore(state["session"])

    @property
    def live_memories(self) -> LiveMemories:
        """Frames of working memory, the keyframe's copy included, and tokens of long-term memory."""
        if self._session is None:
            return LiveMemories(0, 0)
        memory = self._session.memory
        return LiveMemories(memory.frames + int(self._key is not None), memory.tokens[1])


def preprocess(frame: np.ndarray, size: int) -> Tensor:
    """A frame uint8 [H, W, 3] RGB as float32 [3, h, w], normalised, the shorter side `size` pixels."""
    pixels = torch.from_numpy(frame.astype(np.float32)).permute(2, 0, 1) / 255
    pixels = (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    height, width = fitted(frame.shape[0], frame.shape[1], size)
    return F.interpolate(pixels[None], (height, width), mode="bicubic", antialias=True)[0]


def fit(masks: Tensor, size: int) -> Tensor:
    """Masks bool [..., H, W] at their preprocessed frame's size: the pixel under each new one's centre."""
    height, width = fitted(masks.shape[-2], masks.shape[-1], size)
    rows = (2 * torch.arange(height) + 1) * masks.shape[-2] // (2 * height)
    columns = (2 * torch.arange(width) + 1) * masks.shape[-1] // (2 * width)
    return masks[..., rows[:, None], columns]


def fitted(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width with the shorter side at `size`."""
    shorter = min(height, width)
    return int(height / shorter * size), int(width / shorter * size)
