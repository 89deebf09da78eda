"""What `videoseg eval` says while it works, and which workers it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from videoseg.cli.evaluate import EVERY, Pace, clock, following
from videoseg.cli.show import console
from videoseg.evaluation.answers import Answering
from videoseg.evaluation.protocols import TABLE
from videoseg.evaluation.runner import Step


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_the_estimate_counts_what_this_run_did() -> None:
    """800 of 1,000 were there before; 50 took ten seconds, so 150 take thirty."""
    now = Clock()
    pace = Pace(now)
    now.seconds += 60
    assert pace.told(Step("", 800, 1000)) == "800 of 1,000"
    now.seconds += 10
    assert pace.told(Step("v", 850, 1000)) == "850 of 1,000, 0:00:30 left"
    assert clock(3 * 3600 + 62) == "3:01:02"


def test_lines_come_now_and_then() -> None:
    now = Clock()
    pace = Pace(now)
    assert not pace.due()
    now.seconds += EVERY
    assert pace.due()
    assert not pace.due()


def test_failures_are_told_as_they_happen(capsys: pytest.CaptureFixture[str]) -> None:
    with following() as notify:
        notify(Step("", 0, 8))
        notify(Step("clip [1]", 4, 8, "frame 2 is damaged"))
    assert not console.is_terminal
    assert "failed clip [1]: frame 2 is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("workers", "number", "wanted"), [(4, 3, "cuda:1"), (2, 0, "cuda:0"), (1, 0, "cuda"), (0, 5, "cuda")]
)
def test_every_process_has_a_gpu(
    monkeypatch: pytest.MonkeyPatch, workers: int, number: int, wanted: str
) -> None:
    """Two GPUs; a cluster (0) shows each worker its own."""
    import torch

    import videoseg.systems

    loaded: dict[str, Any] = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(videoseg.systems, "load", lambda **options: loaded.update(options))
    Answering({"model": "m", "device": "auto"}, workers)(number)
    assert loaded == {"model": "m", "device": wanted}


def test_the_command_knows_every_benchmark() -> None:
    from typing import get_args

    from videoseg.cli.evaluate import Benchmark

    assert set(get_args(Benchmark)) == {table.benchmark for table in TABLE}


def test_help_names_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    from videoseg.cli.main import main

    assert main(["eval", "--help"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in ("--shard", "--ray", "--limit", "--protocol", "--lenient"))
    assert str(Path.cwd()) not in told
