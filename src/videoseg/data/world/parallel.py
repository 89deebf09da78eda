"""Generated world: the same work for many seeds, over processes; results come in the order of the seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

from videoseg.errors import UsageError

T = TypeVar("T")
Progress = Callable[[str, int, int], None]
CHUNK = 16


def map_seeds(
    work: Callable[[int], T],
    seeds: Sequence[int],
    *,
    workers: int = 1,
    stage: str = "clips",
    progress: Progress | None = None,
) -> Iterator[T]:
    """`work(seed)` for every seed, in order, whatever the number of processes.

    `work` must be picklable if `workers` > 1; `progress(stage, done, total)` is called after each. The first
    error ends everything; what other processes had begun is finished first. Raises UsageError on `workers`
    below 1.
    """
    if workers < 1:
        raise UsageError(f"workers must be at least 1, got {workers}")
    results = map(work, seeds) if min(workers, len(seeds)) < 2 else _over_processes(work, seeds, workers)
    for done, result in enumerate(results, 1):
        if progress is not None:
            progress(stage, done, len(seeds))
        yield result


def _over_processes(work: Callable[[int], T], seeds: Sequence[int], workers: int) -> Iterator[T]:
    """Fresh processes rather than copies: the caller may hold threads (torch, a decoder)."""
    chunk = max(1, min(CHUNK, len(seeds) // workers))
    pool = ProcessPoolExecutor(min(workers, len(seeds)), mp_context=get_context("spawn"))
    try:
        yield from pool.map(work, seeds, chunksize=chunk)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
