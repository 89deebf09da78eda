"""The scorer over processes: workers read the masks themselves, and long items begin first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, TypeVar

X = TypeVar("X")
Y = TypeVar("Y")
_work: Callable[[Any], Any]


def in_order(
    work: Callable[[X], Y],
    things: Sequence[X],
    processes: int = 1,
    weight: Callable[[X], float] = lambda thing: 1.0,
) -> Iterator[Y]:
    """`work` of everything, in order, over processes; both are picklable. The first error is raised.

    Work travels to a process once, a thing when its turn comes: the heaviest first, so that a long video
    does not hold up the others at the end. The result is the same for any number of processes.
    """
    if min(processes, len(things)) <= 1:
        yield from map(work, things)
        return
    heavy_first = sorted(range(len(things)), key=lambda place: -weight(things[place]))
    pool = ProcessPoolExecutor(
        min(processes, len(things)), get_context("spawn"), initializer=_prepare, initargs=(work,)
    )
    try:
        futures = {place: pool.submit(_do, things[place]) for place in heavy_first}
        for place in range(len(things)):
            yield futures.pop(place).result()
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare(work: Callable[[Any], Any]) -> None:
    global _work
    _work = work


def _do(thing: Any) -> Any:
    return _work(thing)
