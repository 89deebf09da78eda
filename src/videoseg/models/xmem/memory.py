"""XMem's working and long-term memory: reading, consolidation into prototypes, forgetting (R1 spec §6).

One token is one position of one memory frame: a key shared by all objects, a value per object. A token
carries the number of its frame, an object the number of its first; an object reads only tokens since then.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from videoseg.errors import UsageError


@dataclass(frozen=True, slots=True)
class MemoryOptions:
    """The published settings (R1 specification §6).

    Every `every`-th frame is remembered. Working memory holds fewer than `max_frames` frames: on reaching
    that number all but the first and the last `min_frames - 1` become `prototypes` tokens of long-term
    memory, which never holds more than `max_long`. `count_long` counts how often those are used, so that
    the rarest can go; None: if the video is long enough to fill it. `deep_every` separates the deep updates
    of the sensory state from the memory frames. `top_k` None reads with all tokens.
    """

    every: int = 5
    deep_every: int | None = None
    top_k: int | None = 30
    long_term: bool = True
    count_long: bool | None = None
    max_frames: int = 10
    min_frames: int = 5
    prototypes: int = 128
    max_long: int = 10_000

    def __post_init__(self) -> None:
        if not 1 <= self.min_frames < self.max_frames:
            raise UsageError("XMem's memory needs 1 <= min_frames < max_frames")
        if min(self.every, self.prototypes, self.top_k or 1) < 1 or self.max_long < self.prototypes:
            raise UsageError("XMem's memory needs every, prototypes, top_k >= 1 and max_long >= prototypes")

    def for_frames(self, frames: int | None) -> MemoryOptions:
        """With `count_long` decided for a sweep over so many frames (None: unknown, counted)."""
        if self.count_long is not None:
            return self
        share = math.inf if frames is None else frames / (self.max_frames - self.min_frames)
        return replace(self, count_long=share * self.prototypes >= self.max_long)


@dataclass(frozen=True, eq=False, slots=True)
class Bank:
    """Some tokens: `keys`, `selection` [C, n], `values` [N, V, n]; per token [n]: the rest.

    `stamps` number the frames; `used` sums the attention a token got, over `life` readings.
    """

    keys: Tensor
    selection: Tensor
    values: Tensor
    shrinkage: Tensor
    stamps: Tensor
    used: Tensor
    life: Tensor

    def __len__(self) -> int:
        return self.keys.shape[-1]

    @property
    def usage(self) -> Tensor:
        """Attention per reading."""
        return self.used / self.life

    def tensors(self) -> dict[str, Tensor]:
        """By name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def map(self, function: Callable[[Tensor], Tensor]) -> Bank:
        """Every tensor changed alike."""
        return Bank(**{name: function(tensor) for name, tensor in self.tensors().items()})

    def keep(self, which: Tensor | slice) -> Bank:
        """Some of the tokens, in order."""
        return self.map(lambda tensor: tensor[..., which])

    def join(self, other: Bank) -> Bank:
        """These tokens and others after them."""
        more = other.tensors()
        return Bank(**{name: torch.cat([tensor, more[name]], -1) for name, tensor in self.tensors().items()})

    def widen(self, objects: int) -> Bank:
        """With room for more objects, whose older values are never read."""
        missing = objects - len(self.values)
        if missing <= 0:
            return self
        empty = self.values.new_zeros(missing, *self.values.shape[1:])
        return replace(self, values=torch.cat([self.values, empty]))

    def counted(self, attention: Tensor) -> Bank:
        """After a reading that paid each token `attention` [n]."""
        return replace(self, used=self.used + attention, life=self.life + 1)


def similarity(keys: Tensor, shrinkage: Tensor, query: Tensor, selection: Tensor) -> Tensor:
    """How alike tokens and queries are, [..., n, m], never above 0: XMem's anisotropic L2.

    `keys` [..., C, n], `shrinkage` [..., n], `query` and `selection` [..., C, m]. The squared distance in
    channels weighted by the query's selection, times the token's shrinkage, over sqrt(C).
    """
    keys_t = keys.transpose(-1, -2)
    cross = 2 * (keys_t @ (query * selection)) - keys_t.square() @ selection
    distance = cross - (selection * query.square()).sum(-2, keepdim=True)
    return distance * (shrinkage[..., None] / math.sqrt(keys.shape[-2]))


def attention(scores: Tensor, top_k: int | None = None) -> Tensor:
    """Softmax over tokens (dimension -2), of the `top_k` best of each query if given."""
    if top_k is None or top_k >= scores.shape[-2]:
        return scores.softmax(-2)
    best, where = scores.topk(top_k, -2)
    return torch.zeros_like(scores).scatter_(-2, where, best.softmax(-2))


class XMemMemory:
    """Both memories of one clip; never more tokens than the options allow, however long the video.

    Tensors are replaced, not changed, so `state` costs nothing and stays valid.
    """

    def __init__(self, options: MemoryOptions) -> None:
        self._options = options
        self._clock = 0
        self.born: list[int] = []
        self.work: Bank | None = None
        self.long: Bank | None = None

    def add(self, key: Tensor, shrinkage: Tensor, selection: Tensor, values: Tensor) -> None:
        """Remember a frame: `key`, `selection` [C, h, w], `shrinkage` [1, h, w], `values` [N, V, h, w]."""
        self._clock += 1
        objects, cells = len(values), key[0].numel()
        self.born += [self._clock] * (objects - len(self.born))
        shrinkage = shrinkage.flatten()
        tokens = Bank(
            key.flatten(1),
            selection.flatten(1),
            values.flatten(2),
            shrinkage,
            torch.full_like(shrinkage, self._clock, dtype=torch.int64),
            torch.zeros_like(shrinkage),
            torch.full_like(shrinkage, 1e-7),
        )
        self.work = self.work.widen(objects).join(tokens) if self.work else tokens
        self.long = self.long.widen(objects) if self.long else None
        if self._options.long_term and len(self.work) >= self._options.max_frames * cells:
            self._consolidate(self.work, cells)

    def read(self, query: Tensor, selection: Tensor) -> Tensor:
        """What every object's memory says about each position of a frame: [N, V, h, w]."""
        if self.work is None:
            raise UsageError("XMem's memory is empty: give masks on the first frame")
        banks = [self.work] if self.long is None else [self.long, self.work]
        queries = query.flatten(1), selection.flatten(1)
        scores = torch.cat([similarity(bank.keys, bank.shrinkage, *queries) for bank in banks])
        stamps = torch.cat([bank.stamps for bank in banks])
        answers: list[Tensor] = []
        for first, rows in self._groups():
            valid = scores.masked_fill((stamps < first)[:, None], -math.inf) if answers else scores
            weights = attention(valid, self._options.top_k)
            if not answers:
                self._count(weights.sum(1))
            answer = self.work.values[rows] @ weights[-len(self.work) :]
            if self.long is not None:
                answer = answer + self.long.values[rows] @ weights[: len(self.long)]
            answers.append(answer)
        return torch.cat(answers).unflatten(-1, query.shape[1:])

    def _groups(self) -> list[tuple[int, slice]]:
        """Objects that entered together: the number of their first frame and their rows."""
        starts = sorted(set(self.born))
        return [(first, slice(self.born.index(first), bisect_right(self.born, first))) for first in starts]

    def _count(self, paid: Tensor) -> None:
        options = self._options
        if not options.long_term or self.work is None:
            return
        self.work = self.work.counted(paid[-len(self.work) :])
        if self.long is not None and options.count_long is not False:
            self.long = self.long.counted(paid[: len(self.long)])

    def _consolidate(self, work: Bank, cells: int) -> None:
        """Turn the middle of working memory into prototypes; the first frame and the latest ones stay."""
        options = self._options
        end = len(work) - (options.min_frames - 1) * cells
        prototypes = self._prototypes(work.keep(slice(cells, end)))
        self.work = work.keep(slice(0, cells)).join(work.keep(slice(end, None)))
        room = options.max_long - len(prototypes)
        if self.long is not None and len(self.long) > room:
            self.long = self.long.keep(most_used(self.long.usage, room))
        self.long = self.long.join(prototypes) if self.long is not None else prototypes

    def _prototypes(self, candidates: Bank) -> Bank:
        """The most used tokens, their values and shrinkage averaged over all candidates like them."""
        count = min(self._options.prototypes, len(candidates))
        chosen = candidates.keep(candidates.usage.topk(count).indices)
        scores = similarity(candidates.keys, candidates.shrinkage, chosen.keys, chosen.selection)
        values = torch.zeros_like(chosen.values)
        for first, rows in self._groups():
            usable = candidates.stamps >= first
            if bool(usable.any()):
                values[rows] = candidates.values[rows][..., usable] @ attention(scores[usable])
        return replace(
            chosen,
            values=values,
            shrinkage=candidates.shrinkage @ attention(scores),
            used=torch.zeros_like(chosen.used),
            life=torch.full_like(chosen.life, 1e-7),
        )

    def state(self) -> dict[str, Any]:
        """What is remembered, as plain values and tensors."""
        banks = {name: bank and bank.tensors() for name, bank in (("work", self.work), ("long", self.long))}
        return {"clock": self._clock, "born": list(self.born), **banks}

    def restore(self, state: dict[str, Any], device: torch.device) -> None:
        """Remember what `state` holds instead."""
        self._clock, self.born = state["clock"], list(state["born"])
        self.work, self.long = (
            state[name] and Bank(**state[name]).map(lambda tensor: tensor.to(device))
            for name in ("work", "long")
        )

    @property
    def tokens(self) -> tuple[int, int]:
        """How many tokens working and long-term memory hold."""
        return len(self.work or ()), len(self.long or ())

    @property
    def frames(self) -> int:
        """How many frames working memory holds."""
        return 0 if self.work is None else len(self.work.stamps.unique())


def most_used(usage: Tensor, count: int) -> Tensor:
    """Positions of the `count` largest of `usage` [n], in order."""
    return usage.topk(count).indices.sort().values
