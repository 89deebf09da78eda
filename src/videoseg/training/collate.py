"""Examples to a padded batch. Rows are padded on the right, so that a causal pass needs no mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from videoseg.training.examples import Example, Mention, SegTarget


@dataclass(frozen=True, eq=False, slots=True)
class Batch:
    """B dialogues: ids and loss_mask `[B, L]`; images in token order row by row; [SEG]s with their rows.

    `patches` and `grids` have one entry per image, `first_image[b]` is the number of row b's first one,
    `first_token[i]` the position of image i's first token in its row. `looks` `[image tokens, looks]` and
    `places` `[image tokens, 2]` follow the images; `recalls` `[R, 3]` are (row, position, goal).
    """

    ids: Tensor
    loss_mask: Tensor
    patches: list[Tensor]
    grids: list[tuple[int, int]]
    first_image: list[int]
    first_token: list[int]
    looks: Tensor
    places: Tensor
    segs: list[SegTarget]
    seg_rows: Tensor
    mentions: list[Mention]
    mention_rows: Tensor
    recalls: Tensor


def image_starts(example: Example, image_id: int) -> list[int]:
    """Position of every image's first token in the ids of its dialogue."""
    slots = np.flatnonzero(example.chunk.ids == image_id)
    counts = np.cumsum([0, *(image.num_tokens for image in example.chunk.images)])
    return [int(slots[count]) for count in counts[:-1]]


def collate(examples: Sequence[Example], pad_id: int, image_id: int) -> Batch:
    """Join examples into one batch."""
    length = max(len(example.chunk.ids) for example in examples)
    ids = torch.full((len(examples), length), pad_id)
    mask = torch.zeros(len(examples), length, dtype=torch.bool)
    first, rows, mention_rows, recalls = [], [], [], []
    for row, example in enumerate(examples):
        size = len(example.chunk.ids)
        ids[row, :size] = torch.from_numpy(example.chunk.ids)
        mask[row, :size] = torch.from_numpy(example.chunk.loss_mask)
        first.append(sum(len(other.patches) for other in examples[:row]))
        rows += [row] * len(example.segs)
        mention_rows += [row] * len(example.mentions)
        recalls += [(row, *recall) for recall in example.recalls]
    return Batch(
        ids,
        mask,
        [patches for example in examples for patches in example.patches],
        [image.grid for example in examples for image in example.chunk.images],
        first,
        [start for example in examples for start in image_starts(example, image_id)],
        torch.cat([example.looks for example in examples]),
        torch.cat([example.places for example in examples]),
        [seg for example in examples for seg in example.segs],
        torch.tensor(rows, dtype=torch.long),
        [mention for example in examples for mention in example.mentions],
        torch.tensor(mention_rows, dtype=torch.long),
        torch.tensor(recalls, dtype=torch.long).reshape(-1, 3),
    )
