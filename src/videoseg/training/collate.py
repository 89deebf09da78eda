"""Dialogues to padded batches, for supervised training and GRPO alike (design contract 2).

Rows are padded on the right, so that a causal pass needs no mask. Images and frames that several rows share
(the same tensor objects) are in a batch once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch
from torch import Tensor

from videoseg.dialogue.render import Chunk
from videoseg.errors import RenderError
from videoseg.models.sam2 import FrameFeatures
from videoseg.training.dialogue_batch import DialogueBatch, MaskQuery

T = TypeVar("T")


@dataclass(frozen=True, eq=False, slots=True)
class DialogueRow:
    """One dialogue: its rendering, the patches of its images in the chunk's order, and its mask queries.

    `frames` are what the queries are drawn on, `MaskQuery.frame` counts in them; `MaskQuery.row` is set when
    rows are joined. `name` says in messages where the dialogue comes from; `frame_keys` as in the batch.
    """

    chunk: Chunk
    patches: Sequence[Tensor]
    frames: Sequence[Tensor | FrameFeatures] = ()
    masks: Sequence[MaskQuery] = ()
    name: str = ""
    frame_keys: Sequence[str] = ()

    def check(self) -> None:
        """Raise RenderError unless every image has patches of its size, in token order (contract 2)."""
        if len(self.patches) != len(self.chunk.images):
            raise RenderError(
                f"{self.name}: patches of {len(self.patches)} images for {len(self.chunk.images)} in the text"
            )
        for image, patches in zip(self.chunk.images, self.patches, strict=True):
            if len(patches) != image.grid[0] * image.grid[1]:
                raise RenderError(
                    f"{self.name}, turn {image.turn}, frame {image.frame}: {len(patches)} patches for a grid "
                    f"of {image.grid[0]}x{image.grid[1]}"
                )


class _Once(Generic[T]):
    """Numbers things by identity, in the order in which they are first met."""

    def __init__(self) -> None:
        self.numbers: dict[int, int] = {}
        self.items: list[T] = []

    def number(self, item: T) -> int:
        if id(item) not in self.numbers:
            self.numbers[id(item)] = len(self.items)
            self.items.append(item)
        return self.numbers[id(item)]


def join_rows(rows: Sequence[DialogueRow], pad_id: int, group: int = 1) -> DialogueBatch:
    """One batch of all rows; raises RenderError where a row's images and tokens do not fit.

    Every `group` rows in succession answer the same prompt, which is then read once, as are equal rows.
    """
    ids = torch.full((len(rows), max(len(row.chunk.ids) for row in rows)), pad_id)
    loss_mask = torch.zeros(ids.shape, dtype=torch.bool)
    images, frames = _Once[Tensor](), _Once[Tensor | FrameFeatures]()
    masks: list[MaskQuery] = []
    shown: list[tuple[int, ...]] = []
    grids: dict[int, tuple[int, int]] = {}
    keys: dict[int, str] = {}
    firsts: dict[tuple[int, bytes, tuple[int, ...]], int] = {}
    twin = []
    for number, row in enumerate(rows):
        row.check()
        ids[number, : len(row.chunk.ids)] = torch.from_numpy(row.chunk.ids)
        loss_mask[number, : len(row.chunk.ids)] = torch.from_numpy(row.chunk.loss_mask)
        shown.append(tuple(images.number(patches) for patches in row.patches))
        twin.append(firsts.setdefault((number // group, row.chunk.ids.tobytes(), shown[-1]), number))
        grids |= dict(zip(shown[-1], (image.grid for image in row.chunk.images), strict=True))
        keys |= {frames.number(f): key for f, key in zip(row.frames, row.frame_keys, strict=False)}
        masks += [
            replace(query, row=number, frame=frames.number(row.frames[query.frame])) for query in row.masks
        ]
    return DialogueBatch(
        ids,
        loss_mask,
        tuple(images.items),
        tuple(grids[number] for number in range(len(images.items))),
        tuple(shown),
        tuple(frames.items),
        tuple(masks),
        tuple(keys.get(number, "") for number in range(len(frames.items))),
        group,
        tuple(twin) if group > 1 else (),
    )
