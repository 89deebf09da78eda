"""`videoseg score`, `compare` and `submit` as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_builders import write_json
from eval_builders import OTHER, PART, STEMS, codes, mevis_set
from videoseg.cli.main import main
from videoseg.evaluation.reports import read_report


def results(path: Path, *expressions: str) -> str:
    """Predictions of the large square for some expressions of the MeViS fixture."""
    entry = {"frames": STEMS, "prediction_masks": codes(PART | OTHER, PART, PART, None), "num_rounds": 1}
    return str(write_json(path, {"v": dict.fromkeys(expressions, entry)}))


@pytest.fixture
def given(tmp_path: Path) -> list[str]:
    """Arguments that every call on the fixture needs."""
    data = mevis_set(tmp_path / "data")
    return ["--benchmark", "mevis", "--data", str(data), "--allow-counts"]


def call(*arguments: Any) -> int:
    return main([str(one) for one in arguments])


def test_score_writes_report_and_page(
    tmp_path: Path, given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert call("score", results(tmp_path / "r.json", "0", "1", "7"), *given, "--out", out) == 0
    shown = capsys.readouterr().err
    assert "1 were not predicted and count 0, such as v/10" in shown
    assert "1 are not asked for and were left out, such as v/7" in shown
    assert "mevis valid_u: 1 videos, 50 were published" in shown.replace("\n", " ")
    report = read_report(out)
    assert report["scores"]["overall"]["J"] == pytest.approx(100 * (3 / 4 + 7 / 8) / 3)
    assert report["provenance"]["seconds"] > 0
    assert (out / "report.html").stat().st_size > 10_000


def test_score_prints_json(tmp_path: Path, given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call("score", results(tmp_path / "r.json", "1"), *given, "--protocol", "o3", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["protocol"], report["n_missing"]) == ("o3", 2)


def test_score_refuses_other_counts_and_what_is_malformed(
    tmp_path: Path, given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = results(tmp_path / "r.json", "0")
    assert call("score", path, *given[:-1]) == 3
    assert "50 were published" in capsys.readouterr().err
    bad = write_json(tmp_path / "bad.json", {"v": {"0": [None]}})
    assert call("score", bad, *given) == 3
    assert "bad.json: 1 masks, but the video has 4 frames" in capsys.readouterr().err
    assert call("score", bad, *given, "--lenient") == 0
    assert "1 could not be read and count 0, such as v/0" in capsys.readouterr().err
    assert call("score", path, *given, "--protocol", "best") == 2


def test_compare(tmp_path: Path, given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for name, expressions in (("a", "0"), ("b", "01")):
        call("score", results(tmp_path / f"{name}.json", *expressions), *given, "--out", tmp_path / name)
    a, b, out = tmp_path / "a", tmp_path / "b", tmp_path / "ab"
    assert call("compare", a, b, "--out", out, "--names", '["before","after"]') == 0
    assert "after" in capsys.readouterr().err
    found = json.loads((out / "compare.json").read_text())
    assert found["scores"]["overall"]["J"]["difference"] == pytest.approx(100 * 7 / 8 / 3)
    assert found["names"] == ["before", "after"]
    assert "after" in (out / "compare.html").read_text()
    assert call("score", tmp_path / "a.json", *given, "--protocol", "o3", "--out", tmp_path / "c") == 0
    assert call("compare", a, tmp_path / "c") == 2
    assert "differ in protocol" in capsys.readouterr().err


def test_submit_and_score_again(tmp_path: Path, given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    path, out = results(tmp_path / "r.json", "0", "1", "10"), tmp_path / "x.zip"
    assert call("submit", path, *given, "--split", "valid_u", "--out", out) == 0
    assert "12 pictures of 3 expressions" in capsys.readouterr().err
    for one, folder in ((path, "a"), (out, "b")):
        assert call("score", one, *given, "--out", tmp_path / folder) == 0
    a, b = (read_report(tmp_path / folder) for folder in "ab")
    assert a["scores"] == b["scores"]
    short = results(tmp_path / "short.json", "0")
    assert call("submit", short, *given, "--split", "valid_u", "--out", tmp_path / "y.zip") == 3
    assert not (tmp_path / "y.zip").exists()
    assert call("submit", short, *given, "--split", "valid_u", "--out", tmp_path / "y.zip", "--fill") == 0
    assert "2 were filled" in capsys.readouterr().err
