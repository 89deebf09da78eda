from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_builders import code, edit_json, make_mevis, make_revos, make_vts_cot, mp4, square, write_json
from videoseg.cli.main import main
from videoseg.data.check import check, spread
from videoseg.data.page import histogram, write_page
from videoseg.data.readers import open_dataset
from videoseg.data.sheet import contact_sheet, pictures
from videoseg.errors import OutputError


def test_a_good_copy_has_no_findings_but_its_counts_differ_from_the_real_set(tmp_path: Path) -> None:
    report = check(open_dataset("mevis", make_mevis(tmp_path / "mevis")))
    assert (report.bad, report.findings, report.missing_frames, report.checked) == (0, [], 0, 4)
    assert [(row.name, row.found, row.expected) for row in report.counts] == [
        ("videos", 2, 1662),
        ("expressions", 4, 23051),
    ]
    assert report.ok
    assert not report.complete
    stats = report.statistics
    assert stats.video_frames == [3, 3]
    assert sorted(stats.targets) == [1, 1, 1, 2]
    assert stats.sizes == {"32x24": 2}
    assert (stats.masks_read, stats.masks_empty) == (12, 2)


def test_unconfirmed_counts_do_not_fail(tmp_path: Path) -> None:
    report = check(open_dataset("revos", make_revos(tmp_path)))
    assert report.counts[0].differs
    assert report.counts[0].doubtful
    assert report.complete
    assert report.statistics.kinds == {"referring": 2, "reasoning": 1, "no_target": 1}


def test_missing_frames_damaged_frames_and_bad_masks_are_all_found(tmp_path: Path) -> None:
    root = make_revos(tmp_path)
    (root / "JPEGImages/UVO/all/y/00001.jpg").write_bytes(b"no picture")
    (root / "JPEGImages/TAO/train/x/00000.jpg").unlink()
    report = check(open_dataset("revos", root))
    assert (report.bad, report.missing_frames) == (4, 1)
    assert any("00001.jpg: the file cannot be decoded" in finding for finding in report.findings)
    assert sum("00000.jpg is missing" in finding for finding in report.findings) == 3


def test_three_masks_or_all_of_them(tmp_path: Path) -> None:
    root = make_mevis(tmp_path / "mevis")
    edit_json(
        root / "train/mask_dict.json",
        lambda data: data["9"].__setitem__(1, {"size": [24, 32], "counts": "0"}),
    )
    reader = open_dataset("mevis", root)
    assert check(reader, masks_per_sample=1).bad == 0
    report = check(reader, masks_per_sample=None)
    assert report.bad == 1
    assert "sample v2/0, masks of object 9: mask 1: counts cover" in report.findings[0]


def test_existence_is_compared_with_the_masks(tmp_path: Path) -> None:
    make_vts_cot(tmp_path)
    item = {
        "video_name": "v1",
        "frames": ["00000", "00001", "00002"],
        "exp": "x",
        "anno_id": [8],
        "mask_existence": [1, 1, 0],
    }
    write_json(tmp_path / "VideoSEG-O3-RL/rl_mevis_data.json", [[item]])
    report = check(open_dataset("rl", tmp_path))
    assert "sample 0, mask_existence: frame 1: stated 1, the mask has 0 pixels" in report.findings[0]


def test_a_limit_spreads_and_findings_are_capped(tmp_path: Path) -> None:
    assert spread(10, 3) == [0, 4, 9]
    assert spread(3, None) == spread(3, 5) == [0, 1, 2]
    root = make_mevis(tmp_path / "mevis")
    edit_json(root / "train/mask_dict.json", lambda data: data.update(dict.fromkeys(data, "x")))
    report = check(open_dataset("mevis", root), max_findings=2)
    assert (report.bad, len(report.findings)) == (4, 2)
    assert check(open_dataset("mevis", root), limit=2).checked == 2


def test_histograms_count_everything_once() -> None:
    for values in ([3], [1, 2, 2, 9], list(range(100)), [0.1, 0.5, 0.5]):
        chart = histogram("x", values)
        assert chart is not None
        assert sum(bar.count for bar in chart.bars) == len(values)
        assert len(chart.bars) <= 17
        assert max(bar.height for bar in chart.bars) == 100
    assert histogram("x", []) is None
    assert histogram("x", [0.25, 0.5], " %", percent=True).facts == "mean 37.5 %, median 37.5 %"  # type: ignore[union-attr]


def test_the_page_shows_findings_and_escapes_them(tmp_path: Path) -> None:
    root = make_mevis(tmp_path / "mevis")
    edit_json(
        root / "train/meta_expressions.json",
        lambda data: data["videos"]["v1"]["expressions"]["0"].update(exp="<b>bold</b>", anno_id=["<i>"]),
    )
    edit_json(
        root / "train/meta_expressions.json",
        lambda data: data["videos"]["v2"]["expressions"]["0"].update(exp="<script>alert(1)</script>"),
    )
    reader = open_dataset("mevis", root)
    page = write_page(check(reader), pictures(reader), tmp_path / "out/report.html").read_text()
    assert "&lt;i&gt; is not in" in page
    assert "<script>" not in page
    assert page.count("data:image/jpeg;base64,") == 3
    assert "expected" in page.lower()


def test_a_contact_sheet_shows_the_masks(tmp_path: Path) -> None:
    reader = open_dataset("mevis", make_mevis(tmp_path / "mevis"))
    path = contact_sheet(pictures(reader), tmp_path / "sheet.png")
    image = np.asarray(Image.open(path))
    assert image.shape[1] > 1200
    assert (image.astype(int).max(axis=2) - image.min(axis=2)).max() > 80
    with pytest.raises(OutputError, match="no sample that could be drawn"):
        contact_sheet([], tmp_path / "none.png")


def test_the_command_checks_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mp4(tmp_path / "a.mp4", 3)
    line = {"video": "a.mp4", "query": "the square", "objects": [{"rle": {"0": code(square())}}]}
    (tmp_path / "data.jsonl").write_text(json.dumps(line) + "\n")
    out = tmp_path / "report"
    arguments = ["data", "check", str(tmp_path), "--dataset", "own", "--out", str(out), "--json"]
    assert main(arguments) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["ok"] is True
    assert printed["statistics"]["videos"] == 1
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "report.json", "sheet.png"]
    (tmp_path / "data.jsonl").write_text(json.dumps({**line, "video": "gone.mp4"}) + "\n")
    assert main(["data", "check", str(tmp_path), "--dataset", "own"]) == 3
    assert "gone.mp4" in capsys.readouterr().err.replace("\n", "")


def test_the_command_names_unknown_datasets_and_splits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", str(tmp_path), "--dataset", "nothing"]) == 2
    assert "unknown dataset 'nothing'" in capsys.readouterr().err
    assert main(["data", "check", str(tmp_path / "no"), "--dataset", "mevis"]) == 3
