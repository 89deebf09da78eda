"""Every benchmark from its official folder through the queue to a report, with frames, by both protocols."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from data_builders import binary_png, code, jpegs, palette_png, write_json
from eval_builders import OTHER, PART, STEMS, davis, meta, mevis_set, revos_set
from eval_stub import StubSetup
from videoseg.evaluation.protocols import TABLE
from videoseg.evaluation.runner import Settings, run
from videoseg.evaluation.session import Asked, Session


def ref_ytvos(root: Path) -> None:
    listed = {"videos": {"v": meta({"0": {"obj_id": "1"}, "1": {"obj_id": "2"}})}}
    write_json(root / "meta_expressions/valid/meta_expressions.json", listed)
    jpegs(root / "valid/JPEGImages/v", STEMS)
    for stem in STEMS:
        palette_png(root / f"valid/Annotations/v/{stem}.png", PART + 2 * OTHER)


def ref_davis(root: Path) -> None:
    davis(root, {"0": "1", "1": "1", "4": "2"}, [PART + 2 * OTHER] * 4)
    jpegs(root / "valid/JPEGImages/fish", STEMS)


def ref_sav(root: Path) -> None:
    questions = {"0": {"anno_id": [5], "type_id": 0}, "1": {"anno_id": [5], "type_id": 1}}
    listed = {"videos": {"sav_1": meta(questions, height=24, width=32)}}
    write_json(root / "meta_expressions_valid.json", listed)
    write_json(root / "mask_dict.json", {"5": [code(PART)] * 3 + [None]})
    jpegs(root / "videos/sav_1", STEMS)


def long_rvos(root: Path) -> None:
    """The video that `o3` leaves out, and one that it keeps."""
    videos = {}
    for video in ("71fa", "71fb69bbcd"):
        kinds = ("static", "dynamic", "hybrid")
        videos[video] = meta({str(i): {"obj_id": 1, "type": kind} for i, kind in enumerate(kinds)})
        jpegs(root / f"valid/JPEGImages/{video}", STEMS)
        binary_png(root / f"valid/Annotations/{video}/1/00001.png", PART)
    write_json(root / "valid/meta_expressions.json", {"videos": videos})


def revos(root: Path) -> None:
    revos_set(root)
    jpegs(root / "JPEGImages/TAO/x", STEMS[:1])


def reasonvos(root: Path) -> None:
    """As published and, with the same questions, as O3 stores it again."""
    questions = [{"obj_id": 3, "exp_id": 0, "exp_text": "one", "is_sent": True}]
    listed = {"source": "MOSE", "frames": STEMS, "expressions": questions}
    write_json(root / "meta_expressions.json", {"videos": {"v": listed}})
    again = {"videos": {"v": meta({"0": {"anno_id": 3}})}}
    write_json(root / "meta_expressions_format.json", again)
    write_json(root / "mask_dict.json", {"3": [code(PART)] * 4})
    jpegs(root / "JPEGImages/v", STEMS)
    for stem in STEMS[:3]:
        binary_png(root / f"Annotations/MOSE_v_3/{stem}.png", PART)


def groundmore(root: Path) -> None:
    asked = {"question": "?", "answer": "x", "action_start": "01:32", "action_end": "01:34"}
    questions = {"1": {**asked, "q_type": "Causal", "obj_id": "2"}}
    write_json(root / "test_v2.json", {"videos": {"abcdefghijk_0130_0140": {"questions": questions}}})
    home = root / "annotations/abcdefghijk_0130_0140"
    stems = [f"frame_{place:06d}" for place in range(22)]
    jpegs(home / "images", stems)
    for stem in stems:
        palette_png(home / f"masks/{stem}.png", 2 * PART)


MAKERS: dict[str, Callable[[Path], object]] = {
    "mevis": mevis_set,
    "ref-ytvos": ref_ytvos,
    "ref-davis17": ref_davis,
    "ref-sav": ref_sav,
    "long-rvos": long_rvos,
    "revos": revos,
    "reasonvos": reasonvos,
    "groundmore": groundmore,
}
CASES = [(table.benchmark, table.name) for table in TABLE if table.benchmark != "world"]


@pytest.mark.parametrize(("benchmark", "variant"), CASES)
def test_from_folder_to_report(tmp_path: Path, benchmark: str, variant: str) -> None:
    MAKERS[benchmark](tmp_path / "data")
    (tmp_path / "notes").mkdir()
    asked = Asked(benchmark, tmp_path / "data", variant, allow_counts=True)
    session = Session.open(asked, Settings(), tmp_path / "out")
    run(session.store, session.groups, StubSetup(tmp_path / "notes"))
    assert session.failures() == {}
    content = session.report()
    assert content["n_scored"] == content["n_expected"] > 0
    assert content["missing_frames"] == {}
    # An object of a label map that no text asks for has a score, but no dialogue.
    textless = {"fish/anno_1/2"} if content["family"] == "labelmap" else set()
    assert set(content["facts"]) == set(content["items"]) - textless
    assert all(0 < row["JF"] < 100 for row in content["scores"].values())
    assert content["provenance"]["videos"] == (2 if (benchmark, variant) == ("long-rvos", "official") else 1)
    assert content["provenance"]["frames"] == sum(len(g.footage.files) for g in session.groups)


def test_all_benchmarks_are_there() -> None:
    assert set(MAKERS) == {benchmark for benchmark, _ in CASES}
