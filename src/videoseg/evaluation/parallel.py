"""The scorer over processes: long videos are cut, so that one of them does not hold up the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Protocol, Self, TypeVar

import numpy as np

from videoseg.evaluation.counts import IntArray, Mask, frame_counts

X = TypeVar("X")
Y = TypeVar("Y")
CHUNK = 256
"""Frames per task: some milliseconds of work at 480p, so that passing masks on costs little beside it."""


class Job(Protocol):
    """Frames to count; picklable, so that a worker can read the masks itself."""

    def __len__(self) -> int: ...

    def part(self, start: int, stop: int) -> Self:
        """The same for frames `start` to `stop` (excluded)."""
        ...

    def counts(self) -> IntArray:
        """int64 [len, 8] as `frame_counts` gives them."""
        ...


@dataclass(frozen=True, slots=True)
class MaskPairs:
    """Masks in memory, of `size` (height, width); one true and one predicted per frame."""

    truth: Sequence[Mask]
    guess: Sequence[Mask]
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.truth)

    def part(self, start: int, stop: int) -> MaskPairs:
        """Frames `start` to `stop` (excluded)."""
        return MaskPairs(self.truth[start:stop], self.guess[start:stop], self.size)

    def counts(self) -> IntArray:
        """Raises ValueError as `frame_counts` does."""
        return frame_counts(self.truth, self.guess, self.size)


def count_all(jobs: Sequence[Job], processes: int = 1, chunk: int = CHUNK) -> list[IntArray]:
    """Counts of every job, in order; the same for any number of processes. A job's error is raised."""
    places = [(job, start) for job in range(len(jobs)) for start in range(0, max(len(jobs[job]), 1), chunk)]
    parts = (jobs[job].part(start, start + chunk) for job, start in places)
    found: list[list[IntArray]] = [[] for _ in jobs]
    for (job, _), counts in zip(places, in_order(_count, parts, processes), strict=True):
        found[job].append(counts)
    return [np.concatenate(rows) for rows in found]


def in_order(work: Callable[[X], Y], things: Iterable[X], processes: int = 1) -> Iterator[Y]:
    """`work` of everything, in order, over processes; both are picklable. The first error is raised."""
    if processes <= 1:
        yield from map(work, things)
        return
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        yield from pool.map(work, things)


def _count(job: Job) -> IntArray:
    return job.counts()
