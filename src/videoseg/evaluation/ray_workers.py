"""Evaluation queue: workers that are actors of a Ray cluster (extra `scale`); the queue itself is the same.

`RAY_ADDRESS` names the cluster; without it one is started on this machine.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from videoseg.errors import UsageError
from videoseg.evaluation.queue import Reply, Setup, Worker


class RayWorkers:
    """`count` actors (0: one per GPU of the cluster, else one), each with a share of the cores or one GPU."""

    def __init__(self, setup: Setup, count: int = 0) -> None:
        self._ray = _ray()
        self._owner = not self._ray.is_initialized()
        if self._owner:
            self._ray.init(num_cpus=_local_cores(count), include_dashboard=False, log_to_driver=False)
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        gpus = int(sum(node.get("GPU", 0) for node in nodes))
        self.count = count or gpus or 1
        cores = cores_each([node.get("CPU", 0) for node in nodes], self.count)
        self._actor = self._ray.remote(num_cpus=cores, num_gpus=min(1.0, gpus / self.count))(Worker)
        self._setup = setup
        self._actors = [self._actor.remote(setup, number) for number in range(self.count)]
        self._busy: dict[Any, int] = {}

    def give(self, worker: int, task: Any) -> None:
        """Hand over the task; that the actor is gone shows when its reply is waited for."""
        self._busy[self._actors[worker].do.remote(task)] = worker

    def replies(self) -> list[tuple[int, Reply | None]]:
        """From the actors that have answered or died."""
        ready, _ = self._ray.wait(list(self._busy))
        return [(self._busy.pop(reference), self._received(reference)) for reference in ready]

    def revive(self, worker: int) -> None:
        """Another actor, on whatever machine has room."""
        self._actors[worker] = self._actor.remote(self._setup, worker)

    def close(self) -> None:
        """Kill the actors; a cluster that was started here ends."""
        for actor in self._actors:
            self._ray.kill(actor)
        if self._owner:
            self._ray.shutdown()

    def _received(self, reference: Any) -> Reply | None:
        try:
            reply: Reply = self._ray.get(reference)
        except self._ray.exceptions.RayError:
            # `Worker.do` lets no error through, so this is the end of the actor, its node or its memory.
            return None
        return reply


def cores_each(nodes: Sequence[float], count: int) -> float:
    """Cores for each of `count` workers spread over nodes with so many cores, so that all find room."""
    able = [cores for cores in nodes if cores >= 1] or [1.0]
    together = -(-count // len(able))
    share = min(able) / together
    return float(int(share)) if share >= 1 else share


def _local_cores(count: int) -> int | None:
    """A cluster of our own has room for all workers; a named one has what it has."""
    return None if os.environ.get("RAY_ADDRESS") else max(count, os.cpu_count() or 1)


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UsageError("--ray needs Ray; install `videoseg[scale]`, or leave --ray out") from error
    return ray
