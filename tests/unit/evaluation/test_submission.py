"""Zips for servers: what is in them, what is refused, and that the score survives the way there and back."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_builders import jpegs, square, write_json, write_pickle
from eval_builders import FULL, OTHER, PART, STEMS, Given, always, davis, meta, mevis_set, revos_set
from videoseg.errors import DatasetError, OutputError, UsageError
from videoseg.evaluation.benchmark import evaluate
from videoseg.evaluation.predictions import open_predictions
from videoseg.evaluation.protocols import protocol
from videoseg.evaluation.scoring import Report, load_items
from videoseg.evaluation.submission import layout_of, write_zip
from videoseg.masks import Rle


def round_trip(name: str, variant: str, data: Path, given: Given, out: Path) -> tuple[Report, Report]:
    """Scores of the predictions, and of the zip made from them."""
    table = protocol(name, variant)
    items = load_items(table, data)
    write_zip(table, items, given, out)
    before = evaluate(table, items, given, folder=data, allow_counts=True)
    with open_predictions(out, items) as opened:
        after = evaluate(table, items, opened.predictions, folder=data, allow_counts=True)
    return before, after


def names(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as packed:
        return packed.namelist()


def picture(path: Path, name: str) -> np.ndarray:
    with zipfile.ZipFile(path) as packed:
        return np.array(Image.open(io.BytesIO(packed.read(name))))


UNEVEN = {"00000": PART | OTHER, "00001": FULL, "00002": None, "00003": PART}


@pytest.mark.parametrize(("variant", "top"), [("official", ""), ("o3", "Annotations/")])
def test_mevis_there_and_back(tmp_path: Path, variant: str, top: str) -> None:
    data, out = mevis_set(tmp_path / "data"), tmp_path / "x.zip"
    given = Given({("v", "0"): UNEVEN, ("v", "1"): always(PART), ("v", "10"): always(OTHER)})
    before, after = round_trip("mevis", variant, data, given, out)
    assert before == after
    assert 0 < before.table["overall"]["JF"] < 100
    assert names(out)[:4] == [f"{top}v/0/{stem}.png" for stem in STEMS]
    assert set(np.unique(picture(out, f"{top}v/0/00000.png"))) == {0, 255}
    assert not picture(out, f"{top}v/0/00002.png").any()


def test_revos_there_and_back(tmp_path: Path) -> None:
    """Pictures hold 0 and 1, because the script computes A and R from the values."""
    data, out = revos_set(tmp_path / "data"), tmp_path / "x.zip"
    wider = square(4, 6, 10)
    given = Given(
        {("TAO/x", name): {"00000": mask} for name, mask in (("0", wider), ("1", PART), ("2", FULL))}
    )
    before, after = round_trip("revos", "official", data, given, out)
    assert before == after
    assert 0 < before.table["overall"]["R"] < 100
    assert names(out) == ["TAO/x/0/00000.png", "TAO/x/1/00000.png", "TAO/x/2/00000.png"]
    assert picture(out, "TAO/x/1/00000.png").max() == 1


@pytest.fixture
def fish(tmp_path: Path) -> Path:
    """Two objects with two texts each, and O3's pickle of the same masks."""
    texts = {"0": "1", "2": "1", "4": "2", "6": "2"}
    data = davis(tmp_path / "data", texts, [PART + 2 * OTHER, PART + 2 * OTHER])
    codes = {"0": PART, "2": PART, "4": OTHER, "6": OTHER}
    stored = {str(place): [Rle.encode(codes[name]).to_coco()] * 2 for place, name in enumerate(sorted(codes))}
    write_pickle(data / "valid/mask_dict.pkl", stored)
    jpegs(data / "valid/JPEGImages/fish", STEMS[:2])
    return data


GIVEN = {"0": PART, "2": FULL, "4": OTHER | PART, "6": OTHER}


@pytest.mark.parametrize("variant", ["official", "o3"])
def test_ref_davis_there_and_back(tmp_path: Path, fish: Path, variant: str) -> None:
    """Objects that overlap lose pixels in label maps, before and after alike."""
    out = tmp_path / "x.zip"
    given = Given({("fish", name): always(mask, STEMS[:2]) for name, mask in GIVEN.items()})
    before, after = round_trip("ref-davis17", variant, fish, given, out)
    assert before == after
    assert 0 < before.table["overall"]["JF"] < 100
    if variant == "official":
        assert names(out) == [f"anno_{a}/fish/{stem}.png" for a in (0, 2) for stem in STEMS[:2]]
        assert (picture(out, "anno_0/fish/00000.png") == PART + 2 * OTHER).all()
        with zipfile.ZipFile(out) as packed:
            assert Image.open(io.BytesIO(packed.read("anno_0/fish/00000.png"))).mode == "P"


def test_a_split_that_only_the_server_can_score(tmp_path: Path) -> None:
    home = tmp_path / "mevis/valid"
    write_json(home / "meta_expressions.json", {"videos": {"v": meta({"0": {}})}})
    jpegs(home / "JPEGImages/v", STEMS)
    table = protocol("mevis")
    items = load_items(table, tmp_path / "mevis", "valid", masks=False)
    written = write_zip(table, items, Given({("v", "0"): always(PART)}), tmp_path / "x.zip")
    assert (written.pictures, written.filled) == (4, ())


BAD: list[tuple[dict[tuple[str, ...], Any], str]] = [
    ({("v", "0"): UNEVEN}, r"2 of 3 expressions .*v/1: there is no prediction; v/10: there is no prediction"),
    (
        {("v", "0"): UNEVEN, ("v", "1"): always(PART, STEMS[:3]), ("v", "10"): UNEVEN},
        r"v/1: 1 frames .*00003",
    ),
    (
        {name: always(np.ones((5, 5), dtype=bool)) for name in (("v", "0"), ("v", "1"), ("v", "10"))},
        r"3 of 3 .*frame 00000: mask of 5x5, the video is 24x32",
    ),
    ({("v", "0"): "cut off", ("v", "1"): UNEVEN, ("v", "10"): UNEVEN}, "1 of 3 expressions .*v/0: cut off"),
]


@pytest.mark.parametrize(("entries", "message"), BAD)
def test_nothing_incomplete_is_packed(tmp_path: Path, entries: Any, message: str) -> None:
    table, out = protocol("mevis"), tmp_path / "x.zip"
    items = load_items(table, mevis_set(tmp_path / "data"))
    with pytest.raises(DatasetError, match=message):
        write_zip(table, items, Given(entries), out)
    assert list(tmp_path.glob("*.zip")) == list(tmp_path.glob(".*.zip")) == []


def test_missing_masks_can_be_filled(tmp_path: Path) -> None:
    table, out = protocol("mevis"), tmp_path / "x.zip"
    items = load_items(table, mevis_set(tmp_path / "data"))
    written = write_zip(table, items, Given({("v", "0"): always(PART, STEMS[:1])}), out, fill=True)
    assert (written.pictures, written.filled) == (12, ("v/0", "v/1", "v/10"))
    assert not picture(out, "v/1/00000.png").any()


def test_equal_masks_give_equal_bytes(tmp_path: Path) -> None:
    table = protocol("revos")
    items = load_items(table, revos_set(tmp_path / "data"))
    given = Given({item.key: {"00000": PART} for item in items})
    for name in ("a", "b"):
        write_zip(table, items, given, tmp_path / f"{name}.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_names_that_lead_elsewhere(tmp_path: Path) -> None:
    home = tmp_path / "data/valid_u"
    write_json(home / "meta_expressions.json", {"videos": {"../v": meta({"0": {"anno_id": [7]}})}})
    write_json(home / "mask_dict.json", {"7": [None] * 4})
    (home / "JPEGImages").mkdir()
    jpegs(home / "v", STEMS)
    table = protocol("mevis")
    items = load_items(table, tmp_path / "data")
    with pytest.raises(DatasetError, match="cannot be packed"):
        write_zip(table, items, Given({("../v", "0"): always(PART)}), tmp_path / "x.zip")


def test_places_and_benchmarks_without_a_zip(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"groundmore .* takes no zip"):
        layout_of(protocol("groundmore"))
    table, data = protocol("revos"), revos_set(tmp_path / "data")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        write_zip(table, load_items(table, data), Given(), tmp_path / "file/x.zip", fill=True)
