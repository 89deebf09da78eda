"""Dialogues in progress: one KV cache for several rows that goes on over turns with new images.

No turn encodes an earlier one again (design contract 3). Rows may have chunks of different
lengths: shorter ones are padded on the left and the padding stays as holes in the mask. The last
sampled token of a row enters the cache only with the next pass (`stack.md` §2.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from transformers.generation import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from videoseg.models.growing_cache import growing_cache
from videoseg.models.vlm import VLM, ImageFeatures, States


@dataclass(frozen=True, eq=False, slots=True)
class RowInput:
    """New tokens of one row with the features of their images, in token order."""

    ids: Sequence[int]
    images: Sequence[ImageFeatures] = ()


class Sampler(Protocol):
    """Chooses the next token of every row."""

    def __call__(self, logits: Tensor, step: int) -> Tensor:
        """`logits` float `[B, vocabulary]` -> ids int64 `[B]`; `step` counts the turn's tokens."""
        ...


def greedy(logits: Tensor, step: int) -> Tensor:
    """The most likely token."""
    return logits.argmax(-1)


@dataclass(slots=True)
class RandomSampler:
    """Temperature, top-k and top-p sampling (O3 specification §12.2 has 0.9, 50 and 0.9)."""

    temperature: float = 0.9
    top_p: float = 0.9
    top_k: int = 50
    seed: int = 0
    _generator: torch.Generator | None = field(default=None, init=False)

    def __call__(self, logits: Tensor, step: int) -> Tensor:
        """Draw one token per row."""
        if self._generator is None:
            self._generator = torch.Generator(logits.device).manual_seed(self.seed)
        warp = LogitsProcessorList([TemperatureLogitsWarper(self.temperature)])
        if self.top_k:
            warp.append(TopKLogitsWarper(self.top_k))
        if self.top_p < 1:
            warp.append(TopPLogitsWarper(self.top_p))
        dummy = torch.zeros(len(logits), 0, dtype=torch.long, device=logits.device)
        probabilities = warp(dummy, logits.float()).softmax(-1)
        return torch.multinomial(probabilities, 1, generator=self._generator)[:, 0]


@dataclass(eq=False, slots=True)
class Generated:
    """One row's reply.

    `ids` holds every sampled token, the stop token included if it was sampled; `states` `[n, D]`
    are pre-norm states of its first n tokens (n is one short until the last token was fed).
    """

    ids: list[int] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)
    stopped: bool = False


class Session:
    """B dialogues that advance together, without gradients."""

    def __init__(self, vlm: VLM, rows: int = 1) -> None:
        self.vlm = vlm
        self.cache = growing_cache(vlm.config.text_config)
        self.mask = torch.zeros(rows, 0, dtype=torch.bool, device=vlm.device)
        self.next_position = [0] * rows
        # A reply whose last token is not in the cache yet.
        self._open: list[Generated | None] = [None] * rows
        self._last = torch.zeros(rows, vlm.width, device=vlm.device)

    @property
    def rows(self) -> int:
        """Number of dialogues."""
        return len(self.next_position)

    @property
    def slots(self) -> int:
        """Cache slots in use per row, holes included."""
        return self.mask.shape[1]

    def extend(self, inputs: Sequence[RowInput]) -> list[Tensor]:
        """Feed new tokens; returns per row the pre-norm states `[n, D]` of these tokens.

        The last token of a reply is fed first where that has not happened; its state goes to the reply.
        """
        return self._feed(inputs, [True] * self.rows)

    def flush(self) -> None:
        """Feed the last token of every reply, so that its state exists although nothing follows."""
        self._feed([RowInput(())] * self.rows, [True] * self.rows)

    @torch.no_grad()
    def generate(
        self, sampler: Sampler, stop_ids: Sequence[int], max_new_tokens: int, forbidden: Sequence[int] = ()
    ) -> list[Generated]:
        """Sample a reply per row, each until one of `stop_ids` or the limit; `extend` must have run before.

        `forbidden` tokens are never chosen: an image token in a reply would have no image.
        """
        replies = [Generated() for _ in range(self.rows)]
        for step in range(max_new_tokens):
            if step:
                self._feed([RowInput(())] * self.rows, [not reply.stopped for reply in replies])
            logits = self.vlm.logits(self._last).float()
            logits[:, list(forbidden)] = -torch.inf
            chosen = sampler(logits, step).tolist()
            for row, (reply, token) in enumerate(zip(replies, chosen, strict=True)):
                if not reply.stopped:
                    reply.ids.append(token)
                    reply.stopped = token in stop_ids
                    self._open[row] = reply
            if all(reply.stopped for reply in replies):
                break
        return replies

    def fork(self, copies: int) -> None:
        """Continue every row `copies` times (row b becomes rows b * copies ... b * copies + copies - 1)."""
        if any(self._open):
            raise ValueError("a reply is still open; extend or flush the session before forking it")
        self.cache.batch_repeat_interleave(copies)
        self.mask = self.mask.repeat_interleave(copies, dim=0)
        self._last = self._last.repeat_interleave(copies, dim=0)
        self.next_position = [p for p in self.next_position for _ in range(copies)]
        self._open = [None] * self.rows

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all dialogues but these, in this order; finished ones only cost time and memory."""
        index = torch.tensor(rows, dtype=torch.long, device=self.mask.device)
        self.cache.batch_select_indices(index)
        self.mask, self._last = self.mask[index], self._last[index]
        self.next_position = [self.next_position[row] for row in rows]
        self._open = [self._open[row] for row in rows]

    @torch.no_grad()
    def _feed(self, inputs: Sequence[RowInput], close: Sequence[bool]) -> list[Tensor]:
        """One pass over the open tokens (of the rows named in `close`) and the new ones."""
        opened = [reply if wanted else None for reply, wanted in zip(self._open, close, strict=True)]
        ids = [
            [*(reply.ids[-1:] if reply else ()), *given.ids]
            for reply, given in zip(opened, inputs, strict=True)
        ]
        states = self._forward(ids, [given.images for given in inputs])
        for row, reply in enumerate(opened):
            if reply:
                reply.states.append(states[row][0])
                states[row] = states[row][1:]
                self._open[row] = None
        return states

    def _forward(self, ids: Sequence[list[int]], images: Sequence[Sequence[ImageFeatures]]) -> list[Tensor]:
        width, device = max(map(len, ids)), self.vlm.device
        if width == 0:
            return [torch.zeros(0, self.vlm.width, device=device) for _ in ids]
        padded = torch.zeros(self.rows, width, dtype=torch.long)
        positions = torch.zeros(3, self.rows, width, dtype=torch.long)
        mask = torch.zeros(self.rows, width, dtype=torch.bool)
        for row, tokens in enumerate(ids):
            if tokens:
                padded[row, width - len(tokens) :] = torch.tensor(tokens)
                positions[:, row, width - len(tokens) :] = self._positions(row, tokens, images[row])
                mask[row, width - len(tokens) :] = True
        self.mask = torch.cat([self.mask, mask.to(device)], dim=1)
        whole = None if bool(self.mask.all()) else self.mask
        shown = [image for row in images for image in row]
        states = self.vlm(padded.to(device), positions.to(device), whole, shown, self.cache)
        return self._split(states, [len(tokens) for tokens in ids])

    def _positions(self, row: int, tokens: Sequence[int], images: Sequence[ImageFeatures]) -> Tensor:
        positions = self.vlm.rope_positions(torch.tensor(tokens), images, self.next_position[row])
        self.next_position[row] = int(positions.max()) + 1
        return positions

    def _split(self, states: States, lengths: Sequence[int]) -> list[Tensor]:
        width = states.prenorm.shape[1]
        fed = torch.tensor([n > 0 for n in lengths], device=states.norm.device)
        self._last = torch.where(fed[:, None], states.norm[:, -1], self._last.to(states.norm))
        return [states.prenorm[row, width - n :] for row, n in enumerate(lengths)]
