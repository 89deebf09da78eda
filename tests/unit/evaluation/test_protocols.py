"""Every protocol on a small dataset in its official layout, with scores worked out by hand.

Masks are `PART` (64 of 768 pixels), nothing or the full frame: J is 1, 0 or 1/12, F is 1 or 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_builders import binary_png, palette_png, square, write_json, write_pickle
from eval_builders import (
    FULL,
    OTHER,
    PART,
    STEMS,
    Given,
    Masks,
    always,
    codes,
    davis,
    meta,
    mevis_set,
    revos_set,
)
from videoseg.errors import DatasetError, UsageError
from videoseg.evaluation.labelmap import score_labelmaps
from videoseg.evaluation.protocols import TABLE, protocol
from videoseg.evaluation.scoring import Report, load_items, score
from videoseg.masks import Rle


def run(name: str, variant: str, folder: Path, given: Given, split: str | None = None, **more: Any) -> Report:
    table = protocol(name, variant)
    return score(table, load_items(table, folder, split), given, **more)


@pytest.fixture
def mevis(tmp_path: Path) -> Path:
    return mevis_set(tmp_path)


@pytest.mark.parametrize("variant", ["official", "o3"])
def test_mevis(mevis: Path, variant: str) -> None:
    both: Masks = {"00000": PART | OTHER, "00001": PART, "00002": FULL, "00003": OTHER}
    short: Masks = {"00000": PART, "00001": PART, "00003": None}
    report = run("mevis", variant, mevis, Given({("v", "0"): both, ("v", "1"): short}))
    first, second, third = report.scores
    assert first.values == {"J": (3 + 1 / 12) / 4, "F": 3 / 4}
    assert second.values == {"J": 3 / 4, "F": 3 / 4}
    assert second.missing_frames == ("00002",)
    assert third.missing
    overall = report.table["overall"]
    assert overall["J"] == pytest.approx(100 * ((3 + 1 / 12) / 4 + 3 / 4) / 3)
    assert overall["JF"] == (overall["J"] + overall["F"]) / 2
    listed = report.to_json()
    assert (listed["n_expected"], listed["n_scored"], listed["missing"]) == (3, 2, ["v/10"])
    assert listed["missing_frames"] == {"v/1": ["00002"]}


def test_a_missing_frame_scores_nothing_where_an_empty_mask_would_score(mevis: Path) -> None:
    empty = run("mevis", "official", mevis, Given({("v", "1"): {**always(PART), "00003": None}}))
    assert empty.scores[1].values["J"] == 1.0
    gone = run("mevis", "official", mevis, Given({("v", "1"): always(PART, STEMS[:3])}))
    assert gone.scores[1].values["J"] == 3 / 4


@pytest.mark.parametrize(
    "bad", [{**always(PART), "00001": np.ones((5, 5), dtype=bool)}, "the file is cut off"]
)
def test_a_malformed_prediction_is_an_error_or_listed(mevis: Path, bad: Any) -> None:
    given = Given({("v", "1"): bad, ("v", "0"): always(PART)})
    with pytest.raises(DatasetError, match=r"sample v/1, prediction: (frame 1: mask of 5x5|the file is cut)"):
        run("mevis", "official", mevis, given)
    report = run("mevis", "official", mevis, given, lenient=True)
    assert report.scores[1].values == {"J": 0.0, "F": 0.0}
    assert list(report.to_json()["malformed"]) == ["v/1"]
    assert report.to_json()["n_scored"] == 1


def test_published_counts_are_checked(mevis: Path) -> None:
    table = protocol("mevis")
    items = load_items(table, mevis, "valid_u")
    with pytest.raises(
        DatasetError, match=r"1 videos, 50 were published; .* 3 expressions, 793 were .*allow"
    ):
        score(table, items, Given(), split="valid_u")
    assert len(score(table, items, Given(), split="valid_u", allow_counts=True).mismatch) == 2


def test_processes_do_not_change_the_report(mevis: Path) -> None:
    given = Given({("v", "0"): always(PART | OTHER), ("v", "1"): always(FULL)})
    assert run("mevis", "official", mevis, given, processes=2) == run("mevis", "official", mevis, given)


@pytest.mark.parametrize("variant", ["official", "o3"])
def test_ref_ytvos_with_masks(tmp_path: Path, variant: str) -> None:
    listed = {"videos": {"v": meta({"0": {"obj_id": "1"}, "1": {"obj_id": "2"}}, STEMS[:2])}}
    write_json(tmp_path / "meta_expressions/valid/meta_expressions.json", listed)
    for stem in STEMS[:2]:
        palette_png(tmp_path / f"valid/Annotations/v/{stem}.png", PART + 2 * OTHER)
    given = Given({("v", "0"): always(PART, STEMS[:2]), ("v", "1"): always(FULL, STEMS[:2])})
    table = protocol("ref-ytvos", variant)
    items = load_items(table, tmp_path)
    assert score(table, items, given).table["overall"]["J"] == pytest.approx(100 * (1 + 1 / 12) / 2)
    if variant == "official":
        with pytest.raises(DatasetError, match="202 were published"):
            score(table, items, given, split="valid")


@pytest.mark.parametrize("variant", ["official", "o3"])
def test_ref_sav_is_the_mean_of_long_and_short(tmp_path: Path, variant: str) -> None:
    expressions = {name: {"anno_id": [5], "type_id": kind} for name, kind in (("0", 0), ("1", 0), ("2", 1))}
    listed = {"videos": {"v": meta(expressions, STEMS[:1], height=24, width=32)}}
    write_json(tmp_path / "meta_expressions_valid.json", listed)
    write_json(tmp_path / "mask_dict.json", {"5": codes(PART)})
    given = {("v", "0"): {"00000": PART}, ("v", "1"): {"00000": FULL}, ("v", "2"): {"00000": None}}
    table = run("ref-sav", variant, tmp_path, Given(given)).table
    assert table["long"]["J"] == (100 + 8.33) / 2
    assert table["overall"]["J"] == (100 + 8.33) / 4
    assert table["overall"]["A"] == ((100 + 8.33) / 2 + 91.67) / 2
    assert table["plain_mean"]["J"] == pytest.approx((100 + 8.33) / 3)


@pytest.fixture
def long_rvos(tmp_path: Path) -> Path:
    """Video v: the object is on frames 1 and 2; the video that O3 leaves out: never."""
    home = tmp_path / "valid"
    expressions = {"0": {"obj_id": 3, "type": "static"}, "1": {"obj_id": "3", "type": "dynamic"}}
    hidden = {"0": {"obj_id": 1, "type": "hybrid"}}
    videos = {"v": meta(expressions), "71fb69bbcd": meta(hidden)}
    write_json(home / "meta_expressions.json", {"videos": videos})
    for stem in STEMS[1:3]:
        binary_png(home / f"Annotations/v/3/{stem}.png", PART)
    (home / "Annotations/71fb69bbcd/1").mkdir(parents=True)
    return tmp_path


LATE: Masks = {"00002": PART, "00003": PART}


def test_long_rvos_official(long_rvos: Path) -> None:
    given = Given({("v", "0"): LATE, ("v", "1"): always(FULL), ("71fb69bbcd", "0"): always(None)})
    report = run("long-rvos", "official", long_rvos, given)
    assert report.scores[0].values == {"J": 2 / 4, "F": 2 / 4, "tIoU": 1 / 3, "vIoU": 1 / 3}
    assert report.scores[0].missing_frames == ("00000", "00001")
    assert report.scores[1].values == {
        "J": pytest.approx(2 / 12 / 4),
        "F": 2 / 4,
        "tIoU": 2 / 4,
        "vIoU": pytest.approx(2 / 12 / 4),
    }
    assert report.table["hybrid"] == dict.fromkeys(("J", "F", "tIoU", "vIoU", "JF"), 100.0)
    assert report.table["overall"]["tIoU"] == pytest.approx(100 * (1 / 3 + 1 / 2 + 1) / 3)


def test_long_rvos_o3(long_rvos: Path) -> None:
    given = Given({("v", "0"): LATE, ("v", "1"): always(FULL)}, sampled=(1, 2, 3), keyframes=())
    report = run("long-rvos", "o3", long_rvos, given)
    assert [one.key for one in report.scores] == [("v", "0"), ("v", "1")]
    assert report.scores[0].values == {"J": 1 / 4, "F": 1 / 4, "J_sampled": 1 / 3, "J_key": 0.0}


@pytest.fixture(params=[True, False])
def revos(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return revos_set(tmp_path, stored=request.param)


@pytest.mark.parametrize("variant", ["official", "o3"])
def test_revos(revos: Path, variant: str) -> None:
    wider = square(4, 6, 10)
    given = {("TAO/x", name): {"00000": mask} for name, mask in (("0", wider), ("1", wider), ("2", FULL))}
    report = run("revos", variant, revos, Given(given))
    both, single, _ = (one.values for one in report.scores)
    assert (both["J"], both["A_or"], both["R_or"]) == (1.0, 1.0, 1.0)
    assert both["A"] == (768 - 64) / 768
    assert both["R"] == 0.0
    assert single["J"] == 64 / 100
    assert single["A"] == single["A_or"] == (768 - 36) / 768
    assert single["R"] == single["R_or"] == 1 - 36 / (100 + 1e-6)
    assert report.table["referring"]["A"] == 91.67
    assert report.table["overall"]["J"] == (100 + 64) / 2
    assert report.table["overall"]["R"] == (0 + 64) / 2
    assert set(report.table) == {"referring", "reasoning", "overall"}


def test_reasonvos_scores_frames_with_a_true_picture(tmp_path: Path) -> None:
    """Expression 0 exists once for each of two objects."""
    both = [{"obj_id": thing, "exp_id": 0, "exp_text": "q", "is_sent": True} for thing in (3, 4)]
    listed = {"videos": {"v": {"source": "MOSE", "frames": STEMS, "expressions": both}}}
    write_json(tmp_path / "meta_expressions.json", listed)
    for stem in STEMS[:2]:
        binary_png(tmp_path / f"Annotations/MOSE_v_3/{stem}.png", PART)
        binary_png(tmp_path / f"Annotations/MOSE_v_4/{stem}.png", OTHER)
    report = run("reasonvos", "official", tmp_path, Given({("v", "3", "0"): always(PART)}))
    assert [one.values["J"] for one in report.scores] == [1.0, 0.0]
    assert report.to_json()["missing"] == ["v/4/0"]


def test_reasonvos_o3_scores_all_frames(tmp_path: Path) -> None:
    listed = {"videos": {"v": meta({"0": {"anno_id": 3}})}}
    write_json(tmp_path / "meta_expressions_format.json", listed)
    write_json(tmp_path / "mask_dict.json", {"3": codes(PART, PART, None, None)})
    report = run("reasonvos", "o3", tmp_path, Given({("v", "0"): always(PART)}))
    assert report.scores[0].values == {"J": 0.5, "F": 0.5}


@pytest.fixture
def groundmore(tmp_path: Path) -> Path:
    """A clip of 60 frames from 01:30 on; the action is from 01:32 to 01:34: frames 12 to 23."""
    video = "abcdefghijk_0130_0140"
    asked = {"question": "?", "answer": "x", "action_start": "01:32", "action_end": "01:34"}
    questions = {
        "1": {**asked, "q_type": "Causal", "obj_id": "2"},
        "2": {**asked, "q_type": "Descriptive", "obj_id": "1, 2"},
    }
    write_json(tmp_path / "test_v2.json", {"videos": {video: {"questions": questions}}})
    stems = [f"{place:07d}" for place in range(60)]
    pictures = tmp_path / f"annotations/{video}/images"
    pictures.mkdir(parents=True)
    for stem in stems:
        (pictures / f"{stem}.jpg").touch()
        palette_png(tmp_path / f"annotations/{video}/masks/{stem}.png", 2 * PART + OTHER)
    return tmp_path


@pytest.mark.parametrize("variant", ["official", "o3"])
def test_groundmore(groundmore: Path, variant: str) -> None:
    """Evaluated are 0, 3, 6, 9, 12, ... 59: of 20 frames, 12, 15, 18, 21 lie in the window."""
    video = "abcdefghijk_0130_0140"
    sampled = [int(place) for place in np.linspace(0, 59, 20)]
    inside = sum(12 <= place <= 23 for place in sampled)
    stems = [f"{place:07d}" for place in sampled]
    assert inside == 4
    given = Given({(video, "1"): always(PART, stems), (video, "2"): always(None, stems)})
    table = run("groundmore", variant, groundmore, given).table
    assert table["Causal"]["J"] == 100 * 4 / 20
    assert table["Descriptive"]["J"] == 100 * 16 / 20
    assert table["overall"]["J"] == pytest.approx(50.0)
    right = {name: PART | OTHER if 12 <= int(name) <= 23 else None for name in stems}
    assert (
        run("groundmore", variant, groundmore, Given({(video, "2"): right})).table["Descriptive"]["J"] == 100
    )


def test_ref_davis_per_expression_counts_ids_as_text(tmp_path: Path) -> None:
    """Twelve expressions: in the pickle '10' and '11' come before '2', and codes are bytes."""
    names = {str(number): str(1 + number // 4) for number in range(12)}
    davis(tmp_path, names, [])
    write_json(
        tmp_path / "meta_expressions/valid/meta_expressions.json",
        {"videos": {"fish": meta({n: {"obj_id": o} for n, o in names.items()}, STEMS[:1])}},
    )
    shapes = {name: square(int(name) * 2, 3, 5) for name in names}
    stored = {
        str(place): [{"size": [24, 32], "counts": Rle.encode(shapes[name]).counts.encode()}]
        for place, name in enumerate(sorted(names))
    }
    write_pickle(tmp_path / "valid/mask_dict.pkl", stored)
    given = {("fish", name): {"00000": shape} for name, shape in shapes.items()}
    report = run("ref-davis17", "o3", tmp_path, Given(given))
    assert report.family == "per_expression"
    assert report.table["overall"] == {"J": 100.0, "F": 100.0, "JF": 100.0}


def labelmap(folder: Path, given: dict[str, Any], **more: Any) -> Report:
    table = protocol("ref-davis17")
    entries = {("fish", name): masks for name, masks in given.items()}
    items = load_items(table, folder)
    return score_labelmaps(table, items, folder / "valid/Annotations", Given(entries), **more)


def test_ref_davis_families_differ(tmp_path: Path) -> None:
    """Swapped predictions: the assignment forgives them in the label maps, not one by one."""
    folder = davis(tmp_path, {"0": "1", "4": "2"}, [PART + 2 * OTHER] * 2)
    swapped = {"0": always(OTHER, STEMS[:2]), "4": always(PART, STEMS[:2])}
    assert labelmap(folder, swapped).table["overall"]["JF"] == 100
    entries = {("fish", name): masks for name, masks in swapped.items()}
    assert run("ref-davis17", "o3", folder, Given(entries)).table["overall"]["JF"] == 0


def test_ref_davis_void_and_competition(tmp_path: Path) -> None:
    """Void at the right border leaves both sides; of two that claim a pixel the lower object gets it."""
    void = square(28, 0, 24)[:24]
    folder = davis(tmp_path, {"0": "1", "4": "2"}, [np.where(void, 255, PART + 2 * OTHER)])
    given = {"0": {"00000": PART | void}, "4": {"00000": OTHER | PART | void}}
    assert labelmap(folder, given).table["overall"]["J"] == 100
    apart = run("ref-davis17", "o3", folder, Given({("fish", n): m for n, m in given.items()}))
    first = 64 / (64 + void.sum())
    assert apart.scores[0].values["J"] == first
    assert apart.scores[1].values["J"] == 64 / (128 + void.sum())


def test_ref_davis_objects_without_text_count(tmp_path: Path) -> None:
    folder = davis(tmp_path, {"0": "1", "2": "1"}, [PART + 2 * OTHER])
    report = labelmap(folder, {"0": {"00000": PART}, "2": {"00000": FULL}})
    assert list(report.table) == ["anno_0", "anno_2", "overall"]
    assert report.table["anno_0"]["J"] == 50
    assert report.table["anno_2"]["J"] == pytest.approx(100 / 12 / 2)
    assert report.table["overall"]["J"] == pytest.approx(100 * (1 / 2 + 1 / 24) / 2)


def test_ref_davis_what_is_missing_counts_nothing(tmp_path: Path) -> None:
    """The second object is gone after frame 0, so that an empty mask would score on frame 1."""
    folder = davis(tmp_path, {"0": "1", "4": "2"}, [PART + 2 * OTHER, PART.astype(int)])
    perfect = always(PART, STEMS[:2])
    report = labelmap(folder, {"0": perfect})
    assert [one.values["J"] for one in report.scores] == [1.0, 0.0]
    assert report.to_json()["n_missing"] == 1
    report = labelmap(folder, {"0": perfect, "4": always(None, STEMS[:2])})
    assert [one.values["J"] for one in report.scores] == [1.0, 0.5]
    report = labelmap(folder, {"0": perfect, "4": {"00000": OTHER}})
    assert [one.values["J"] for one in report.scores] == [1.0, 0.5]
    assert report.scores[1].missing_frames == ("00001",)
    with pytest.raises(DatasetError, match="sample fish/4, prediction: broken"):
        labelmap(folder, {"0": perfect, "4": "broken"})
    report = labelmap(folder, {"0": perfect, "4": "broken"}, lenient=True)
    assert [one.problem for one in report.scores] == ["", "broken"]


def test_every_benchmark_has_an_official_protocol_and_names_are_unique() -> None:
    names = [(table.benchmark, table.name) for table in TABLE]
    assert len(set(names)) == len(names) == 17
    assert {name for name, variant in names if variant == "official"} == {name for name, _ in names}
    with pytest.raises(UsageError, match="there are mevis"):
        protocol("mevis", "best")


def test_a_split_without_masks_says_so(tmp_path: Path) -> None:
    write_json(tmp_path / "valid/meta_expressions.json", {"videos": {"v": meta({"0": {}})}})
    with pytest.raises(DatasetError, match="only the benchmark's server"):
        load_items(protocol("mevis"), tmp_path, "valid")


def test_label_maps_have_their_own_entry(tmp_path: Path) -> None:
    folder = davis(tmp_path, {"0": "1"}, [PART.astype(int)])
    with pytest.raises(UsageError, match="score_labelmaps"):
        run("ref-davis17", "official", folder, Given())
    with pytest.raises(DatasetError, match="1 expressions, 244 were published"):
        labelmap(folder, {}, split="valid")
    assert len(labelmap(folder, {}, split="valid", allow_counts=True).mismatch) == 2
