"""Reports as JSON and page: everything in them follows from the scores; pages hold what a reader needs."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_builders import write_json
from eval_builders import FULL, OTHER, PART, Given, always, davis, mevis_set
from videoseg.errors import InputError, OutputError
from videoseg.evaluation.benchmark import evaluate
from videoseg.evaluation.bootstrap import draws, intervals, percentages
from videoseg.evaluation.page import model_line
from videoseg.evaluation.pictures import PREDICTED, TRUE, worst_pictures
from videoseg.evaluation.protocols import protocol
from videoseg.evaluation.published import beside, rows
from videoseg.evaluation.reports import Run, breakdown, by_length, read_report, worst, write_report
from videoseg.evaluation.scoring import Prediction, Score, load_items
from videoseg.evaluation.truth import Item


def scored(name: str, j: float, f: float, **more: Any) -> Score:
    return Score(tuple(name.split("/")), more.pop("group", ""), {"J": j, "F": f}, **more)


class Turned:
    """Predictions of `Given`, with a number of turns each."""

    def __init__(self, given: Given, turns: int) -> None:
        self.given, self.turns = given, turns

    def __call__(self, item: Item) -> Prediction | None:
        found = self.given(item)
        return found and Prediction(found.masks, turns=self.turns)


@pytest.fixture
def made(tmp_path: Path) -> tuple[dict[str, Any], str]:
    """The JSON and the page of a small run: a good, a bad and a missing prediction."""
    table, data = protocol("mevis"), mevis_set(tmp_path / "data")
    items = load_items(table, data)
    both = {"00000": PART | OTHER, "00001": PART, "00002": PART, "00003": OTHER}
    given = Turned(Given({("v", "0"): both, ("v", "1"): always(FULL)}), 2)
    report = evaluate(table, items, given, folder=data, allow_counts=True)
    run = Run("valid_u", "data", "results", "JSON results", ("v/9",), failures={"w": "no frame"})
    found = write_report(tmp_path / "out", report, items, given, run)
    return found, (tmp_path / "out/report.html").read_text()


def test_the_json_holds_the_counts_and_where_they_come_from(made: Any, tmp_path: Path) -> None:
    found = made[0]
    assert found == json.loads(json.dumps(found)) == read_report(tmp_path / "out")
    assert (found["n_expected"], found["n_scored"], found["missing"]) == (3, 2, ["v/10"])
    j, f = 50 * (1 + 1 / 16), 50 * (1 + 1 / 4)
    turns = {"n": 2, "J": pytest.approx(j), "F": pytest.approx(f), "JF": pytest.approx((j + f) / 2)}
    assert found["breakdown"]["turns"] == {"2": turns}
    assert found["breakdown"]["group"] == found["breakdown"]["length"] == {}
    assert found["worst"] == ["v/1", "v/0"]
    assert found["items"]["v/1"]["text"] == "query 1"
    assert {"videoseg", "commit", "packages", "data", "predictions"} <= set(found["provenance"])
    assert found["ci95"] == {}, "one video says nothing of others"


def test_the_page_names_all_that_is_wrong(made: Any) -> None:
    page = made[1]
    for text in (
        *("MeViS", "valid_u", "protocol official", "1 of 3 expressions were not predicted", "v/10", "v/9"),
        *("1 videos failed", "w: no frame", "50 were published", "query 1", "VideoSEG-O3-4B (RL)"),
    ):
        assert text in page, text
    assert page.count('src="data:image/jpeg') == 2
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "NaN" not in page


def test_the_page_names_the_model() -> None:
    assert model_line({"name": "tiny", "sha256": {"a": "0123456789abcdef"}}) == "tiny (a 0123456789ab)"
    assert (model_line({"name": "x"}), model_line("y"), model_line(None)) == ("x", "y", "")


def test_text_from_elsewhere_is_escaped(tmp_path: Path) -> None:
    table, data = protocol("mevis"), mevis_set(tmp_path / "data")
    meta = json.loads((data / "valid_u/meta_expressions.json").read_text())
    meta["videos"]["v"]["expressions"]["0"]["exp"] = "<script>alert(1)</script>"
    write_json(data / "valid_u/meta_expressions.json", meta)
    items = load_items(table, data)
    given = Given({item.key: always(PART) for item in items})
    report = evaluate(table, items, given, folder=data, allow_counts=True)
    write_report(tmp_path / "out", report, items, given, Run("valid_u"))
    assert "<script>" not in (tmp_path / "out/report.html").read_text()


def test_the_picture_shows_both_contours_on_the_worst_frame(tmp_path: Path) -> None:
    import base64
    import io

    from PIL import Image

    table, data = protocol("mevis"), mevis_set(tmp_path / "data")
    items = load_items(table, data)
    given = Given({("v", "1"): {**always(PART), "00002": FULL, "00003": None}})
    report = evaluate(table, items, given, folder=data, allow_counts=True)
    (shot,) = worst_pictures(worst(report.scores), items, given)
    assert (shot.score.name, shot.frame) == ("v/1", "00002")
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(shot.uri.partition(",")[2])))).astype(int)
    assert pixels.shape == (300, 400, 3)
    near_true = np.abs(pixels - TRUE).sum(axis=2) < 90
    assert near_true[70:180, 45:155].sum() > 200
    assert not near_true[:, 200:].any()
    assert np.abs(pixels - PREDICTED).sum(axis=2).min() > 90, "the full frame has no contour along the border"


def test_pictures_without_frames_and_of_label_maps(tmp_path: Path) -> None:
    """The second object was matched with the first prediction: its picture is that expression's."""
    table = protocol("ref-davis17")
    data = davis(tmp_path / "data", {"0": "1", "4": "2"}, [PART + 2 * OTHER])
    items = load_items(table, data)
    given = Given({("fish", "0"): {"00000": FULL}})
    report = evaluate(table, items, given, folder=data, allow_counts=True)
    assert [one.text for one in report.scores] == ["query 0", "query 4"]
    shots = worst_pictures(worst(report.scores), items, given)
    assert [shot.score.text for shot in shots] == ["query 0"]


def test_the_worst_are_not_all_of_one_video() -> None:
    scores = [scored(f"a/{one}", 0.1, 0.1) for one in range(5)] + [
        scored("b/0", 0.5, 0.5),
        scored("c/0", 0, 0),
    ]
    scores[-1] = scored("c/0", 0.0, 0.0, missing=True)
    assert [one.name for one in worst(scores)] == ["a/0", "a/1", "b/0"]


def test_lengths_are_cut_into_stretches_of_equal_weight() -> None:
    scores = [scored(f"v/{n}", n / 10, n / 10, frames=n, group="ab"[n % 2], turns=1) for n in range(1, 9)]
    lengths = by_length(scores)
    assert list(lengths) == ["1 to 2 frames", "3 to 4 frames", "5 to 6 frames", "7 to 8 frames"]
    assert all(len(inside) == 2 for inside in lengths.values())
    assert sum(map(len, lengths.values())) == len(scores)
    parts = breakdown(scores)
    assert parts["group"]["b"]["JF"] == pytest.approx(40)
    assert parts["turns"]["1"]["n"] == 8
    assert by_length([scored("v/0", 0, 0, frames=5)]) == {}


MACRO = {
    "v/0": {"J": 1.0, "F": 0.5, "group": "referring", "video": "v"},
    "v/1": {"J": 0.5, "F": 0.5, "group": "referring", "video": "v"},
    "w/0": {"J": 0.123456, "F": 0.0, "group": "reasoning", "video": "w"},
    "w/1": {"J": 0.0, "F": 0.0, "group": "no_target", "video": "w"},
    "x/0": {"J": 0.9, "F": 0.8, "group": "reasoning", "video": "x"},
}


def test_draws_average_as_the_protocol_does() -> None:
    """Against plain Python over the same draws: groups first, items rounded, no_target left out."""
    table, names = protocol("revos"), ["v/0", "v/1", "w/0", "x/0"]
    columns = percentages(table, MACRO, names)
    assert columns[2, 0] == 12.35
    found = draws(table, MACRO, names, columns, count=50)
    picked = np.random.default_rng(0).integers(0, 3, (50, 3)).tolist()
    for videos, drawn in zip(picked, found, strict=True):
        by_group: dict[str, list[float]] = {"referring": [], "reasoning": []}
        for name, value in zip(names, columns[:, 2], strict=True):
            times = videos.count("vwx".index(name[0]))
            by_group[MACRO[name]["group"]] += [float(value)] * times
        means = [np.mean(values) for values in by_group.values() if values]
        assert drawn[2] == pytest.approx(np.mean(means))


def test_intervals_narrow_with_the_number_of_videos() -> None:
    generator = np.random.default_rng(1)

    def width(count: int) -> float:
        values = generator.random(count).tolist()
        entries = enumerate(values)
        items = {f"{n}/0": {"J": j, "F": 0.5, "group": "", "video": str(n)} for n, j in entries}
        low, high = intervals(protocol("mevis"), items)["J"]
        return high - low

    assert 4 < width(20) / width(500) < 6.5, "25 times the videos, a fifth of the width"


def test_reading_reports(made: Any, tmp_path: Path) -> None:
    text = (tmp_path / "out/report.json").read_bytes()
    (tmp_path / "packed.json.gz").write_bytes(gzip.compress(text))
    assert read_report(tmp_path / "packed.json.gz") == read_report(tmp_path / "out/report.json") == made[0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("no.json", None, "no such file"),
        ("x.json", "{", "cannot be read as a report"),
        ("x.json", "{}", "not a report of this version"),
        ("x.json.gz", "plain", "cannot be read as a report"),
    ],
)
def test_what_is_no_report(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read_report(tmp_path / name)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    table, data = protocol("mevis"), mevis_set(tmp_path / "data")
    items = load_items(table, data)
    report = evaluate(table, items, Given(), folder=data, allow_counts=True)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        write_report(tmp_path / "file", report, items, Given(), Run("valid_u"))


def test_published_rows_say_where_they_are_from_and_what_is_not_comparable() -> None:
    assert all(row["source"] and {"JF", "group", "split", "family", "protocol"} <= set(row) for row in rows())
    found = {
        (row["system"], row["group"]): row for row in beside("revos", "official", "per_expression", "valid")
    }
    assert found["VideoSEG-O3-4B (RL)", "overall"]["JF"] == 67.7
    assert found["VideoSEG-O3-4B (RL)", "overall"]["differs"] == ""
    assert "not stated" in found["VideoSeg-R1-7B", "overall"]["differs"]
    for protocol_name, family in (("official", "labelmap"), ("o3", "per_expression")):
        marked = {
            row["system"]: row["differs"] for row in beside("ref-davis17", protocol_name, family, "valid")
        }
        assert (marked["VideoLISA-3.8B"] == "") == (family == "labelmap")
        assert (marked["VideoSEG-O3-2B (RL)"] == "") == (family == "per_expression")
    splits = {
        row["system"]: row["differs"] for row in beside("mevis", "official", "per_expression", "valid_u")
    }
    assert splits["VideoSEG-O3-2B (RL)"] == "split not stated"
    assert not any(row.get("ablation") for row in beside("mevis", "official", "per_expression", "valid_u"))


def test_macro_means_of_published_revos_rows_hold() -> None:
    """A typing error in the table would break this: overall is the mean of the two parts."""
    found: dict[str, dict[str, float]] = {}
    for row in rows():
        if row["benchmark"] == "revos" and not row.get("ablation"):
            found.setdefault(row["system"], {})[row["group"]] = row["JF"]
    complete = [parts for parts in found.values() if len(parts) == 3]
    assert len(complete) == 2
    for parts in complete:
        assert parts["overall"] == pytest.approx((parts["referring"] + parts["reasoning"]) / 2, abs=0.1)


def test_published_jf_is_about_the_mean_of_j_and_f() -> None:
    """Several sources round, or count, so that it is not quite."""
    for row in rows():
        if "J" in row:
            assert row["JF"] == pytest.approx((row["J"] + row["F"]) / 2, abs=0.3), row
