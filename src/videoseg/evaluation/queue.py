"""Evaluation queue: tasks for workers that may die; one loop for this process, local processes and Ray (R39).

A worker that dies costs the task it was at, which is given out again. An error of a task is part of its
result: the others go on.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from videoseg.errors import InputError, WorkerError

Work = Callable[[Any], Any]
Setup = Callable[[int], Work]
"""Called once in each worker with the worker's number; gives the function that does tasks. Picklable."""
ATTEMPTS = 2
"""How often a task is given out before it counts as what kills its workers."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a task has no value; `bad_input` if its own data are at fault."""

    kind: str
    error: str
    traceback: str = ""
    bad_input: bool = False

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """The error that is being handled."""
        text = str(error) or repr(error)
        return cls(type(error).__name__, text, traceback.format_exc(), isinstance(error, InputError))


@dataclass(frozen=True, slots=True)
class Reply:
    """What a worker answers to a task; `unfit` if the worker could not even be prepared."""

    value: Any = None
    failure: Failure | None = None
    unfit: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """A task's end: its number, and its value or why there is none; `attempts` counts workers that died."""

    task: int
    value: Any
    failure: Failure | None
    attempts: int


class Worker:
    """Does tasks one after the other; it is prepared when the first one comes."""

    def __init__(self, setup: Setup, number: int) -> None:
        self._setup = setup
        self._number = number
        self._work: Work | None = None

    def do(self, task: Any) -> Reply:
        """The task's value, or the error that it ended with."""
        try:
            if self._work is None:
                self._work = self._setup(self._number)
            return Reply(self._work(task))
        except Exception as error:  # noqa: BLE001 - whatever a video does to us, the others go on
            return Reply(failure=Failure.of(error), unfit=self._work is None)


class Workers(Protocol):
    """Some workers, each at one task at most."""

    @property
    def count(self) -> int:
        """How many."""
        ...

    def give(self, worker: int, task: Any) -> None:
        """Hand a task to an idle worker."""
        ...

    def replies(self) -> Iterable[tuple[int, Reply | None]]:
        """Wait for at least one busy worker: its number and reply, None if it died."""
        ...

    def revive(self, worker: int) -> None:
        """A new worker in place of a dead one."""
        ...

    def close(self) -> None:
        """End all workers at once."""
        ...


class Inline:
    """One worker, in this process."""

    count = 1

    def __init__(self, setup: Setup) -> None:
        self._worker = Worker(setup, 0)
        self._task: Any = None

    def give(self, worker: int, task: Any) -> None:
        """Keep the task until it is waited for."""
        self._task = task

    def replies(self) -> list[tuple[int, Reply | None]]:
        """Do the task."""
        return [(0, self._worker.do(self._task))]

    def revive(self, worker: int) -> None:
        """Never needed: it dies with this process."""

    def close(self) -> None:
        """Nothing is left behind."""


def drain(workers: Workers, tasks: Sequence[Any], attempts: int = ATTEMPTS) -> Iterator[Done]:
    """Do all tasks, each as soon as a worker is free; ends of tasks come as they happen.

    Raises `WorkerError` where a worker cannot be prepared, or workers die without finishing anything.
    """
    waiting, tried, lost = deque(range(len(tasks))), [0] * len(tasks), 0
    busy: dict[int, int] = {}
    free = list(range(workers.count))[::-1]
    while waiting or busy:
        while free and waiting:
            worker, task = free.pop(), waiting.popleft()
            workers.give(worker, tasks[task])
            busy[worker], tried[task] = task, tried[task] + 1
        for worker, reply in workers.replies():
            task = busy.pop(worker)
            free.append(worker)
            if reply is not None:
                lost = 0
                yield _end(worker, task, reply, tried[task])
                continue
            lost += 1
            _require_life(lost, workers.count * attempts)
            workers.revive(worker)
            if tried[task] < attempts:
                waiting.appendleft(task)
            else:
                yield Done(task, None, _killer(attempts), tried[task])


def _end(worker: int, task: int, reply: Reply, attempts: int) -> Done:
    if reply.unfit and reply.failure:
        raise WorkerError(
            f"worker {worker} could not be prepared: {reply.failure.kind}: {reply.failure.error}"
        )
    return Done(task, reply.value, reply.failure, attempts)


def _require_life(lost: int, most: int) -> None:
    """Two tasks in a row may be killers; more than that is the machine."""
    if lost > 2 * most:
        raise WorkerError(
            f"workers died {lost} times without finishing anything: most likely memory ran out; use fewer "
            "processes, a smaller preset or a larger machine. What was finished is kept"
        )


def _killer(attempts: int) -> Failure:
    return Failure("WorkerDied", f"the worker died {attempts} times at it; most likely memory ran out")
