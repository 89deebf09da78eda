"""Every layout that predictions come in gives the same masks; what is ambiguous is refused by name."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_builders import binary_png, palette_png, write_json
from eval_builders import FULL, NONE, OTHER, PART, STEMS, davis, meta, mevis_set, revos_set
from videoseg.errors import InputError
from videoseg.evaluation.predictions import open_predictions
from videoseg.evaluation.protocols import protocol
from videoseg.evaluation.scoring import Prediction, load_items, score
from videoseg.evaluation.truth import Item
from videoseg.masks import Rle

MASKS = {"00000": PART | OTHER, "00001": PART, "00002": NONE, "00003": OTHER}


def code(mask: np.ndarray | None) -> dict[str, Any] | None:
    return None if mask is None else Rle.encode(mask).to_coco()


def pngs(folder: Path, masks: dict[str, np.ndarray] = MASKS) -> None:
    for name, mask in masks.items():
        binary_png(folder / f"{name}.png", mask)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return mevis_set(tmp_path / "data")


def items(data: Path) -> list[Item]:
    return load_items(protocol("mevis"), data)


def first(path: Path, data: Path, place: int = 0) -> Prediction | None:
    wanted = items(data)
    with open_predictions(path, wanted) as opened:
        carried = pickle.loads(pickle.dumps(opened.predictions))  # as a worker gets them
        return carried(wanted[place])


def dense(prediction: Prediction | None) -> dict[str, np.ndarray]:
    assert prediction is not None
    return {name: NONE if mask is None else mask.decode() for name, mask in prediction.masks.items()}


def as_pngs(root: Path) -> Path:
    pngs(root / "v/0")
    return root


def as_submission(root: Path) -> Path:
    pngs(root / "Annotations/v/0")
    return root


def as_zip(root: Path) -> Path:
    as_submission(root / "tree")
    path = root / "x.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for file in (root / "tree").rglob("*.png"):
            packed.write(file, file.relative_to(root / "tree"))
    return path


def as_results(root: Path) -> Path:
    """O3's file: frames in its own order, positions into that order, a keyframe beyond the video."""
    names = ["00002", "00000", "00001", "00003"]
    entry = {
        "frames": names,
        "exp": "the whole prompt",
        "prediction_masks": [code(MASKS[name]) for name in names],
        "prediction_masks_shot": [],
        "text_prediction": ["a", "b"],
        "num_rounds": 2,
        "sample_index": [1, 3],
        "keyframe_index": [0, 99, -1],
    }
    write_json(root / "round_stats.json", {})
    return write_json(root / "results.json", {"v": {"0": entry}}).parent


def as_eval_run(root: Path) -> Path:
    entry = {"frames": list(MASKS), "prediction_masks": [code(mask) for mask in MASKS.values()]}
    write_json(root / "run.json", {})
    write_json(root / "report.json", {})
    write_json(root / "predictions/v.json", {"v": {"0": entry}})
    return root


def as_codes_by_name(root: Path) -> Path:
    named = {f"{name}.jpg": code(mask) for name, mask in MASKS.items()}
    return write_json(root / "plain.json", {"v/0": named})


@pytest.mark.parametrize("write", [as_pngs, as_submission, as_zip, as_results, as_eval_run, as_codes_by_name])
def test_every_layout_gives_the_same_masks(data: Path, tmp_path: Path, write: Any) -> None:
    path = write(tmp_path / "given")
    found = dense(first(path, data))
    assert sorted(found) == STEMS
    assert all((found[name] == MASKS[name]).all() for name in STEMS)
    assert first(path, data, 1) is None


def test_the_result_file_tells_of_the_dialogue(data: Path, tmp_path: Path) -> None:
    """Positions count in the file's frames: 1 and 3 are 00000 and 00003, 0 is 00002; 99 is nowhere."""
    found = first(as_results(tmp_path / "given"), data)
    assert found is not None
    assert (found.sampled, found.keyframes, found.rounds) == ((0, 3), (2,), 2)


def test_what_nobody_asked_for_is_listed(data: Path, tmp_path: Path) -> None:
    pngs(tmp_path / "p/v/0")
    pngs(tmp_path / "p/v/7")
    pngs(tmp_path / "p/other/0")
    with open_predictions(tmp_path / "p", items(data)) as opened:
        assert opened.unexpected == ("other", "v/7")
    write_json(tmp_path / "r.json", {"v": {"0": [None] * 4, "7": []}, "other": {"0": []}})
    with open_predictions(tmp_path / "r.json", items(data)) as opened:
        assert opened.unexpected == ("other/0", "v/7")


def test_missing_frames_are_missing(data: Path, tmp_path: Path) -> None:
    pngs(tmp_path / "p/v/0", {name: MASKS[name] for name in STEMS[:2]})
    table, wanted = protocol("mevis"), items(data)
    with open_predictions(tmp_path / "p", wanted) as opened:
        report = score(table, wanted, opened.predictions)
    assert report.scores[0].missing_frames == ("00002", "00003")
    assert report.scores[0].values["J"] == 2 / 4


PROBLEMS: list[tuple[Any, str]] = [
    ([None, None], r"2 masks, but the video has 4 frames; add the field frames"),
    ([None] * 4, r"list this video's frames out of order.*add the field frames"),
    ({"prediction_masks": None}, "prediction_masks is null: VideoSEG-O3 was run for submission"),
    ({"prediction_masks": [None], "frames": ["00000", "00001"]}, "frames does not name 1 different frames"),
    ({"prediction_masks": [None] * 2, "frames": ["00000"] * 2}, "frames does not name 2 different frames"),
    ({"prediction_masks": "none"}, "a list with one code or null per frame"),
    ({"00001": {"size": [24, 32], "counts": "zz~"}}, "frame 00001: counts"),
    ({"00001": {"size": [24, 32]}}, "frame 00001: a mask is"),
    ({"prediction_masks": [], "frames": [], "trace": {"turns": []}}, "trace is not one that videoseg wrote"),
]


@pytest.mark.parametrize(("entry", "message"), PROBLEMS)
def test_entries_that_cannot_be_understood(data: Path, tmp_path: Path, entry: Any, message: str) -> None:
    path = write_json(tmp_path / "r.json", {"v": {"0": entry}})
    with pytest.raises(ValueError, match=f"r.json: .*{message}"):
        first(path, data)


def test_pictures_that_cannot_be_understood(data: Path, tmp_path: Path) -> None:
    palette_png(tmp_path / "p/v/0/00000.png", PART + 2 * OTHER)
    with pytest.raises(ValueError, match=r"00000.png holds the values 1, 2: a label map"):
        first(tmp_path / "p", data)
    pngs(tmp_path / "q/v/0", {"0": PART})
    with pytest.raises(ValueError, match=r"none is named as a frame of the video \(00000.png"):
        first(tmp_path / "q", data)
    (tmp_path / "p/v/0/00000.png").write_bytes(b"\x89PNG")
    with pytest.raises(ValueError, match=r"00000\.png cannot be read"):
        first(tmp_path / "p", data)


def test_soft_edges_count_as_object(data: Path, tmp_path: Path) -> None:
    """Any value that is not 0, as in the script of MeViS."""
    from PIL import Image

    grey = (PART * 255).astype(np.uint8)
    grey[6, 4] = 3
    (tmp_path / "p/v/0").mkdir(parents=True)
    Image.fromarray(grey).save(tmp_path / "p/v/0/00000.png")
    assert (dense(first(tmp_path / "p", data))["00000"] == PART).all()


def test_two_sets_of_predictions_are_refused(data: Path, tmp_path: Path) -> None:
    as_results(as_pngs(tmp_path / "p"))
    with pytest.raises(InputError, match=r"several sets of predictions \(PNG folders in .*; JSON files"):
        first(tmp_path / "p", data)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"w": {"0": []}}, "no prediction of this benchmark; keys are like w/0, but v/0"),
        ({"v": {"prediction_masks": []}}, "v: masks stand here, but here 2 names"),
        ([1], "a list; results are an object"),
    ],
)
def test_files_of_something_else(data: Path, tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"r.json: {message}"):
        first(write_json(tmp_path / "r.json", content), data)


def test_nothing_to_read(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        first(tmp_path / "nowhere", data)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"neither PNG folders such as v/0/00000\.png"):
        first(tmp_path / "empty", data)
    (tmp_path / "bad.zip").write_bytes(b"PK\x05\x06" + b"\x00" * 10)
    with pytest.raises(InputError, match=r"bad.zip"):
        first(tmp_path / "bad.zip", data)


def test_one_expression_in_two_files(data: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_json(tmp_path / f"p/{name}.json", {"v": {"0": [None] * 4}})
    with pytest.raises(InputError, match=r"b.json: v/0 is predicted twice \(also in .*a.json\)"):
        first(tmp_path / "p", data)


def test_label_maps_of_ref_davis(tmp_path: Path) -> None:
    """Expression 4 is text source 0 of the second object; a source without a folder is missing."""
    table = protocol("ref-davis17")
    wanted = load_items(table, davis(tmp_path / "data", {"4": "2", "5": "2"}, [PART + 2 * OTHER]))
    palette_png(tmp_path / "p/anno_0/fish/00000.png", PART + 2 * OTHER)
    with open_predictions(tmp_path / "p", wanted) as opened:
        assert (dense(opened.predictions(wanted[0]))["00000"] == OTHER).all()
        assert opened.predictions(wanted[1]) is None
    palette_png(tmp_path / "p/anno_0/fish/00000.png", 30 * PART.astype(int))
    with (
        open_predictions(tmp_path / "p", wanted) as opened,
        pytest.raises(ValueError, match="holds the value 30"),
    ):
        opened.predictions(wanted[0])


def test_reasonvos_needs_the_object_and_has_its_own_folders(tmp_path: Path) -> None:
    both = [{"obj_id": thing, "exp_id": 0, "exp_text": "q", "is_sent": True} for thing in (3, 4)]
    listed = {"videos": {"v": {"source": "MOSE", "frames": STEMS, "expressions": both}}}
    write_json(tmp_path / "data/meta_expressions.json", listed)
    for thing in (3, 4):
        binary_png(tmp_path / f"data/Annotations/MOSE_v_{thing}/00000.png", PART)
    wanted = load_items(protocol("reasonvos"), tmp_path / "data")
    pngs(tmp_path / "p/MOSE_v_4/0", {"00000": FULL})
    with open_predictions(tmp_path / "p", wanted) as opened:
        assert opened.predictions(wanted[0]) is None
        assert (dense(opened.predictions(wanted[1]))["00000"] == FULL).all()
    nested = write_json(tmp_path / "r.json", {"v": {"4": {"0": {"00000": code(FULL)}}}})
    with open_predictions(nested, wanted) as opened:
        assert opened.predictions(wanted[1]) is not None
    flat = write_json(tmp_path / "f.json", {"v": {"0": {"prediction_masks": []}}})
    with (
        pytest.raises(InputError, match=r"v/0: masks stand here, but here 3 names"),
        open_predictions(flat, wanted),
    ):
        pass


@pytest.mark.parametrize("value", [1, 255])
def test_stored_values_do_not_move_a_and_r_of_revos(tmp_path: Path, value: int) -> None:
    """The released script takes values as they are stored, so that 255 gives R = 0 (§3.6)."""
    data = revos_set(tmp_path / "data")
    palette_png(tmp_path / "p/TAO/x/1/00000.png", value * PART.astype(int))
    table = protocol("revos")
    wanted = load_items(table, data)
    with open_predictions(tmp_path / "p", wanted) as opened:
        found = score(table, wanted, opened.predictions).scores[1].values
    assert (found["J"], found["A"], found["R"]) == (1.0, 1.0, 1.0)


def test_masks_by_position_where_the_order_is_certain(tmp_path: Path) -> None:
    home = tmp_path / "data/valid_u"
    write_json(home / "meta_expressions.json", {"videos": {"v": meta({"0": {"anno_id": [7]}})}})
    write_json(home / "mask_dict.json", {"7": [code(PART)] * 4})
    path = write_json(tmp_path / "r.json", {"v": {"0": [code(mask) for mask in MASKS.values()]}})
    found = dense(first(path, tmp_path / "data"))
    assert all((found[name] == MASKS[name]).all() for name in STEMS)
