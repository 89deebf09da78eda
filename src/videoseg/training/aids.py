"""Training aids of the tiny model (spec tiny.md): extra heads on the way to the mask, all dropped afterwards.

distil: the projected [SEG] imitates the words table of stage 0. dense: looks and place of every visual
token. pointer: a [SEG], and a word about a thing, points at the visual tokens that the thing covers.
gaze: one
attention head looks there too. vec: a [SEG] tells the target's centre.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from videoseg.training.aid_batch import AidBatch
from videoseg.training.examples import NUM_LOOKS, Mention, SegTarget


class Aids(nn.Module):
    """Heads on [SEG] states and visual tokens of width `width`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, NUM_LOOKS)
        self.place = nn.Linear(width, 6)
        self.vec = nn.Linear(width, 2)
        self.query = nn.Linear(width, 64)
        self.key = nn.Linear(width, 64)

    def dense_loss(self, tokens: Tensor, looks: Tensor) -> Tensor:
        """Looks of visual tokens `[N, width]` against `[N, NUM_LOOKS]`; rare positives count four times.

        Entries that are NaN are not asked.
        """
        scores, asked = self.dense(tokens).float(), ~looks.isnan()
        weight = torch.full((), 4.0, device=tokens.device)
        return F.binary_cross_entropy_with_logits(scores[asked], looks[asked], pos_weight=weight)

    def place_loss(self, tokens: Tensor, places: Tensor) -> Tensor:
        """Column and row third of visual tokens `[N, width]` against `[N, 2]`."""
        scores = self.place(tokens).float()
        column, row = (
            F.cross_entropy(scores[:, :3], places[:, 0]),
            F.cross_entropy(scores[:, 3:], places[:, 1]),
        )
        return column + row

    def pointer_loss(
        self, states: Tensor, tokens: Sequence[Tensor], segs: Sequence[SegTarget | Mention]
    ) -> Tensor:
        """Cross-entropy of states `[N, width]` over the visual tokens of the image each speaks of."""
        losses = []
        for state, seen, seg in zip(self.query(_level(states)), tokens, segs, strict=True):
            total = seg.cells.sum()
            if total > 0:
                scores = (self.key(_level(seen)) @ state).float() / 8.0
                losses.append(-(seg.cells / total * scores.log_softmax(0)).sum())
        return torch.stack(losses).mean() if losses else states.sum() * 0

    def vec_loss(self, states: Tensor, segs: Sequence[SegTarget]) -> Tensor:
        """Absolute error of the target's centre in fractions of the frame, where it is visible."""
        seen = [number for number, seg in enumerate(segs) if float(seg.mask.sum()) > 0]
        if not seen:
            return states.sum() * 0
        centres = torch.stack([_centre(segs[number].mask) for number in seen]).to(states.device)
        return (self.vec(_level(states[seen])).float() - centres).abs().mean()


def _level(vectors: Tensor) -> Tensor:
    """Vectors `[..., width]` of unit variance: pre-norm states grow large."""
    return F.layer_norm(vectors.float(), vectors.shape[-1:])


def _centre(mask: Tensor) -> Tensor:
    """(x, y) of a mask's centre of mass, in fractions of its sides."""
    rows = (torch.arange(mask.shape[0]) + 0.5) / mask.shape[0]
    columns = (torch.arange(mask.shape[1]) + 0.5) / mask.shape[1]
    total = mask.sum()
    return torch.stack([(mask.sum(0) * columns).sum() / total, (mask.sum(1) * rows).sum() / total])


def gaze_loss(query: Tensor, key: Tensor, batch: AidBatch, scaling: float) -> Tensor:
    """Cross-entropy of one attention head at every mention, over all tokens before it.

    `query` and `key` `[B, L, D]` are the head's; the goal is the share of each visual token of the
    mention's image that the thing covers.
    """
    if not batch.mentions:
        return query.sum() * 0
    rows, positions = batch.mention_rows, torch.tensor([m.position for m in batch.mentions])
    scores = torch.einsum("md,mld->ml", query[rows, positions].float(), key[rows].float()) * scaling
    later = torch.arange(key.shape[1])[None] > positions[:, None]
    logs = scores.masked_fill(later, -torch.inf).log_softmax(-1)
    losses = []
    for number, (row, mention) in enumerate(zip(rows.tolist(), batch.mentions, strict=True)):
        start = batch.first_token[batch.first_image[row] + mention.shown]
        goal = mention.cells / mention.cells.sum()
        losses.append(-(goal * logs[number, start : start + len(goal)]).sum())
    return torch.stack(losses).mean()


def recall_loss(query: Tensor, key: Tensor, batch: AidBatch, scaling: float) -> Tensor:
    """Cross-entropy of one attention head `[B, L, D]` at every recall, over all tokens up to it."""
    if not len(batch.recalls):
        return query.sum() * 0
    rows, positions, goals = batch.recalls.unbind(1)
    scores = torch.einsum("md,mld->ml", query[rows, positions].float(), key[rows].float()) * scaling
    later = torch.arange(key.shape[1])[None] > positions[:, None]
    return F.cross_entropy(scores.masked_fill(later, -torch.inf), goals)


def distil_loss(prompts: Tensor, goal: Tensor) -> Tensor:
    """Squared distance of prompt vectors `[N, 256]` to the words table's, relative to the table's power."""
    return F.mse_loss(prompts.float(), goal.float()) / goal.float().pow(2).mean()
