"""What the training aids ask of a batch of world examples (spec tiny.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from videoseg.training.examples import Example, Mention, SegTarget


@dataclass(frozen=True, eq=False, slots=True)
class AidBatch:
    """The aids' side of B dialogues: their images in token order, row by row; [SEG]s and mentions with rows.

    `first_image[b]` is the number of row b's first image, `first_token[i]` the position of image i's first
    token in its row. `looks` `[image tokens, looks]` and `places` `[image tokens, 2]` follow the images;
    `recalls` `[R, 3]` are (row, position, goal).
    """

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


def join_aids(examples: Sequence[Example], image_id: int) -> AidBatch:
    """What the aids ask of the batch that holds these examples, in this order."""
    numbered = list(enumerate(examples))
    return AidBatch(
        [sum(len(other.patches) for other in examples[:row]) for row, _ in numbered],
        [start for example in examples for start in image_starts(example, image_id)],
        torch.cat([example.looks for example in examples]),
        torch.cat([example.places for example in examples]),
        [seg for example in examples for seg in example.segs],
        torch.tensor([row for row, example in numbered for _ in example.segs], dtype=torch.long),
        [mention for example in examples for mention in example.mentions],
        torch.tensor([row for row, example in numbered for _ in example.mentions], dtype=torch.long),
        torch.tensor(
            [(row, *recall) for row, example in numbered for recall in example.recalls], dtype=torch.long
        ).reshape(-1, 3),
    )
