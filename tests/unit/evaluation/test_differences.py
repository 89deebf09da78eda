"""What the variants of a protocol, or careless scripts, would count differently (benchmarks §5.2)."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from data_builders import binary_png, palette_png, square, write_json
from eval_builders import FULL, PART, STEMS, Given, always, codes, meta, mevis_set
from videoseg.errors import DatasetError
from videoseg.evaluation.protocols import protocol
from videoseg.evaluation.scoring import load_items, score


@pytest.mark.parametrize("variant", ["official", "o3"])
def test_a_video_without_any_prediction_stays_in_the_mean(tmp_path: Path, variant: str) -> None:
    """O3's scorer drops it."""
    table = protocol("mevis", variant)
    report = score(table, load_items(table, mevis_set(tmp_path)), Given())
    assert report.table["overall"] == {"J": 0.0, "F": 0.0, "JF": 0.0}
    assert report.to_json()["n_missing"] == 3


@pytest.fixture
def mixed_ytvos(tmp_path: Path) -> Path:
    """Video v of the validation split, and w, which the file of the test split lists as well."""
    one = {"0": {"obj_id": "1"}}
    both = {"v": meta(one, STEMS[:1]), "w": meta(one, STEMS[:1])}
    write_json(tmp_path / "meta_expressions/valid/meta_expressions.json", {"videos": both})
    write_json(tmp_path / "meta_expressions/test/meta_expressions.json", {"videos": {"w": both["w"]}})
    for video in both:
        palette_png(tmp_path / f"valid/Annotations/{video}/00000.png", PART.astype(int))
    return tmp_path


def test_only_o3_scores_the_test_videos_of_ref_ytvos(mixed_ytvos: Path) -> None:
    given = Given({("v", "0"): {"00000": PART}})
    scored = {
        name: score(table, load_items(table, mixed_ytvos), given)
        for name in ("official", "o3")
        if (table := protocol("ref-ytvos", name))
    }
    assert [one.key[0] for one in scored["official"].scores] == ["v"]
    assert scored["official"].table["overall"]["J"] == 100
    assert [one.key[0] for one in scored["o3"].scores] == ["v", "w"]
    assert scored["o3"].table["overall"]["J"] == 50
    assert scored["o3"].remark == "no filter of the 202 videos"


@pytest.mark.parametrize("thing", [0, "12"])
@pytest.mark.parametrize("variant", ["official", "o3"])
def test_object_0_and_object_12_of_long_rvos_are_themselves(
    tmp_path: Path, variant: str, thing: int | str
) -> None:
    """O3's scorer finds no object 0, and objects 1 and 2 for "12"; the report says it is not reproduced."""
    home = tmp_path / "valid"
    videos = {"v": meta({"0": {"obj_id": thing, "type": "static"}}, STEMS[:1])}
    write_json(home / "meta_expressions.json", {"videos": videos})
    for name, mask in (("0", PART), ("12", PART), ("1", FULL), ("2", FULL)):
        binary_png(home / f"Annotations/v/{name}/00000.png", mask)
    table = protocol("long-rvos", variant)
    report = score(table, load_items(table, tmp_path), Given({("v", "0"): {"00000": PART}}))
    assert report.table["overall"]["J"] == 100
    assert ("obj_id is not reproduced" in report.remark) == (variant == "o3")


def test_positions_beside_a_short_list_of_long_rvos(tmp_path: Path) -> None:
    """J over what was looked at, 0 on its missing frames; official counts those as empty masks."""
    home = tmp_path / "valid"
    videos = {"v": meta({"0": {"obj_id": 1, "type": "hybrid"}})}
    write_json(home / "meta_expressions.json", {"videos": videos})
    for stem in STEMS[:2]:
        binary_png(home / f"Annotations/v/1/{stem}.png", PART)
    given = Given({("v", "0"): {"00000": PART}}, sampled=(0, 1, 3), keyframes=(0,))
    found = {}
    for name in ("official", "o3"):
        table = protocol("long-rvos", name)
        (found[name],) = score(table, load_items(table, tmp_path), given).scores
    assert found["official"].values == {"J": 3 / 4, "F": 3 / 4, "tIoU": 1 / 2, "vIoU": 1 / 2}
    assert found["o3"].values == {"J": 1 / 4, "F": 1 / 4, "J_sampled": 1 / 3, "J_key": 1.0}


@pytest.mark.parametrize("name", ["revos", "ref-sav"])
def test_items_are_rounded_before_they_are_averaged(tmp_path: Path, name: str) -> None:
    """Three thirds: 33.33 each, although their mean is 33.333."""
    third = square(4, 6, 8) & (np.arange(32) < 12)
    part = third & (np.arange(24)[:, None] < 100)
    truth = np.zeros_like(part)
    truth[6:9, 4:12] = True
    guess = np.zeros_like(part)
    guess[6:7, 4:12] = True
    expressions = {str(one): {"anno_id": [1], "obj_id": [1], "type_id": 0} for one in range(3)}
    file = {"revos": "meta_expressions_valid_.json", "ref-sav": "meta_expressions_valid.json"}[name]
    listed = {"videos": {"v": meta(expressions, STEMS[:1], height=24, width=32)}}
    write_json(tmp_path / file, listed)
    write_json(tmp_path / "mask_dict.json", {"1": codes(truth)})
    table = protocol(name)
    given = Given({("v", str(one)): {"00000": guess} for one in range(3)})
    report = score(table, load_items(table, tmp_path), given)
    assert report.scores[0].values["J"] == 1 / 3
    assert report.table[table.groups[0]]["J"] == 33.33


@pytest.mark.parametrize("variant", ["official", "o3"])
def test_groundmore_takes_sorted_pictures_of_either_name_and_counts_doubles(
    tmp_path: Path, variant: str
) -> None:
    """12 pictures, listed in any order: 20 places fall on them, some twice; 0 to 5 are in the window."""
    video = "abcdefghijk_0130_0132"
    asked = {"question": "?", "answer": "x", "q_type": "Sequential", "obj_id": 2}
    times = {"action_start": "01:30", "action_end": "01:31"}
    write_json(tmp_path / "test_v2.json", {"videos": {video: {"questions": {"1": {**asked, **times}}}}})
    stems = [f"frame_{place:06d}" for place in range(12)]
    pictures = tmp_path / f"annotations/{video}/images"
    pictures.mkdir(parents=True)
    for stem in random.Random(3).sample(stems, 12):
        (pictures / f"{stem}.jpg").touch()
        palette_png(tmp_path / f"annotations/{video}/masks/{stem}.png", 2 * PART)
    table = protocol("groundmore", variant)
    (item,) = load_items(table, tmp_path)
    places = np.linspace(0, 11, 20).astype(int)
    assert item.frames == tuple(stems[place] for place in places)
    report = score(table, [item], Given({item.key: always(PART, stems)}))
    assert report.table["Sequential"]["J"] == pytest.approx(100 * (places <= 5).mean())


def test_reasonvos_takes_the_size_from_the_truth(tmp_path: Path) -> None:
    """O3's scorer takes it from the prediction and leaves the truth empty where the two differ."""
    listed = {"videos": {"v": {"source": "MOSE", "frames": STEMS, "expressions": [
        {"obj_id": 3, "exp_id": 0, "exp_text": "q", "is_sent": True}
    ]}}}  # fmt: skip
    write_json(tmp_path / "meta_expressions.json", listed)
    binary_png(tmp_path / "Annotations/MOSE_v_3/00000.png", PART)
    table = protocol("reasonvos")
    given = Given({("v", "3", "0"): {"00000": np.zeros((5, 5), dtype=bool)}})
    with pytest.raises(DatasetError, match="mask of 5x5, 24x32"):
        score(table, load_items(table, tmp_path), given)


def test_the_world_is_grouped_by_family(tmp_path: Path) -> None:
    """Overall weighs families equally: two queries of one, one of the other."""
    home = tmp_path / "video_datas/mevis/test"
    kinds = {"a": "motion", "b": "motion", "c": "none"}
    videos = {
        name: meta({"0": {"anno_id": [7] if kind == "motion" else [], "family": kind}}, STEMS[:1])
        for name, kind in kinds.items()
    }
    write_json(home / "meta_expressions.json", {"videos": videos})
    write_json(home / "mask_dict.json", {"7": codes(PART)})
    table = protocol("world")
    given = Given({("a", "0"): {"00000": PART}, ("c", "0"): {"00000": None}})
    report = score(table, load_items(table, tmp_path), given)
    assert (report.table["motion"]["J"], report.table["none"]["J"]) == (50, 100)
    assert report.table["overall"]["J"] == 75
