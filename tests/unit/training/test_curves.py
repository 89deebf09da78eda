"""Curves of training runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from videoseg.errors import InputError
from videoseg.training.curves import plot_runs, read_records


def test_resumed_steps_count_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "text": 3}\n{"step": 1, "text": 2}\n{"step": 1, "text": 1}\n')
    assert [record["text"] for record in read_records(path)] == [3, 1]
    pytest.importorskip("matplotlib")
    picture = plot_runs([("a", path), ("b", path)], ["text", "iou"], tmp_path / "x" / "curve.png")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\nnonsense\n')
    with pytest.raises(InputError, match="line 2"):
        read_records(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_records(tmp_path / "missing.jsonl")
