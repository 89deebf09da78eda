"""Evaluation queue: workers that are processes of this machine, started afresh when they die."""

from __future__ import annotations

import signal
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

from videoseg.evaluation.queue import Reply, Setup, Worker

# Fresh processes rather than copies: this one may hold threads (torch, a decoder).
CONTEXT = get_context("spawn")


class Processes:
    """`count` processes; a task and its reply go through a pipe, whose end tells that a process died."""

    def __init__(self, setup: Setup, count: int) -> None:
        self.count = count
        self._setup = setup
        self._running = [self._start(number) for number in range(count)]
        self._busy: dict[Any, int] = {}

    def give(self, worker: int, task: Any) -> None:
        """Hand over the task; that the process is gone shows when its reply is waited for."""
        _, pipe = self._running[worker]
        self._busy[pipe] = worker
        with suppress(OSError):
            pipe.send(task)

    def replies(self) -> list[tuple[int, Reply | None]]:
        """From every process that has answered or died."""
        ready = wait(list(self._busy))
        return [(self._busy.pop(pipe), _received(pipe)) for pipe in ready]

    def revive(self, worker: int) -> None:
        """Clear the dead process away and start another."""
        process, pipe = self._running[worker]
        pipe.close()
        process.kill()
        process.join()
        self._running[worker] = self._start(worker)

    def close(self) -> None:
        """Kill what is at work: whoever closes in the middle does not want the rest."""
        for process, pipe in self._running:
            pipe.close()
            process.kill()
        for process, _ in self._running:
            process.join()

    def _start(self, number: int) -> tuple[Any, Connection]:
        ours, theirs = CONTEXT.Pipe()
        process = CONTEXT.Process(target=serve, args=(theirs, self._setup, number), daemon=True)
        process.start()
        theirs.close()
        return process, ours


def _received(pipe: Any) -> Reply | None:
    try:
        reply: Reply = pipe.recv()
    except (EOFError, OSError):
        return None
    return reply


def serve(pipe: Connection, setup: Setup, number: int) -> None:
    """A worker's life: tasks until the other end of the pipe is closed."""
    # Ctrl-C reaches the whole group of processes; only the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker = Worker(setup, number)
    with suppress(EOFError, OSError):
        while True:
            pipe.send(worker.do(pipe.recv()))
