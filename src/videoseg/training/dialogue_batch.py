"""A batch of stored dialogues, as the teacher-forced pass takes it (design contract 2)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from videoseg.models.sam2 import FrameFeatures

Kind = Literal["video", "keyframe"]


@dataclass(frozen=True, eq=False, slots=True)
class MaskQuery:
    """A [SEG] decoded on one frame, exactly as inference decodes a keyframe (O3 specification §7).

    `row` of the batch, `seg` which [SEG] of that row, counted over its trained tokens, `frame` the number
    of the frame in the batch. `truth` `[h, w]` in [0, 1], or None if only the prediction is wanted. `kind`
    and `turn` tell which mask loss it belongs to (§11, §12.5).
    """

    row: int
    seg: int
    frame: int
    truth: Tensor | None = None
    kind: Kind = "video"
    turn: int = 0


@dataclass(frozen=True, eq=False, slots=True)
class DialogueBatch:
    """B dialogues, padded on the right, so that a causal pass needs no mask.

    ids int64 and loss_mask bool `[B, L]`; `patches` and `grids` of the different images, `images[b]` the
    numbers of row b's images in token order; `frames` the different frames to draw on, SAM2's input
    `[3, S, S]` or what `Sam2.pyramid` makes of it; `frame_keys` their names in a cache, if there is one.
    Every `group` rows in succession answer the same prompt; of equal ones, which a sure policy samples often,
    `twin[b]` is the first, so that each need be computed once only (empty: all rows differ).
    """

    ids: Tensor
    loss_mask: Tensor
    patches: tuple[Tensor, ...]
    grids: tuple[tuple[int, int], ...]
    images: tuple[tuple[int, ...], ...]
    frames: tuple[Tensor | FrameFeatures, ...] = ()
    masks: tuple[MaskQuery, ...] = ()
    frame_keys: tuple[str, ...] = ()
    group: int = 1
    twin: tuple[int, ...] = ()

    def to(self, device: torch.device | str) -> DialogueBatch:
        """The same batch elsewhere."""
        masks = [
            query if query.truth is None else replace(query, truth=query.truth.to(device))
            for query in self.masks
        ]
        return replace(
            self,
            ids=self.ids.to(device),
            loss_mask=self.loss_mask.to(device),
            patches=tuple(patches.to(device) for patches in self.patches),
            frames=tuple(frame.to(device) for frame in self.frames),
            masks=tuple(masks),
        )
