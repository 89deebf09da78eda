"""The one teacher-forced pass of O3: stored dialogues to states and [SEG] masks (design contracts 2, 4).

Supervised training and GRPO call `TeacherForced` inside the `forward(batch)` of their own module, which
accelerate wraps: whatever needs a gradient happens in there, on every rank, with or without [SEG].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from videoseg.errors import AlignmentError
from videoseg.models.o3 import O3Model
from videoseg.models.sam2 import AllMasks, FrameFeatures
from videoseg.models.vlm import ImageFeatures, States
from videoseg.training.dialogue_batch import DialogueBatch
from videoseg.training.grpo import anchor, trained_positions
from videoseg.training.reading import gradient_if_trained, read_dialogues

FRAMES_PER_CALL = 8


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
        states, images = read_dialogues(self.model.vlm, batch)
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

    def _decode(self, batch: DialogueBatch, prompts: Tensor, chosen: Tensor) -> AllMasks:
        """Candidates of every query, or of a blank frame, so that the decoder always runs."""
        sam2 = self.model.sam2
        frames = batch.frames if batch.masks else (self._blank(),)
        where = torch.tensor([query.frame for query in batch.masks] or [0], device=prompts.device)
        chosen = chosen if batch.masks else torch.zeros_like(where)
        asked, place = torch.stack([chosen, where]).unique(dim=1, return_inverse=True)
        features = sam2.project(self._pyramids(frames)).select(asked[1])
        language = sam2.prompt_language(prompts[asked[0]])
        masks = sam2.decode_all(features, sam2.unconditioned(features), language)
        return AllMasks(masks.logits[place], masks.iou[place], masks.tokens[place], masks.score[place])

    def _pyramids(self, frames: Sequence[Tensor | FrameFeatures]) -> FrameFeatures:
        """Frames as SAM2's encoder sees them; those that are features already are left as they are."""
        fresh = [frame for frame in frames if isinstance(frame, Tensor)]
        sam2 = self.model.sam2
        with gradient_if_trained(sam2.model.vision_encoder):
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
    """Number of each query's [SEG] among all of the batch, int64 `[M]`; AlignmentError if there is none.

    Of equal rows it is the first one's, so that their masks are decoded once.
    """
    counts = torch.bincount(seg_rows, minlength=len(batch.ids)).tolist()
    firsts = [sum(counts[:row]) for row in range(len(counts))]
    for query in batch.masks:
        if query.seg >= counts[query.row]:
            raise AlignmentError(
                f"row {query.row}, turn {query.turn}: a mask of [SEG] number {query.seg} is asked for, but "
                f"the dialogue has {counts[query.row]}"
            )
    twin = batch.twin or range(len(batch.ids))
    places = [firsts[twin[query.row]] + query.seg for query in batch.masks]
    return torch.tensor(places, dtype=torch.long, device=seg_rows.device)
