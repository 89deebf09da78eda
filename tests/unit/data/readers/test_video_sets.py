"""MeViS, ReVOS, Ref-YouTube-VOS and Long-RVOS in their official layouts."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_builders import (
    HEIGHT,
    WIDTH,
    binary_png,
    code,
    edit_json,
    jpegs,
    make_mevis,
    make_revos,
    palette_png,
    square,
    write_json,
    write_pickle,
)
from videoseg.data.readers import open_dataset
from videoseg.data.readers.long_rvos import LongRvosReader
from videoseg.data.readers.mevis import MevisReader
from videoseg.data.readers.ref_ytvos import RefYtvosReader
from videoseg.data.readers.revos import RevosReader
from videoseg.errors import DatasetError
from videoseg.masks import Rle


def test_mevis_samples_come_per_video_with_expressions_in_natural_order(tmp_path: Path) -> None:
    reader = MevisReader(make_mevis(tmp_path / "mevis"))
    assert [sample.origin.key for sample in reader] == ["v1/0", "v1/2", "v1/10", "v2/0"]
    assert list(reader.groups) == [range(3), range(3, 4)]
    assert reader.counts() == {"videos": 2, "expressions": 4}
    assert "1 videos list their frames out of order" in reader.notes()


def test_mevis_objects_are_joined_and_null_is_absent(tmp_path: Path) -> None:
    both = MevisReader(make_mevis(tmp_path / "mevis"))[2]
    assert both.targets is not None
    assert [target.id for target in both.targets] == ["7", "8"]
    first, second = both.masks([0, 1])
    assert (first.decode() == (square() | square(left=8))).all()
    assert second == Rle.encode(square())


def test_mevis_masks_follow_the_frame_names_and_not_the_order_of_the_list(tmp_path: Path) -> None:
    """The list says 2, 10, 1: time order is 1, 2, 10, and the masks move along."""
    sample = MevisReader(make_mevis(tmp_path / "mevis"))[3]
    assert [sample.frames.name(i) for i in range(3)] == ["00001.jpg", "00002.jpg", "00010.jpg"]
    lefts = [mask.box[0] for mask in sample.masks([0, 1, 2])]
    assert lefts == [0, 10, 20]
    assert sample.frames.read([0])[0].shape == (HEIGHT, WIDTH, 3)


def test_mevis_takes_the_folder_of_the_split_too(tmp_path: Path) -> None:
    root = make_mevis(tmp_path / "mevis")
    assert len(MevisReader(root / "train")) == 4


def test_mevis_valid_has_no_masks_and_says_so(tmp_path: Path) -> None:
    sample = MevisReader(make_mevis(tmp_path / "mevis", "valid"), "valid")[0]
    assert sample.targets is None
    with pytest.raises(DatasetError, match=r"meta_expressions\.json: sample v1/0, masks: .*without masks"):
        sample.masks([0])


def test_a_reader_does_not_hold_the_masks(tmp_path: Path) -> None:
    reader = MevisReader(make_mevis(tmp_path / "mevis"))
    assert len(pickle.dumps(reader)) < 12_000
    edit_json(tmp_path / "mevis/train/mask_dict.json", lambda data: None)
    copied = pickle.loads(pickle.dumps(reader))
    assert copied[0].masks([0]) == reader[0].masks([0])


def break_meta(path: str, value: Any) -> Any:
    def change(data: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        inner: Any = data
        for name in parents:
            inner = inner[name]
        if value is KeyError:
            del inner[last]
        else:
            inner[last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("videos.v1.expressions.2.exp", KeyError, "sample v1/2, exp: missing; there are obj_id, anno_id"),
        ("videos.v1.expressions.2.exp", "  ", "sample v1/2, exp: the text is empty"),
        ("videos.v1.expressions.2.anno_id", [99], r"sample v1/2, anno_id: 99 is not in .*mask_dict\.json"),
        ("videos.v1.expressions.2.anno_id", [1.5], "sample v1/2, anno_id: .1.5. is no id"),
        ("videos.v1.expressions.2.anno_id", KeyError, "sample v1/2, anno_id: missing"),
        ("videos.v1.frames", [], "sample v1/2, frames: the list is empty"),
        ("videos.v1.frames", ["00000", "00000"], "sample v1/2, frames: frame '00000' is listed twice"),
        ("videos.v1.frames", "00000", "sample v1/2, frames: '00000' is no list"),
    ],
)
def test_bad_mevis_entries_name_file_sample_and_field(
    tmp_path: Path, path: str, value: Any, words: str
) -> None:
    root = make_mevis(tmp_path / "mevis")
    edit_json(root / "train/meta_expressions.json", break_meta(path, value))
    with pytest.raises(DatasetError, match=words) as caught:
        _ = MevisReader(root)[1]
    assert "meta_expressions.json" in str(caught.value)


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        ([None], "object 8: 1 masks for 3 frames"),
        ("x", "object 8: masks are a list"),
        ([code(square(height=30)), None, None], "frame 0: mask of 30x32, the frame 00000.jpg is 24x32"),
        ([{"size": [24, 32], "counts": "04"}, None, None], "object 8: mask 0: counts cover 4 pixels"),
    ],
)
def test_bad_masks_name_the_object_and_the_frame(tmp_path: Path, masks: Any, words: str) -> None:
    root = make_mevis(tmp_path / "mevis")
    edit_json(root / "train/mask_dict.json", break_meta("8", masks))
    with pytest.raises(DatasetError, match=words) as caught:
        MevisReader(root)[1].masks([0])
    assert "sample v1/2" in str(caught.value)


def test_a_missing_frame_is_named(tmp_path: Path) -> None:
    root = make_mevis(tmp_path / "mevis")
    (root / "train/JPEGImages/v1/00001.jpg").unlink()
    sample = MevisReader(root)[0]
    assert [path.name for path in sample.frames.missing()] == ["00001.jpg"]
    with pytest.raises(DatasetError, match=r"sample v1/0, frames: .*00001\.jpg: no such file"):
        sample.masks([1])


@pytest.mark.parametrize(
    "name", ["mevis", "revos", "ref-ytvos", "long-rvos", "refcoco", "gcg-grandf", "ref-sav"]
)
def test_an_empty_folder_says_what_was_looked_for(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match="Check the folder and its layout"):
        open_dataset(name, tmp_path)
    with pytest.raises(DatasetError, match=f"no such folder; give the folder of {name.replace('+', '.')}"):
        open_dataset(name, tmp_path / "nothing")


@pytest.mark.parametrize("packed", [False, True])
def test_revos_with_and_without_its_image_folder(tmp_path: Path, packed: bool) -> None:
    reader = RevosReader(make_revos(tmp_path / "ReVOS", packed=packed))
    assert [sample.kind for sample in reader] == ["referring", "reasoning", "no_target", "referring"]
    joined = reader[1].masks([0, 1])
    assert (joined[0].decode() == (square() | square(left=18))).all()
    assert (joined[1].decode() == square(left=18)).all()
    assert reader[3].frames.read([1])[0].shape == (HEIGHT, WIDTH, 3)
    assert "types: referring 2, reasoning 1, no_target 1" in reader.notes()


def test_revos_without_a_target_has_empty_masks_of_the_frame_size(tmp_path: Path) -> None:
    sample = RevosReader(make_revos(tmp_path / "ReVOS"))[2]
    assert sample.targets == ()
    assert sample.masks([0, 1]) == [Rle.empty(HEIGHT, WIDTH)] * 2
    assert sample.presence([0]) == [False]


def test_revos_without_objects_but_of_another_type_is_an_error(tmp_path: Path) -> None:
    root = make_revos(tmp_path / "ReVOS")
    edit_json(root / "meta_expressions_train_.json", break_meta("videos.UVO/all/y.expressions.0.anno_id", []))
    with pytest.raises(DatasetError, match="sample UVO/all/y/0, anno_id: empty, but type_id is 0"):
        _ = RevosReader(root)[3]


def make_ytvos(root: Path) -> Path:
    """Two videos in an order that is not sorted, and more than ten expressions, as in the numbering trap."""
    expressions = {str(i): {"exp": f"object of text {i}", "obj_id": "1" if i % 2 else "2"} for i in range(11)}
    videos = {
        "b": {"frames": ["00000", "00005"], "expressions": expressions},
        "a": {"frames": ["00000", "00005"], "expressions": {"0": {"exp": "the square", "obj_id": "1"}}},
    }
    write_json(root / "meta_expressions/train/meta_expressions.json", {"videos": videos})
    write_json(root / "train/meta.json", {"videos": {"b": {"objects": {"1": {"category": "square"}}}}})
    for video in videos:
        jpegs(root / "train/JPEGImages" / video, ["00000", "00005"])
        for stem in ("00000", "00005"):
            labels = square().astype(int) + 2 * square(left=18)
            palette_png(root / "train/Annotations" / video / f"{stem}.png", labels)
    return root


def test_ref_ytvos_reads_the_pixel_value_of_the_object(tmp_path: Path) -> None:
    reader = RefYtvosReader(make_ytvos(tmp_path))
    assert reader.counts() == {"videos": 2, "expressions": 12}
    by_text = {sample.query: sample for sample in reader}
    assert by_text["object of text 1"].masks([1]) == [Rle.encode(square())]
    assert by_text["object of text 2"].masks([1]) == [Rle.encode(square(left=18))]
    assert "masks: palette PNGs" in reader.notes()


def test_ref_ytvos_pickle_counts_over_sorted_videos_and_text_sorted_expressions(tmp_path: Path) -> None:
    """Object n of the pickle is a square at column n: '10' comes before '2', and video a before b."""
    root = make_ytvos(tmp_path)
    order = ["a/0", *(f"b/{name}" for name in sorted(str(i) for i in range(11)))]
    masks = {
        str(n): [{**code(square(left=n)), "counts": code(square(left=n))["counts"].encode()}, None]
        for n in range(12)
    }
    write_pickle(root / "mask_dict.pkl", masks, protocol=4)
    (root / "train/Annotations").rename(root / "elsewhere")
    reader = RefYtvosReader(root)
    columns = {sample.origin.key: sample.masks([0])[0].box[0] for sample in reader}
    assert columns == {key: number for number, key in enumerate(order)}
    assert columns["b/10"] < columns["b/2"]
    assert reader[0].masks([1]) == [Rle.empty(HEIGHT, WIDTH)]


def test_ref_ytvos_refuses_a_pickle_of_another_file(tmp_path: Path) -> None:
    root = make_ytvos(tmp_path)
    write_pickle(root / "mask_dict.pkl", {"0": [None, None]})
    (root / "train/Annotations").rename(root / "elsewhere")
    with pytest.raises(DatasetError, match="1 objects for 12 expressions"):
        RefYtvosReader(root)


def test_ref_ytvos_names_a_missing_label_picture(tmp_path: Path) -> None:
    root = make_ytvos(tmp_path)
    (root / "train/Annotations/a/00005.png").unlink()
    sample = next(sample for sample in RefYtvosReader(root) if sample.video == "a")
    assert sample.masks([0])[0].area == 64
    with pytest.raises(DatasetError, match=r"sample a/0, masks of object 1: .*00005\.png is missing"):
        sample.masks([1])


@pytest.mark.parametrize("value", ["first", 0, 256, "-1"])
def test_ref_ytvos_object_ids_are_pixel_values(tmp_path: Path, value: Any) -> None:
    root = make_ytvos(tmp_path)
    path = root / "meta_expressions/train/meta_expressions.json"
    edit_json(path, break_meta("videos.a.expressions.0.obj_id", value))
    with pytest.raises(DatasetError, match=r"sample a/0, obj_id: .* is no pixel value"):
        _ = [sample for sample in RefYtvosReader(root) if sample.video == "a"]


def test_ref_ytvos_leaves_the_test_videos_out_of_valid(tmp_path: Path) -> None:
    entry = {"frames": ["00000"], "expressions": {"0": {"exp": "a dog"}}}
    names = [f"v{n:03d}" for n in range(5)]
    write_json(
        tmp_path / "meta_expressions/valid/meta_expressions.json", {"videos": dict.fromkeys(names, entry)}
    )
    write_json(
        tmp_path / "meta_expressions/test/meta_expressions.json", {"videos": {"v001": entry, "v004": entry}}
    )
    jpegs(tmp_path / "valid/JPEGImages/v000", ["00000"])
    reader = RefYtvosReader(tmp_path, "valid")
    assert [sample.video for sample in reader] == ["v000", "v002", "v003"]
    assert reader[0].targets is None
    assert "2 videos of the test split left out" in reader.notes()
    assert any("the validation split has 202" in note for note in reader.notes())


def make_long_rvos(root: Path, obj_id: Any = 1) -> Path:
    """One video; object 1 is absent from frame 1 (its picture is missing), object 2 is always there."""
    home = root / "train"
    jpegs(home / "JPEGImages/71fa", ["00000", "00001"])
    binary_png(home / "Annotations/71fa/1/00000.png", square())
    for stem in ("00000", "00001"):
        binary_png(home / f"Annotations/71fa/2/{stem}.png", square(left=18))
    expressions = {
        "0": {"exp": "the one on the left", "obj_id": obj_id, "type": "static"},
        "1": {"exp": "the one that stays", "obj_id": "2", "type": "dynamic"},
    }
    write_json(
        home / "meta_expressions.json",
        {"videos": {"71fa": {"frames": ["00000", "00001"], "expressions": expressions}}},
    )
    return root


@pytest.mark.parametrize("obj_id", [1, "1", "001"])
def test_long_rvos_ids_are_numbers_or_texts(tmp_path: Path, obj_id: Any) -> None:
    reader = LongRvosReader(make_long_rvos(tmp_path / "long_rvos", obj_id))
    assert reader[0].masks([0, 1]) == [Rle.encode(square()), Rle.empty(HEIGHT, WIDTH)]
    assert [sample.kind for sample in reader] == ["static", "dynamic"]


def test_long_rvos_names_the_folders_that_there_are(tmp_path: Path) -> None:
    reader = LongRvosReader(make_long_rvos(tmp_path / "long_rvos", 5))
    with pytest.raises(DatasetError, match=r"sample 71fa/0, obj_id: .* has no folder 5; there are 1, 2"):
        _ = reader[0]


def test_long_rvos_in_the_conversion_of_o3(tmp_path: Path) -> None:
    root = make_long_rvos(tmp_path / "Long-RVOS")
    home = root / "train"
    for folder in ("1", "2"):
        for path in (home / "Annotations/71fa" / folder).iterdir():
            path.unlink()
        (home / "Annotations/71fa" / folder).rmdir()
    (home / "Annotations/71fa").rmdir()
    (home / "Annotations").rmdir()
    with pytest.raises(DatasetError, match="Annotations: no such folder"):
        _ = LongRvosReader(root)[0]
    entry = {"exp": "left", "obj_id": 1, "type": "static", "anno_id": [0]}
    videos = {"71fa": {"frames": ["00000", "00001"], "expressions": {"0": entry}}}
    write_json(home / "meta_expressions_with_anno.json", {"videos": videos})
    write_json(home / "mask_dict.json", {"0": [None, code(square())]})
    assert LongRvosReader(root)[0].masks([1]) == [Rle.encode(square())]


def test_masks_never_sum_beyond_one(tmp_path: Path) -> None:
    """Summed uint8 masks of 256 objects wrap to 0; ours are joined."""
    root = make_mevis(tmp_path / "mevis")
    edit_json(
        root / "train/mask_dict.json",
        lambda data: data.update({str(n): [code(square())] * 3 for n in range(300, 556)}),
    )
    everything = break_meta("videos.v1.expressions.0.anno_id", list(range(300, 556)))
    edit_json(root / "train/meta_expressions.json", everything)
    mask = MevisReader(root)[0].masks([0])[0]
    assert np.array_equal(mask.decode(), square())
