"""Stored dialogues read by a language model; what the rollouts of a group begin with is read once.

The rows of a group share their prompt: system text, question and first observation, which is most of a
rollout. `read_dialogues` lays a group out as one row, the stem first and then the rest of each rollout that
differs from the others, and hands the states back as if every row had been read alone. All training goes
through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from videoseg.errors import AlignmentError
from videoseg.models.causal_blocks import SharedStem
from videoseg.models.vlm import VLM, ImageFeatures, States
from videoseg.training.dialogue_batch import DialogueBatch


def read_dialogues(vlm: VLM, batch: DialogueBatch) -> tuple[States, list[ImageFeatures]]:
    """States `[B, L, D]` of all tokens, and the features of the batch's images.

    With `batch.group` above 1 the states from each row's last trained token on mean nothing; no loss asks for
    them. Raises RenderError where image tokens and images disagree, AlignmentError where the rows of a group
    do not begin alike.
    """
    several = dist.is_initialized() and dist.get_world_size() > 1
    with gradient_if_trained(vlm.model.model.visual):
        images = vlm.encode_images(batch.patches, batch.grids, together=several)
    rows = [[images[number] for number in numbers] for numbers in batch.images]
    positions = [vlm.rope_positions(ids, row) for ids, row in zip(batch.ids, rows, strict=True)]
    if batch.group == 1:
        shown = [image for row in rows for image in row]
        return vlm(batch.ids, torch.stack(positions, dim=1), images=shown), images
    packing = pack(batch)
    is_image = batch.ids == int(vlm.config.image_token_id)
    states = vlm(
        packing.gather(batch.ids, packing.filler),
        packing.gather(torch.stack(positions, dim=1)),
        images=packing.images(rows, is_image),
        stem=packing.stem,
    )
    return States(packing.spread(states.prenorm), packing.spread(states.norm)), images


@dataclass(frozen=True, eq=False, slots=True)
class Packing:
    """How the B rows of L tokens of a batch lie in one packed row of K tokens for every group.

    `source` int64 `[groups, K]` says where in the flattened batch a packed token comes from, `real` bool
    `[groups, K]` is false for padding, `target` int64 `[B, L]` says where in the flattened packed rows a
    token went. `kept` are the rows of each group that are read, equal ones once. `filler` is a text token
    for padding.
    """

    source: Tensor
    real: Tensor
    target: Tensor
    kept: list[list[int]]
    stem: SharedStem
    filler: int

    def gather(self, values: Tensor, filler: int = 0) -> Tensor:
        """`[..., B, L]` -> `[..., groups, K]`."""
        return values.flatten(-2)[..., self.source].masked_fill(~self.real, filler)

    def spread(self, states: Tensor) -> Tensor:
        """`[groups, K, D]` -> `[B, L, D]`."""
        return states.flatten(0, 1)[self.target]

    def images(self, rows: Sequence[Sequence[ImageFeatures]], is_image: Tensor) -> list[ImageFeatures]:
        """The images of all packed rows in token order: those of a stem, then what each row has beyond."""
        shown: list[ImageFeatures] = []
        for kept, length in zip(self.kept, self.stem.lengths.tolist(), strict=True):
            first = rows[kept[0]]
            tokens, shared = int(is_image[kept[0], :length].sum()), 0
            while tokens > 0:
                tokens -= len(first[shared].tokens)
                shared += 1
            shown += first[:shared]
            shown += [image for row in kept for image in rows[row][shared:]]
        return shown


def pack(batch: DialogueBatch) -> Packing:
    """The packing of a batch's groups.

    A stem ends before the token that predicts the first sampled one, so that a row's predictions are all its
    own. What follows a row's last trained token is left out, and so are rows equal to an earlier one. Raises
    AlignmentError where the rows of a group do not begin alike.
    """
    _check_alike(batch)
    group, (count, length), device = batch.group, batch.ids.shape, batch.ids.device
    kept, branches = _branches(batch)
    columns, rows = torch.arange(length, device=device), torch.arange(count, device=device)[:, None]
    last = (batch.loss_mask * columns).argmax(1)[:, None]
    stems, most = stem_lengths(batch), max(map(len, kept))
    begins, width = stems.repeat_interleave(group)[:, None], int(stems.max())
    tail = int((last + 1 - begins).max())
    packed = width + most * tail
    behind = width + branches[:, None] * tail + (columns - begins).clamp(max=tail - 1)
    within = columns < begins
    target = rows // group * packed + torch.where(within, columns, behind)
    wanted = torch.zeros_like(within)
    wanted[[row for each in kept for row in each]] = True
    wanted &= torch.where(within, branches[:, None] == 0, columns <= last)
    source = torch.zeros(count // group * packed, dtype=torch.long, device=device)
    real = torch.zeros_like(source, dtype=torch.bool)
    source[target[wanted]] = (rows * length + columns)[wanted]
    real[target[wanted]] = True
    stem = SharedStem(stems, width, most)
    filler = int(batch.ids[batch.loss_mask][0])
    return Packing(source.view(-1, packed), real.view(-1, packed), target, kept, stem, filler)


def _branches(batch: DialogueBatch) -> tuple[list[list[int]], Tensor]:
    """The rows of each group that are read, and which branch of its packed row each row of the batch is."""
    count, group = len(batch.ids), batch.group
    twin = batch.twin or range(count)
    kept = [[row for row in range(at, at + group) if twin[row] == row] for at in range(0, count, group)]
    branch = {row: place for rows in kept for place, row in enumerate(rows)}
    return kept, torch.tensor([branch[twin[row]] for row in range(count)], device=batch.ids.device)


def stem_lengths(batch: DialogueBatch) -> Tensor:
    """Tokens int64 `[groups]` of each group's stem."""
    first = batch.loss_mask.int().argmax(1)
    return (first.view(-1, batch.group).amin(1) - 1).clamp(min=0)


def _check_alike(batch: DialogueBatch) -> None:
    if len(batch.ids) % batch.group:
        raise AlignmentError(f"{len(batch.ids)} rows are not groups of {batch.group}")
    stems = stem_lengths(batch)
    ids = batch.ids.view(len(stems), batch.group, -1)
    within = torch.arange(ids.shape[2], device=ids.device) < stems[:, None, None]
    differing = ((ids != ids[:, :1]) & within).any(2).nonzero()
    if len(differing):
        group, row = differing[0].tolist()
        raise AlignmentError(f"group {group}: row {row} begins otherwise than row 0; a group has one prompt")


def gradient_if_trained(module: nn.Module) -> torch.no_grad | nullcontext[None]:
    """Frozen encoders are run without a graph."""
    trained = any(parameter.requires_grad for parameter in module.parameters())
    return nullcontext() if trained else torch.no_grad()
