"""Where the rows of supervised training come from: mixed data sets, or the generated world.

The number of a row decides what it is, nothing else: a run that resumes asks for the next numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from videoseg.data.sample import RefVideoSample, TraceSample
from videoseg.data.world.sampler import VALID_SEEDS, WorldSpec, draw_sample
from videoseg.models.o3 import O3Model
from videoseg.training.collate import DialogueRow
from videoseg.training.config import DataEntry, SupervisedConfig
from videoseg.training.dialogue_batch import Kind, MaskQuery
from videoseg.training.examples import Example, draw_example
from videoseg.training.features import GIB, FeatureCache
from videoseg.training.prompts import Prompt, open_mix, sample_prompt, world_prompt
from videoseg.training.rows import RowMaker
from videoseg.types import Role

STRETCH = 50
"""Rows are sorted by length within stretches of that many updates."""


@dataclass(frozen=True, eq=False, slots=True)
class Item:
    """A row with the world's example behind it, if it is from there, and the samples skipped to find it."""

    row: DialogueRow
    example: Example | None = None
    skipped: tuple[str, ...] = ()


class Source(Protocol):
    """Rows by number, from 0 on without end."""

    size: int
    """Rows of an epoch; 0 if there is no such thing."""

    def item(self, number: int) -> Item:
        """A row; raises DatasetError naming the sample that cannot be used."""
        ...

    def prompt(self, number: int) -> Prompt | None:
        """The question of a row on its video, for pictures; None where there is no such thing."""
        ...


class WorldSource:
    """Dialogues of the generated world with their true traces; row n is the sample of seed `first` + n."""

    size = 0

    def __init__(self, model: O3Model, config: SupervisedConfig, first: int) -> None:
        self._model = model
        self._config = config
        self._spec = WorldSpec(families=config.families) if config.families else WorldSpec()
        self._first = first

    def item(self, number: int) -> Item:
        """The dialogue of a seed, one supervised frame for each [SEG]."""
        config = self._config
        example = draw_example(
            self._first + number,
            self._spec,
            self._model,
            masks=config.masks,
            single_turn=by_lot(self._first + number, config.single_turn),
        )
        return Item(world_row(example, self._model.seg_id, f"world, seed {self._first + number}"), example)

    def prompt(self, number: int) -> Prompt:
        """The clip and question of a seed."""
        return world_prompt(draw_sample(self._first + number, self._spec))


def by_lot(seed: int, share: float) -> bool:
    """True for `share` of the seeds, whatever their samples are."""
    return bool(np.random.default_rng([seed, 11]).random() < share)


def world_row(example: Example, seg_id: int, name: str) -> DialogueRow:
    """An example as a row: its [SEG]s are numbered by their places in the ids."""
    places = np.flatnonzero(example.chunk.ids == seg_id).tolist()
    drawn = [seg for seg in example.segs if seg.image.numel()]
    queries = []
    for number, seg in enumerate(drawn):
        image = example.chunk.images[seg.shown]
        kind: Kind = "keyframe" if image.role is Role.KEYFRAME else "video"
        queries.append(MaskQuery(0, places.index(seg.position), number, seg.mask, kind, image.turn))
    return DialogueRow(example.chunk, example.patches, [seg.image for seg in drawn], queries, name)


class MixSource:
    """Data sets mixed by repeats; every epoch has its own order, with rows of similar length together."""

    def __init__(
        self,
        maker: RowMaker,
        entries: Sequence[DataEntry],
        config: SupervisedConfig,
        group: int,
        shuffle: bool,
    ) -> None:
        how = "skip" if config.skip_bad else "raise"
        self.mix = open_mix(entries, config.data_root, seed=config.seed, on_bad=how)
        self.size = len(self.mix)
        self._maker = maker
        self._group = group if config.group_by_length else 0
        self._shuffle = shuffle
        self._lengths = np.concatenate(
            [
                np.full(len(reader.groups) * share.repeats, maker.length(share))
                for reader, share in self.mix.parts
            ]
        )
        self._order = lru_cache(maxsize=2)(self._draw_order)

    def item(self, number: int) -> Item:
        """The row at a place of the endless sequence of epochs."""
        epoch, place = divmod(number, self.size)
        position = int(self._order(epoch)[place])
        share = self.mix.parts[self.mix.place(position)[0]][1]
        rng = np.random.default_rng([self.mix.seed, epoch, position, 7])
        before = sum(self.mix.skipped.values())
        row = self.mix.read(position, epoch, lambda samples: self._maker.row(samples, share, rng))
        count = sum(self.mix.skipped.values()) - before
        return Item(row, None, tuple(self.mix.first_error.values())[-1:] * count)

    def prompt(self, number: int) -> Prompt | None:
        """The first query of a row about a video with masks."""
        epoch, place = divmod(number, self.size)
        sample = self.mix.draw(int(self._order(epoch)[place]), epoch)[0]
        return sample_prompt(sample) if isinstance(sample, TraceSample | RefVideoSample) else None

    def _draw_order(self, epoch: int) -> NDArray[np.int64]:
        if not self._shuffle:
            return np.arange(self.size)
        return grouped_order(self._lengths, self._group, np.random.default_rng([self.mix.seed, epoch, 3]))


def grouped_order(lengths: NDArray[np.int64], group: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """A random order in which `group` rows that follow each other have similar lengths (0: any order).

    As usual: shuffled, cut into stretches of `STRETCH` groups, sorted in these, and the groups shuffled.
    """
    order = rng.permutation(len(lengths))
    if group < 2:
        return order
    stretch = group * STRETCH
    parts = [order[start : start + stretch] for start in range(0, len(order), stretch)]
    ordered = np.concatenate([part[np.argsort(-lengths[part], kind="stable")] for part in parts])
    whole = len(ordered) // group * group
    groups = ordered[:whole].reshape(-1, group)
    return np.concatenate([groups[rng.permutation(len(groups))].flatten(), ordered[whole:]])


def open_source(model: O3Model, config: SupervisedConfig, group: int) -> tuple[Source, FeatureCache | None]:
    """What a run trains on, `group` rows to an update, and the cache of frame features if there is one."""
    cache = None
    if config.feature_cache and config.masks:
        kind = "bfloat16" if config.bf16 else "float32"
        limit = config.feature_cache_gb * GIB
        cache = FeatureCache(Path(config.feature_cache), model.sam2, limit, kind)
    if not config.data:
        return WorldSource(model, config, config.first_seed), None
    return MixSource(RowMaker(model, config, cache), config.data, config, group, shuffle=True), cache


def open_held_out(model: O3Model, config: SupervisedConfig, cache: FeatureCache | None) -> Source:
    """What a run is looked at with; never part of what it trains on."""
    if not config.data:
        return WorldSource(model, config, VALID_SEEDS.start)
    return MixSource(RowMaker(model, config, cache), config.held_out.data, config, 0, shuffle=True)
