"""Propagation of masks through a video by SAM2's memory, for videos of any length.

Which memories a frame attends to is stack.md §3.4, which of them must be kept is §3.5, and the four modes
are O3 specification §8.3. Everything is batched over objects and differentiable.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videoseg.errors import UsageError
from videoseg.models.sam2 import FrameFeatures, MaskPrediction, PromptTokens, Sam2
from videoseg.tracking.base import LiveMemories, direction
from videoseg.tracking.run import Job, TrackingRun

FeatureFunction = Callable[[int], FrameFeatures]
"""Features of one frame of a video, as a batch of one."""


class Propagation(StrEnum):
    """What frames other than the keyframe are decoded with (O3 specification §8.3)."""

    INJECT_EVERY_FRAME = "inject_every_frame"
    INJECT_ONCE = "inject_once"
    ORIGINAL_SAM2 = "original_sam2"
    PER_FRAME = "per_frame"


@dataclass(frozen=True)
class TrackingOptions:
    """Departures from O3's way of tracking, all off; stock SAM2 has `gate` and `binarize` on.

    `gate`: frames judged absent get logits of -1024 (None: only where `original_sam2` tracks). `binarize`:
    memories of clicked keyframes hold a hard mask (language prompts are not clicks). `exact`: memories are
    not rounded to bfloat16.
    """

    gate: bool | None = None
    binarize: bool = True
    exact: bool = False


class Sam2Tracker:
    """Tracks the objects of one keyframe, B at once; implements `tracking.base.Tracker`.

    Memory: the keyframe's map and pointer; the last 6 maps and 15 pointers in the running direction; during
    and after the forward pass those of k+1..k+5 and k+1..k+14, which the backward pass reads. Never more
    than 12 maps and 30 pointers per object, however long the video (K = 7, P = 16).
    """

    def __init__(
        self,
        sam2: Sam2,
        mode: Propagation | str = Propagation.INJECT_EVERY_FRAME,
        *,
        num_frames: int | None = None,
        original: Sam2 | None = None,
        options: TrackingOptions | None = None,
    ) -> None:
        """`num_frames` None: a stream of unknown length. `original` is needed by the mode `original_sam2`."""
        self.mode = _propagation(mode)
        if self.mode is Propagation.ORIGINAL_SAM2 and original is None:
            raise UsageError("propagation original_sam2 needs the unmodified SAM2: pass original=")
        self._sam2 = sam2
        self._follower = original if self.mode is Propagation.ORIGINAL_SAM2 and original else sam2
        self._options = options or TrackingOptions()
        limit = sam2.num_pointers
        self._span = limit if num_frames is None else min(num_frames, limit)
        self.close()

    def close(self) -> None:
        """Release every memory."""
        self._maps: dict[int, Tensor] = {}
        self._pointers: dict[int, Tensor] = {}
        self._key: tuple[Tensor, Tensor] | None = None
        self._prompt: PromptTokens | None = None
        self._keyframe = self._last = 0

    def state(self) -> dict[str, Any]:
        """Everything remembered, as plain values and tensors: what `restore` needs to go on."""
        return {
            "maps": dict(self._maps),
            "pointers": dict(self._pointers),
            "key": self._key,
            "keyframe": self._keyframe,
            "last": self._last,
        }

    def restore(self, state: dict[str, Any], prompt: Callable[[], PromptTokens]) -> None:
        """Go on from `state` with the keyframe's prompt, as if every earlier frame had been tracked here."""
        device = self._sam2.device
        self._maps = {frame: kept.to(device) for frame, kept in state["maps"].items()}
        self._pointers = {frame: kept.to(device) for frame, kept in state["pointers"].items()}
        self._key = state["key"] and (state["key"][0].to(device), state["key"][1].to(device))
        self._keyframe, self._last = state["keyframe"], state["last"]
        self._prompt = prompt()

    @property
    def live_memories(self) -> LiveMemories:
        """Frames whose map and whose pointer are held now, the keyframe included."""
        key = int(self._key is not None)
        return LiveMemories(len(self._maps) + key, len(self._pointers) + key)

    def start(self, features: FrameFeatures, prompt: PromptTokens, frame: int) -> MaskPrediction:
        """Decode `prompt` on the keyframe `frame` and remember its masks."""
        self.close()
        self._keyframe = self._last = frame
        self._prompt = prompt
        gate = bool(self._options.gate)
        answer = self._sam2.segment(features, prompt, gate=gate)
        if self.mode is not Propagation.PER_FRAME:
            self._key = self._remember_keyframe(features, prompt, answer)
        return answer

    def _remember_keyframe(
        self, features: FrameFeatures, prompt: PromptTokens, answer: MaskPrediction
    ) -> tuple[Tensor, Tensor]:
        clicked = prompt.clicked
        if self.mode is Propagation.ORIGINAL_SAM2:
            side = self._sam2.image_size
            mask = self._sam2.upsample(answer.logits, (side, side)) > 0
            answer = self._follower.segment(features.as_original(), self._follower.prompt_mask(mask))
            clicked = True
        binary = clicked and self._options.binarize
        return self._remember(features, answer, binary), answer.pointer

    def _remember(self, features: FrameFeatures, answer: MaskPrediction, binary: bool = False) -> Tensor:
        return self._follower.remember(
            features, answer, is_mask_from_points=binary, exact=self._options.exact
        )

    def step(self, features: FrameFeatures, frame: int) -> MaskPrediction:
        """Track into `frame`: keyframe + 1, + 2, ...; then, without a new start, keyframe - 1, - 2, ..."""
        if self._prompt is None:
            raise UsageError("the tracker has no keyframe: call start before step")
        sign = direction(self._keyframe, self._last, frame)
        if self.mode is Propagation.PER_FRAME:
            answer = self._sam2.segment(features, self._prompt, gate=bool(self._options.gate))
        else:
            answer = self._track(features, frame, sign)
        self._last = frame
        return answer

    def _track(self, features: FrameFeatures, frame: int, sign: int) -> MaskPrediction:
        follower = self._follower
        if self.mode is Propagation.ORIGINAL_SAM2:
            features = features.as_original()
        maps, pointers = self._reachable(frame, sign)
        top = follower.attend(features, maps, pointers, self._span)
        batch = len(top)
        every = self.mode is Propagation.INJECT_EVERY_FRAME
        prompt = self._prompt if every and self._prompt else follower.prompt_empty(batch)
        gate = self._options.gate
        if gate is None:
            gate = self.mode is Propagation.ORIGINAL_SAM2
        answer = follower.decode(features, top, prompt, gate=gate)
        self._maps[frame] = self._remember(features, answer)
        self._pointers[frame] = answer.pointer
        self._forget(frame, sign)
        return answer

    def _reachable(self, frame: int, sign: int) -> tuple[list[tuple[int, Tensor]], list[tuple[int, Tensor]]]:
        """What `frame` attends to (stack.md §3.4): maps by temporal encoding, pointers by distance."""
        if self._key is None:
            raise UsageError("the tracker was closed: call start before step")
        count = self._sam2.num_maps
        maps = [(count - 1, self._key[0])]
        for distance in range(count - 1, 0, -1):
            if frame - sign * distance in self._maps:
                maps.append((distance - 1, self._maps[frame - sign * distance]))
        pointers = [(abs(frame - self._keyframe), self._key[1])]
        for distance in range(1, self._span):
            if frame - sign * distance in self._pointers:
                pointers.append((distance, self._pointers[frame - sign * distance]))
        return maps, pointers

    def _forget(self, frame: int, sign: int) -> None:
        """Drop what no later frame can reach (stack.md §3.5)."""
        for kept, span in ((self._maps, self._sam2.num_maps), (self._pointers, self._span)):
            for other in [other for other in kept if not self._needed(other, frame, sign, span)]:
                del kept[other]

    def _needed(self, other: int, frame: int, sign: int, span: int) -> bool:
        """Can a frame after `frame` attend to `other`, looking back over `span` - 1 frames?"""
        if (frame - other) * sign < span - 1 and (frame - other) * sign >= 0:
            return True
        backward_later = sign > 0 and self._keyframe > 0
        return backward_later and 0 < other - self._keyframe < span - 1


def _propagation(mode: Propagation | str) -> Propagation:
    try:
        return Propagation(mode)
    except ValueError as error:
        known = ", ".join(Propagation)
        raise UsageError(f"propagation {mode!r} is unknown; known are: {known}") from error


@dataclass(frozen=True, eq=False)
class TrackingJob:
    """One query to carry through a video: its keyframe and its language embeddings [N objects, C]."""

    keyframe: int
    embedding: Tensor


def propagate(
    sam2: Sam2,
    video_features: FeatureFunction,
    num_frames: int,
    keyframe: int,
    embedding: Tensor,
    mode: Propagation | str = Propagation.INJECT_EVERY_FRAME,
    *,
    original: Sam2 | None = None,
    options: TrackingOptions | None = None,
) -> Iterator[tuple[int, MaskPrediction]]:
    """Yield (frame, masks of N objects) in the order keyframe, keyframe+1 .. T-1, keyframe-1 .. 0.

    `embedding` [N, C] or [N, tokens, C]; `video_features(t)` is called once per frame and its result is
    dropped before the next frame. `original_sam2` needs features encoded with `original=`. Raises UsageError
    if the keyframe is not in the video. Gradients flow unless the caller is in `torch.no_grad()`.
    """
    jobs = [TrackingJob(keyframe, embedding)]
    steps = propagate_many(sam2, video_features, num_frames, jobs, mode, original=original, options=options)
    return ((frame, masks) for _, frame, masks in steps)


def propagate_many(
    sam2: Sam2,
    video_features: FeatureFunction,
    num_frames: int,
    jobs: Sequence[TrackingJob],
    mode: Propagation | str = Propagation.INJECT_EVERY_FRAME,
    *,
    original: Sam2 | None = None,
    options: TrackingOptions | None = None,
) -> Iterator[tuple[int, int, MaskPrediction]]:
    """Carry several queries with their own keyframes through one video, sharing its frame features.

    Yields (job, frame, masks) in the order of `tracking.run.TrackingRun`. Within a job the order and the
    results are those of `propagate`.
    """
    return iter(
        TrackingRun(
            language_jobs(sam2, num_frames, jobs, mode, original, options), video_features, num_frames
        )
    )


def language_jobs(
    sam2: Sam2,
    num_frames: int,
    jobs: Sequence[TrackingJob],
    mode: Propagation | str = Propagation.INJECT_EVERY_FRAME,
    original: Sam2 | None = None,
    options: TrackingOptions | None = None,
) -> list[Job[FrameFeatures, PromptTokens, MaskPrediction]]:
    """A tracker for each query, prompted with its language embeddings."""
    return [
        Job(
            job.keyframe,
            Sam2Tracker(sam2, mode, num_frames=num_frames, original=original, options=options),
            partial(sam2.prompt_language, job.embedding),
        )
        for job in jobs
    ]


class VideoFeatures:
    """Frame features on demand, without gradients: a `FeatureFunction` over a video indexed by frame.

    Keeps the features of the last `cache` frames asked for, for callers that visit frames out of step.
    """

    def __init__(
        self,
        sam2: Sam2,
        frame: Callable[[int], np.ndarray],
        *,
        original: Sam2 | None = None,
        cache: int = 1,
        exact_normalization: bool = True,
    ) -> None:
        """`frame(t)` returns frame t as uint8 [H, W, 3] RGB (`Video.__getitem__`)."""
        self._sam2, self._frame, self._original = sam2, frame, original
        self._size, self._exact = cache, exact_normalization
        self._cache: OrderedDict[int, FrameFeatures] = OrderedDict()
        self.computed = 0

    def __call__(self, index: int) -> FrameFeatures:
        """Features of frame `index`; `computed` counts the encoder's runs."""
        if index in self._cache:
            self._cache.move_to_end(index)
            return self._cache[index]
        while len(self._cache) >= max(1, self._size):
            self._cache.popitem(last=False)
        pixels = self._sam2.preprocess(self._frame(index), exact_normalization=self._exact)
        with torch.no_grad():
            features = self._sam2.encode(pixels[None], original=self._original)
        self.computed += 1
        if self._size:
            self._cache[index] = features
        return features

    def close(self) -> None:
        """Drop every kept feature."""
        self._cache.clear()
