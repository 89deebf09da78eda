"""Rows to micro-batches: which process reads which rows, ahead of time if asked, bad samples by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, Dataset

from videoseg.errors import VideosegError
from videoseg.models.o3 import O3Model
from videoseg.training.aid_batch import AidBatch, join_aids
from videoseg.training.collate import join_rows
from videoseg.training.config import SupervisedConfig
from videoseg.training.dialogue_batch import DialogueBatch
from videoseg.training.loop import Run
from videoseg.training.sources import Item, Source


@dataclass(frozen=True, eq=False, slots=True)
class StageBatch:
    """A micro-batch: its dialogues, what the aids ask of them, and the samples skipped to find them.

    `number` is that of its first row in the whole run; `names` say where the dialogues come from.
    """

    dialogue: DialogueBatch
    number: int
    names: tuple[str, ...]
    aids: AidBatch | None = None
    skipped: tuple[str, ...] = ()


def stage_batch(items: Iterable[Item], number: int, model: O3Model) -> StageBatch:
    """Join rows to a batch."""
    items = list(items)
    examples = [item.example for item in items if item.example is not None]
    return StageBatch(
        join_rows([item.row for item in items], model.end_id),
        number,
        tuple(item.row.name for item in items),
        join_aids(examples, model.vlm.config.image_token_id) if examples else None,
        tuple(message for item in items for message in item.skipped),
    )


class Ahead(Dataset[StageBatch | VideosegError]):
    """Micro-batch m of this process: update m // accumulation, in turn over micro-batches and processes."""

    def __init__(self, source: Source, model: O3Model, batch: int, rank: int, processes: int) -> None:
        self._source = source
        self._model = model
        self._batch = batch
        self._rank = rank
        self._processes = processes

    def __getitem__(self, number: int) -> StageBatch | VideosegError:
        """The batch, or the error of its making: one raised in a worker would lose its name."""
        first = (number * self._processes + self._rank) * self._batch
        try:
            items = [self._source.item(row) for row in range(first, first + self._batch)]
            return stage_batch(items, first, self._model)
        except VideosegError as error:
            return error


def micro_batches(
    source: Source, model: O3Model, running: Run, config: SupervisedConfig, steps: int
) -> Iterable[StageBatch]:
    """What is left to do of this process's `steps` updates; raises the error of a row that cannot be made."""
    accelerator = running.accelerator
    ahead = Ahead(source, model, config.batch, accelerator.process_index, accelerator.num_processes)
    left = range(running.step * config.accumulation, steps * config.accumulation)
    loader = DataLoader(
        ahead,
        sampler=left,
        batch_size=None,
        num_workers=config.workers,
        worker_init_fn=_alone,
        multiprocessing_context="fork" if config.workers else None,
    )
    for made in loader:
        if isinstance(made, VideosegError):
            raise made
        yield made


def _alone(_: int) -> None:
    """Workers use one thread each, and share tensors by files: a batch has more than a process may open."""
    torch.set_num_threads(1)
    torch.multiprocessing.set_sharing_strategy("file_system")
