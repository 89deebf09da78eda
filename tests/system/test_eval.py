"""`videoseg eval` with the bundled model: killed and resumed, from folders, with failures, for machines."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from videoseg.cli.main import main
from videoseg.data.world.layouts import write_layouts
from videoseg.data.world.plan import Plan
from videoseg.data.world.sampler import TEST_SEEDS, WorldSpec

COMMAND = "from videoseg.cli.main import entry; entry()"


def report(folder: Path) -> dict[str, Any]:
    """Without what differs from run to run."""
    content = json.loads((folder / "report.json").read_text())
    assert content.pop("provenance")["seconds"] > 0
    return content


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four short clips in the layout of MeViS."""
    root = tmp_path_factory.mktemp("world")
    seeds = range(TEST_SEEDS.start, TEST_SEEDS.start + 4)
    spec = WorldSpec(width=112, height=80, lengths=(8,))
    write_layouts(root, Plan(seeds, spec, "appearance", ("mevis",)))
    return root


@pytest.mark.slow
def test_killed_in_the_middle_it_ends_with_the_same_report(world: Path, tmp_path: Path) -> None:
    arguments = ["eval", "world", "--data", str(world), "--out"]
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments, str(tmp_path / "killed")], stderr=subprocess.DEVNULL
    )
    predictions, until = tmp_path / "killed/predictions", time.monotonic() + 300
    while not list(predictions.glob("*.json")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in predictions.glob("*.json")}
    assert 1 <= len(kept) < 4
    assert not (tmp_path / "killed/report.json").exists()
    for name in ("killed", "whole"):
        assert main([*arguments, str(tmp_path / name)]) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert report(tmp_path / "killed") == report(tmp_path / "whole")


@pytest.mark.slow
def test_a_folder_over_two_processes(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["eval", "world", "--data", str(world), "--max-turns", "1", "--out"]
    assert main([*arguments, str(tmp_path / "two"), "--processes", "2", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["provenance"]["preset"]["budget"]["max_turns"] == 1
    assert set(printed["provenance"]["model"]["sha256"]) == {"model.safetensors"}
    assert printed["dialogue"]["turns"] == {"1": 4}
    assert main([*arguments, str(tmp_path / "shards"), "--shard", "2/2"]) == 0
    assert "2 of 4 videos are left to other shards" in capsys.readouterr().err
    assert main([*arguments, str(tmp_path / "shards"), "--shard", "1/2"]) == 0
    assert report(tmp_path / "shards")["scores"] == report(tmp_path / "two")["scores"]


def test_failures_and_refusals_have_exit_codes(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = sorted((world / "video_datas/mevis/test/JPEGImages").glob("*/00003.jpg"))[0]
    aside = picture.rename(picture.with_suffix(".aside"))
    arguments = ["eval", "world", "--data", str(world), "--limit", "1", "--out", str(tmp_path / "out")]
    assert main(arguments) == 3
    told = capsys.readouterr().err.replace("\n", " ")
    assert "00003.jpg" in told
    assert "the same command tries again" in told
    aside.rename(picture)
    assert main(arguments) == 0
    assert not list((tmp_path / "out/failures").iterdir())
    assert main([*arguments, "--seed", "1"]) == 3
    assert "options.seed: was 0, now 1" in capsys.readouterr().err
    assert main(["eval", "mevis"]) == 2
    assert main(["eval", "world", "--shard", "3/2"]) == 2
    assert main(["eval", "davis"]) == 2
