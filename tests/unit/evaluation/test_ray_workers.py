"""The same queue on a local Ray of two workers; one is killed in the middle of a video."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from eval_stub import StubSetup, make_videos
from videoseg.errors import UsageError
from videoseg.evaluation import ray_workers
from videoseg.evaluation.runner import Pool, Settings, run
from videoseg.evaluation.session import Asked, Session

pytest.importorskip("ray", reason="Ray is the extra `scale`")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Workers find the helpers of the tests."""
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    yield
    import ray

    ray.shutdown()


@pytest.mark.usefixtures("cluster")
def test_a_killed_worker_costs_its_video_only(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    data = make_videos(tmp_path / "mevis", 6)
    asked = Asked("mevis", data, allow_counts=True)
    sessions = [Session.open(asked, Settings(), tmp_path / name) for name in ("ray", "plain")]
    setup = StubSetup(tmp_path / "notes", dies=("v3",), fails=("v5",), seconds=0.1)
    run(sessions[0].store, sessions[0].groups, setup, Pool("ray", 2))
    assert setup.count("death") == 1
    assert [setup.count("task", f"v{number}") for number in range(6)] == [1, 1, 1, 2, 1, 1]
    assert setup.count("start") == 3
    assert list(sessions[0].failures()) == ["v5"]
    setup = StubSetup(tmp_path / "notes", fails=("v5",))
    run(sessions[1].store, sessions[1].groups, setup)
    first, second = (session.report() for session in sessions)
    first.pop("provenance"), second.pop("provenance")
    assert first == second


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"videoseg\[scale\]"):
        ray_workers.RayWorkers(StubSetup(Path()), 2)


@pytest.mark.parametrize(
    ("nodes", "count", "each"),
    [
        ((8.0,), 2, 4),
        ((8.0, 6.0), 4, 3),
        ((8.0, 6.0), 1, 6),
        ((2.0,), 8, 0.25),
        ((0.0, 4.0), 1, 4),
        ((), 1, 1),
    ],
)
def test_workers_find_room_on_the_nodes(nodes: tuple[float, ...], count: int, each: float) -> None:
    assert ray_workers.cores_each(nodes, count) == each
