"""The one teacher-forced pass of O3: stored dialogues to states and [SEG] masks (design contracts 2, 4).

Supervised training and GRPO call `TeacherForced` inside the `forward(batch)` of their own module, which
accelerate wraps: whatever needs a gradient happens in there, on every rank, with or without [SEG].
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from videoseg.errors import AlignmentError
from videoseg.models.o3 import O3Model
from videoseg.models.sam2 import AllMasks, FrameFeatures
from videoseg.models.vlm import ImageFeatures, States
from videoseg.training.grpo import anchor, trained_positions

FRAMES_PER_CALL = 8
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
    """

    ids: Tensor
    loss_mask: Tensor
    patches: tuple[Tensor, ...]
    grids: tuple[tuple[int, int], ...]
    images: tuple[tuple[int, ...], ...]
    frames: tuple[Tensor | FrameFeatures, ...] = ()
    masks: tuple[MaskQuery, ...] = ()
    frame_keys: tuple[str, ...] = ()

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


@dataclass(frozen=True, eq=False, slots=True)
class ForwardOutput:
    """States of all tokens, and what comes of the [SEG]s.

    `rows`, `columns` int64 `[P]`: the trained tokens; `hidden` `[P, D]`: the normed states that predict them.
    `seg_embeddings` `[N, C]` are SAM2's prompts of the [SEG]s at `seg_rows`, `seg_columns`, `seg_states`
    `[N, D]` the pre-norm states behind them. `mask_logits` `[M, s, s]` and `iou` `[M]` (predicted) per query,
    in order, `candidates` all three masks of each. `anchor`: a 0 that keeps every part in the graph; it
    belongs into every loss.
    """

    states: States
    images: tuple[ImageFeatures, ...]
    rows: Tensor
    columns: Tensor
    seg_rows: Tensor
    seg_columns: Tensor
    seg_states: Tensor
    seg_embeddings: Tensor
    candidates: AllMasks
    mask_logits: Tensor
    iou: Tensor
    anchor: Tensor

    @property
    def hidden(self) -> Tensor:
        """Normed states `[P, D]` that predict the trained tokens."""
        return self.states.norm[self.rows, self.columns - 1]


class TeacherForced(nn.Module):
    """An O3 model read along stored dialogues."""

    def __init__(self, model: O3Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: DialogueBatch) -> ForwardOutput:
        """Read a batch and decode its mask queries in one call.

        Raises RenderError where image tokens and images disagree, AlignmentError where a query names a [SEG]
        that its row does not have.
        """
        images = self._images(batch)
        shown = [images[number] for row in batch.images for number in row]
        states = self.model.vlm(batch.ids, self._positions(batch, images), images=shown)
        rows, columns = trained_positions(batch.loss_mask)
        segs = ((batch.ids == self.model.seg_id) & batch.loss_mask).nonzero(as_tuple=True)
        seg_states = states.prenorm[segs]
        # Without a [SEG] any state takes its place, so that projector and decoder run on every rank.
        embeddings = self.model.embed(seg_states if len(seg_states) else states.prenorm[:1, -1])
        masks = self._decode(batch, embeddings, queried(batch, segs[0]))
        best = masks.iou.argmax(1)[:, None]
        parts = (masks.logits, masks.iou, masks.tokens, masks.score)
        return ForwardOutput(
            states,
            tuple(images),
            rows,
            columns,
            segs[0],
            segs[1],
            seg_states,
            embeddings if len(seg_states) else embeddings[:0],
            AllMasks(*(part[: len(batch.masks)] for part in parts)),
            masks.logits.take_along_dim(best[..., None, None], 1)[: len(batch.masks), 0],
            masks.iou.take_along_dim(best, 1)[: len(batch.masks), 0],
            anchor(states.norm, embeddings, *parts),
        )

    def _images(self, batch: DialogueBatch) -> list[ImageFeatures]:
        several = dist.is_initialized() and dist.get_world_size() > 1
        with _gradient_if_trained(self.model.vlm.model.model.visual):
            return self.model.vlm.encode_images(batch.patches, batch.grids, together=several)

    def _positions(self, batch: DialogueBatch, images: Sequence[ImageFeatures]) -> Tensor:
        """M-RoPE positions int64 `[3, B, L]`; every row counts from 0."""
        rows = [
            self.model.vlm.rope_positions(ids, [images[number] for number in numbers])
            for ids, numbers in zip(batch.ids, batch.images, strict=True)
        ]
        return torch.stack(rows, dim=1)

    def _decode(self, batch: DialogueBatch, prompts: Tensor, chosen: Tensor) -> AllMasks:
        """Candidates of every query, or of a blank frame, so that the decoder always runs."""
        sam2 = self.model.sam2
        frames = batch.frames if batch.masks else (self._blank(),)
        where = torch.tensor([query.frame for query in batch.masks] or [0], device=prompts.device)
        features = sam2.project(self._pyramids(frames)).select(where)
        chosen = chosen if batch.masks else torch.zeros_like(where)
        return sam2.decode_all(features, sam2.unconditioned(features), sam2.prompt_language(prompts[chosen]))

    def _pyramids(self, frames: Sequence[Tensor | FrameFeatures]) -> FrameFeatures:
        """Frames as SAM2's encoder sees them; those that are features already are left as they are."""
        fresh = [frame for frame in frames if isinstance(frame, Tensor)]
        sam2 = self.model.sam2
        with _gradient_if_trained(sam2.model.vision_encoder):
            encoded = [
                sam2.pyramid(torch.stack(fresh[start : start + FRAMES_PER_CALL]))
                for start in range(0, len(fresh), FRAMES_PER_CALL)
            ]
        made = (part.select([row]) for part in encoded for row in range(len(part)))
        return FrameFeatures.cat([f if isinstance(f, FrameFeatures) else next(made) for f in frames])

    def _blank(self) -> Tensor | FrameFeatures:
        sam2 = self.model.sam2
        side = sam2.image_size
        if any(parameter.requires_grad for parameter in sam2.model.vision_encoder.parameters()):
            return torch.zeros(3, side, side, device=sam2.device)
        fine, middle, top = (
            torch.zeros(1, sam2.width, side // step, side // step, device=sam2.device, dtype=sam2.dtype)
            for step in (4, 8, 16)
        )
        return FrameFeatures(fine, middle, top)


def queried(batch: DialogueBatch, seg_rows: Tensor) -> Tensor:
    """Number of each query's [SEG] among all of the batch, int64 `[M]`; AlignmentError if there is none."""
    counts = torch.bincount(seg_rows, minlength=len(batch.ids)).tolist()
    firsts = [sum(counts[:row]) for row in range(len(counts))]
    for query in batch.masks:
        if query.seg >= counts[query.row]:
            raise AlignmentError(
                f"row {query.row}, turn {query.turn}: a mask of [SEG] number {query.seg} is asked for, but "
                f"the dialogue has {counts[query.row]}"
            )
    places = [firsts[query.row] + query.seg for query in batch.masks]
    return torch.tensor(places, dtype=torch.long, device=seg_rows.device)


def _gradient_if_trained(module: nn.Module) -> torch.no_grad | nullcontext[None]:
    """Frozen encoders are run without a graph."""
    trained = any(parameter.requires_grad for parameter in module.parameters())
    return nullcontext() if trained else torch.no_grad()
