"""The bundled R1 end to end: the command, its files, and that it finds what was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from videoseg.cli.main import main
from videoseg.evaluation.runner import Pool, Settings
from videoseg.evaluation.session import Asked, Session
from videoseg.export.result import load
from videoseg.models.checkpoints.hub import ASSETS
from videoseg.types import Cues, MaskReason, Vote

DEMO = ASSETS / "tiny" / "demo.mp4"


def test_the_command_writes_masks_and_the_way_there(tmp_path: Path) -> None:
    assert (
        main(["segment", str(DEMO), "the blue object", "--system", "r1", "--out", str(tmp_path / "out")]) == 0
    )
    result = load(tmp_path / "out")
    kinds = [type(turn.reply) for turn in result.trace.turns]
    assert kinds[:1] == [Vote]
    assert kinds[-1] is Cues
    assert result.trace.mask_reason is MaskReason.OK
    assert sum(code.area > 0 for code in next(iter(result.masklets)).rles) > 20
    for name in ("overlay.mp4", "trace.html", "masks"):
        assert (tmp_path / "out" / name).exists()


def test_it_finds_most_things_by_their_motion(tmp_path: Path) -> None:
    """A few held-out clips: far above what an arbitrary thing would score."""
    settings = Settings("tiny", {"system": "r1", "intervals": 2, "percentages": 2})
    session = Session.open(Asked("world", clips=3, families=("motion",)), settings, tmp_path / "run")
    session.answer(settings, Pool())
    report = session.report()
    assert report["dialogue"]["valid_format"] == 100
    assert report["scores"]["overall"]["JF"] > 50


def test_sam2_without_memory_is_refused_as_a_tracker(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ["--system", "r1", "--tracker", "sam2", "--out", str(tmp_path / "o")]
    assert main(["segment", str(DEMO), "the blue object", *options]) == 2
    assert "no memory" in capsys.readouterr().err
