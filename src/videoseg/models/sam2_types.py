"""What goes into and comes out of SAM2: frame features, prompts and masks, as batches of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from videoseg.errors import UsageError


@dataclass(frozen=True, eq=False)
class FrameFeatures:
    """Features of B frames: `fine` [B, C/8, S/4, S/4], `middle` [B, C/4, S/8, S/8], `top` [B, C, S/16, S/16].

    The two finer maps have passed the mask decoder's own projections; `original` holds them as the
    unmodified decoder of the mode `original_sam2` projects them.
    """

    fine: Tensor
    middle: Tensor
    top: Tensor
    original: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return self.top.shape[0]

    def select(self, index: Tensor | Sequence[int] | slice) -> FrameFeatures:
        """The frames of `index`, in its order and with repetitions: one frame may serve several prompts."""
        if not isinstance(index, slice):
            index = torch.as_tensor(index, device=self.top.device)
        return self._map(lambda tensor: tensor[index])

    @classmethod
    def cat(cls, parts: Sequence[FrameFeatures]) -> FrameFeatures:
        """The frames of all parts, one after the other; for features without `original`."""
        fine, middle, top = (torch.cat([getattr(p, n) for p in parts]) for n in ("fine", "middle", "top"))
        return cls(fine, middle, top)

    def to(self, device: torch.device | str) -> FrameFeatures:
        """The same features elsewhere."""
        return self._map(lambda tensor: tensor.to(device))

    def expand(self, batch: int) -> FrameFeatures:
        """The one frame held here, `batch` times, without copying."""
        if len(self) == batch:
            return self
        return self._map(lambda tensor: tensor.expand(batch, -1, -1, -1))

    def detach(self) -> FrameFeatures:
        """The same values cut from the gradient graph."""
        return self._map(Tensor.detach)

    def as_original(self) -> FrameFeatures:
        """The features for the unmodified decoder; UsageError if `Sam2.encode` made none."""
        if self.original is None:
            raise UsageError(
                "frames were encoded without the original SAM2 decoder: pass original= to Sam2.encode"
            )
        return FrameFeatures(self.original[0], self.original[1], self.top)

    def _map(self, function: Any) -> FrameFeatures:
        original = self.original and (function(self.original[0]), function(self.original[1]))
        return FrameFeatures(function(self.fine), function(self.middle), function(self.top), original)


@dataclass(frozen=True, eq=False)
class PromptTokens:
    """What the mask decoder is told: `sparse` [B, 1, N, C] tokens and a `dense` [B, C, S/16, S/16] map.

    `multimask` asks for the best of three masks; `clicked` marks clicks, boxes and masks, whose memory stock
    SAM2 binarises; `mask` [B, 1, S, S] in {0, 1} is a mask given as the answer itself.
    """

    sparse: Tensor
    dense: Tensor
    multimask: bool = True
    clicked: bool = False
    mask: Tensor | None = None


@dataclass(frozen=True, eq=False)
class AllMasks:
    """Every candidate of the decoder: logits [B, M, S/4, S/4], iou [B, M], tokens [B, M, C], score [B]."""

    logits: Tensor
    iou: Tensor
    tokens: Tensor
    score: Tensor


@dataclass(frozen=True, eq=False)
class MaskPrediction:
    """One mask per object: logits [B, 1, S/4, S/4], iou [B], all_iou [B, 1 or 3], score [B], pointer [B, C].

    `score` is the object score before the sigmoid: > 0 means present.
    """

    logits: Tensor
    iou: Tensor
    all_iou: Tensor
    score: Tensor
    pointer: Tensor

    def detach(self) -> MaskPrediction:
        """The same values cut from the gradient graph."""
        return MaskPrediction(**{f.name: getattr(self, f.name).detach() for f in fields(self)})

    def row(self, index: int) -> MaskPrediction:
        """Object `index` alone, as a batch of one."""
        return MaskPrediction(**{f.name: getattr(self, f.name)[index : index + 1] for f in fields(self)})
