"""The queue: every task ends once, in whatever worker; dead workers cost the task they were at."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from videoseg.errors import FrameError, WorkerError
from videoseg.evaluation.processes import Processes
from videoseg.evaluation.queue import Inline, Reply, Worker, drain


class Scripted:
    """Workers that answer one at a time; `deaths` counts how often each task still kills its worker."""

    def __init__(self, count: int, deaths: dict[str, int]) -> None:
        self.count = count
        self.deaths = deaths
        self.given: list[tuple[int, str]] = []
        self.busy: list[tuple[int, str]] = []
        self.revived: list[int] = []

    def give(self, worker: int, task: Any) -> None:
        assert worker not in [number for number, _ in self.busy]
        self.given.append((worker, task))
        self.busy.append((worker, task))

    def replies(self) -> Iterator[tuple[int, Reply | None]]:
        worker, task = self.busy.pop(0)
        if self.deaths.get(task, 0):
            self.deaths[task] -= 1
            yield worker, None
        else:
            yield worker, Reply(task.upper())

    def revive(self, worker: int) -> None:
        self.revived.append(worker)

    def close(self) -> None:
        pass


def test_every_task_ends_once_whatever_dies() -> None:
    workers = Scripted(2, {"b": 1, "d": 5})
    done = {one.task: one for one in drain(workers, ["a", "b", "c", "d", "e"])}
    assert [done[task].value for task in (0, 1, 2, 4)] == ["A", "B", "C", "E"]
    assert (done[1].attempts, done[0].attempts) == (2, 1)
    assert done[3].failure is not None
    assert done[3].failure.kind == "WorkerDied"
    assert len(workers.revived) == 3
    assert [task for _, task in workers.given].count("d") == 2


def test_all_workers_are_used_and_no_more() -> None:
    workers = Scripted(3, {})
    assert len(list(drain(workers, list("abcdefg")))) == 7
    assert {worker for worker, _ in workers.given} == {0, 1, 2}


def test_workers_that_only_die_end_the_run() -> None:
    workers = Scripted(1, dict.fromkeys("abcdefgh", 9))
    with pytest.raises(WorkerError, match="died 5 times without finishing"):
        list(drain(workers, list("abcdefgh")))


@dataclass(frozen=True)
class Doubles:
    """Doubles numbers; the rest is trouble."""

    notes: Path
    broken: bool = False

    def __call__(self, number: int) -> Any:
        if self.broken:
            raise OSError("no such device")
        (self.notes / f"started-{os.getpid()}").touch()
        return self.work

    def work(self, task: Any) -> Any:
        if task == "bad":
            raise FrameError("clip.mp4: frame 3 is damaged")
        if task == "die" and not (self.notes / "died").exists():
            (self.notes / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return 2 * task


def test_an_error_is_part_of_the_result(tmp_path: Path) -> None:
    good, bad = drain(Inline(Doubles(tmp_path)), [1, "bad"])
    assert (good.value, good.failure) == (2, None)
    assert bad.failure is not None
    assert (bad.failure.kind, bad.failure.bad_input) == ("FrameError", True)
    assert "line" in bad.failure.traceback
    assert bad.failure.error == "clip.mp4: frame 3 is damaged"


def test_a_worker_that_cannot_be_prepared_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="worker 0 could not be prepared: OSError: no such device"):
        list(drain(Inline(Doubles(tmp_path, broken=True)), [1, 2]))


def test_a_worker_is_prepared_once(tmp_path: Path) -> None:
    worker = Worker(Doubles(tmp_path), 0)
    assert [worker.do(task).value for task in (1, 2, 3)] == [2, 4, 6]
    assert len(list(tmp_path.glob("started-*"))) == 1


def test_processes_are_started_afresh_when_they_are_killed(tmp_path: Path) -> None:
    with closing(Processes(Doubles(tmp_path), 2)) as workers:
        done = {one.task: one for one in drain(workers, [1, "die", 3, "bad", 5, 6])}
        running = [process for process, _ in workers._running]
        assert all(process.is_alive() for process in running)
    assert [done[task].value for task in (0, 1, 2, 4, 5)] == [2, "diedie", 6, 10, 12]
    assert (done[1].attempts, done[2].attempts) == (2, 1)
    assert done[3].failure is not None
    assert done[3].failure.bad_input
    assert len(list(tmp_path.glob("started-*"))) == 3
    assert not any(process.is_alive() for process in running)
