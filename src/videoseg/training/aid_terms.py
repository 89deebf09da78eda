"""The loss terms of the training aids, beside those that every run has (spec tiny.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from videoseg.models.causal_blocks import WATCHED
from videoseg.models.o3 import O3Model
from videoseg.training.aid_batch import AidBatch
from videoseg.training.aids import Aids, distil_loss, gaze_loss, recall_loss
from videoseg.training.dialogue_batch import DialogueBatch
from videoseg.training.examples import Mention, SegTarget
from videoseg.training.forward import ForwardOutput
from videoseg.training.words import WordTable

GAZE_LAYER = 2
HEADS: Mapping[str, tuple[str, ...]] = {
    "dense": ("dense",),
    "place": ("place",),
    "pointer": ("query", "key"),
    "mention": ("query", "key"),
    "vec": ("vec",),
}
"""The heads that each term uses; those of no term in use do not learn."""


class AidTerms(nn.Module):
    """The aids that have a weight; `table` is the words table of stage 0, which stays as it is."""

    def __init__(self, model: O3Model, weights: Mapping[str, float], table: WordTable | None) -> None:
        super().__init__()
        self.heads = Aids(model.vlm.width)
        self.table = table.requires_grad_(False) if table is not None else None
        self.weights = dict(weights)
        self._attention = [model.vlm.model.model.language_model.layers[GAZE_LAYER].self_attn]
        setattr(self._attention[0], WATCHED, "gaze" in weights)
        used = {head for term in weights for head in HEADS.get(term, ())}
        for name, head in self.heads.named_children():
            head.requires_grad_(name in used)

    def forward(self, asked: AidBatch, batch: DialogueBatch, output: ForwardOutput) -> dict[str, Tensor]:
        """Loss terms by name, without their weights."""
        images = [output.images[number].tokens for row in batch.images for number in row]
        terms: dict[str, Tensor] = {}
        if "dense" in self.weights:
            terms["dense"] = self.heads.dense_loss(torch.cat(images), asked.looks)
        if "place" in self.weights:
            terms["place"] = self.heads.place_loss(torch.cat(images), asked.places)
        if "mention" in self.weights:
            spoken = _states(output, asked.mention_rows, asked.mentions)
            shown = _shown(asked, images, asked.mention_rows, asked.mentions)
            terms["mention"] = self.heads.pointer_loss(spoken, shown, asked.mentions)
        if "gaze" in self.weights:
            terms["gaze"] = self._gaze(asked)
        return terms | (self._segs(asked, images, output) if asked.segs else {})

    def _gaze(self, asked: AidBatch) -> Tensor:
        """One head of the watched layer looks at what is mentioned, another recalls what was said."""
        module = self._attention[0]
        query, key = module.kept
        module.kept = None
        gaze = gaze_loss(query[:, 0], key[:, 0], asked, module.scaling)
        return gaze + recall_loss(query[:, -1], key[:, -1], asked, module.scaling)

    def _segs(self, asked: AidBatch, images: Sequence[Tensor], output: ForwardOutput) -> dict[str, Tensor]:
        states = _states(output, asked.seg_rows, asked.segs)
        terms: dict[str, Tensor] = {}
        if "pointer" in self.weights:
            shown = _shown(asked, images, asked.seg_rows, asked.segs)
            terms["pointer"] = self.heads.pointer_loss(states, shown, asked.segs)
        if "vec" in self.weights and asked.segs[0].mask.numel():
            terms["vec"] = self.heads.vec_loss(states, asked.segs)
        if "distil" in self.weights and self.table is not None:
            goal = self.table.together([seg.words for seg in asked.segs])
            terms["distil"] = distil_loss(_prompts(output, asked), goal)
        return terms


def _states(output: ForwardOutput, rows: Tensor, items: Sequence[SegTarget | Mention]) -> Tensor:
    """Pre-norm states at the positions of items."""
    return output.states.prenorm[rows, torch.tensor([item.position for item in items], dtype=torch.long)]


def _prompts(output: ForwardOutput, asked: AidBatch) -> Tensor:
    """SAM2 prompts of the [SEG]s that have a target."""
    places = list(zip(output.seg_rows.tolist(), output.seg_columns.tolist(), strict=True))
    wanted = zip(asked.seg_rows.tolist(), (seg.position for seg in asked.segs), strict=True)
    return output.seg_embeddings[[places.index(place) for place in wanted]]


def _shown(
    asked: AidBatch, images: Sequence[Tensor], rows: Tensor, items: Sequence[SegTarget | Mention]
) -> list[Tensor]:
    """Visual tokens of the image that each item speaks of."""
    firsts = [asked.first_image[int(row)] for row in rows]
    return [images[first + item.shown] for first, item in zip(firsts, items, strict=True)]
