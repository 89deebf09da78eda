from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_builders import HEIGHT, WIDTH, binary_png, code, jpegs, mp4, palette_png, reply, square
from videoseg.data.own import OwnReader, write_rows
from videoseg.data.readers import READERS, open_dataset
from videoseg.data.sample import TraceSample
from videoseg.errors import DatasetError, OutputError, UsageError
from videoseg.masks import Rle

POLYGON = [4, 6, 12, 6, 12, 14, 4, 14]


def make_own(root: Path, *rows: dict[str, Any]) -> OwnReader:
    """A folder with a video file, a folder of frames and one image, and the rows given."""
    mp4(root / "clips/a.mp4", 3)
    jpegs(root / "frames/b", ["f1", "f2", "f10"])
    (root / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return OwnReader(root)


def row(**change: Any) -> dict[str, Any]:
    return {
        "video": "clips/a.mp4",
        "query": "the square",
        "objects": [{"rle": [code(square()), None, None]}],
        **change,
    }


def test_the_four_ways_to_give_masks(tmp_path: Path) -> None:
    palette_png(tmp_path / "labels/f10.png", square().astype(int) + 2 * square(left=18))
    binary_png(tmp_path / "masks/00001.png", square(left=9))
    reader = make_own(
        tmp_path,
        row(),
        row(
            objects=[{"id": 5, "polygons": {"2": [POLYGON]}}, {"id": 6, "rle": {"2": code(square(left=18))}}]
        ),
        row(objects=[{"png": "masks"}]),
        row(video="frames/b", objects=[{"png": "labels", "value": 2}], annotated=[2]),
    )
    empty = Rle.empty(HEIGHT, WIDTH)
    assert reader[0].masks([0, 1]) == [Rle.encode(square()), empty]
    assert reader[1].masks([0, 2])[0] == empty
    assert (reader[1].masks([2])[0].decode() == (square() | square(left=18))).all()
    assert reader[2].masks([0, 1]) == [empty, Rle.encode(square(left=9))]
    assert reader[3].masks([2]) == [Rle.encode(square(left=18))]
    assert list(reader.groups) == [range(3), range(3, 4)]


def test_frames_of_a_folder_are_in_natural_order_and_may_be_listed(tmp_path: Path) -> None:
    listed = ["frames/b/f10.jpg", "frames/b/f1.jpg"]
    reader = make_own(
        tmp_path,
        row(video="frames/b", objects=[]),
        {"frames": listed, "query": "x", "objects": [{"rle": [None, code(square())]}]},
        {"image": "frames/b/f1.jpg", "query": "x", "objects": [{"polygons": {"0": [POLYGON]}}]},
    )
    assert [reader[0].frames.name(i) for i in range(3)] == ["f1.jpg", "f2.jpg", "f10.jpg"]
    assert reader[0].masks([0]) == [Rle.empty(HEIGHT, WIDTH)]
    assert [path.name for path in reader[1].frames.missing()] == []
    assert reader[1].masks([1])[0].area == 64
    assert len(reader[2].frames) == 1
    assert reader[2].masks([0])[0].area == 64


def test_frames_without_annotation_are_refused_and_not_taken_as_empty(tmp_path: Path) -> None:
    sample = make_own(tmp_path, row(annotated=[0, 2]))[0]
    assert sample.masks([0, 2])[1].area == 0
    with pytest.raises(DatasetError, match="line 1, annotated: frame 1 has no annotation"):
        sample.masks([1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"query": " "}, "query is empty"),
        ({"query": None}, "line 1, query: Input should be a valid string"),
        ({"qurey": "x"}, "line 1, qurey: Extra inputs are not permitted"),
        ({"image": "x.jpg"}, "exactly one of video, frames and image .there is video, image"),
        ({"video": "gone.mp4"}, r"line 1, video: .*gone\.mp4: no such file or folder; paths are relative"),
        ({"objects": [{"rle": []}]}, "line 1, objects.0.rle: 0 entries for 3 frames"),
        ({"objects": [{}]}, "line 1, objects.0: .*exactly one of rle, polygons and png .there is none"),
        ({"objects": [{"rle": {"7": code(square())}}]}, "objects.0.rle: frame 7 is outside the 3 frames"),
        ({"objects": [{"polygons": {"x": []}}]}, "line 1, objects.0.polygons.x"),
        ({"objects": [{"png": "nowhere"}]}, "objects.0.png: .*nowhere: no such folder"),
        ({"objects": [{"rle": {"0": code(square())}, "value": 1}]}, "value belongs to png"),
        ({"annotated": [3]}, "line 1, annotated: frame 3 is outside"),
        ({"replies": ["x"]}, "replies and high_frames belong together"),
        ({"replies": ["x"], "high_frames": [0]}, "replies.0: it does not follow the turn grammar"),
        ({"replies": [reply("select", 0, 1, 1)], "high_frames": [0]}, "replies: one or more selects"),
        (
            {"replies": [reply("answer", 0, 1, 9)], "high_frames": [0]},
            "replies.0 keyframe: frame 9 is outside",
        ),
    ],
)
def test_bad_rows_name_file_line_and_field(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    reader = make_own(tmp_path, row(**change))
    with pytest.raises(DatasetError, match=words) as caught:
        _ = reader[0]
    assert str(tmp_path / "data.jsonl") in str(caught.value)


def test_masks_of_another_size_are_named(tmp_path: Path) -> None:
    reader = make_own(tmp_path, row(objects=[{"id": "left", "rle": {"0": code(square(height=30))}}]))
    with pytest.raises(
        DatasetError, match=r"line 1, masks of object left: frame 0: mask of 30x32, .* is 24x32"
    ):
        reader[0].masks([0])


def test_a_row_with_replies_is_a_dialogue(tmp_path: Path) -> None:
    replies = [reply("select", 0, 1, 1), reply("answer", 0, 1, 1)]
    sample = make_own(tmp_path, row(replies=replies, high_frames=[2, 0]))[0]
    assert isinstance(sample, TraceSample)
    assert sample.mask_frames() == (0, 1, 2)
    assert sample.selects[0].keyframe == 1


def test_splits_are_fields_or_files(tmp_path: Path) -> None:
    make_own(tmp_path, row(split="train"), row(split="valid", query="other"), row(query="both"))
    assert [sample.query for sample in OwnReader(tmp_path, "valid")] == ["other", "both"]
    (tmp_path / "valid.jsonl").write_text(json.dumps(row()) + "\n")
    assert len(OwnReader(tmp_path, "valid")) == 1
    assert len(OwnReader(tmp_path / "valid.jsonl")) == 1
    (tmp_path / "valid.jsonl").write_text(json.dumps(row(split="train")) + "\n")
    with pytest.raises(DatasetError, match="no line for split 'valid'"):
        OwnReader(tmp_path, "valid")


def test_rows_are_checked_before_they_are_written_and_nothing_half_is_left(tmp_path: Path) -> None:
    target = tmp_path / "new/data.jsonl"
    assert write_rows([row(), row()], target) == 2
    before = target.read_text()
    with pytest.raises(DatasetError, match="line 2: "):
        write_rows([row(), row(query=3)], target)
    assert target.read_text() == before
    assert [path.name for path in target.parent.iterdir()] == ["data.jsonl"]
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_rows([row()], tmp_path / "file/data.jsonl")


def test_every_name_has_its_reader_and_unknown_ones_list_them() -> None:
    from videoseg.data.manifest import MANIFEST

    assert set(READERS) == set(MANIFEST)
    with pytest.raises(UsageError, match="unknown dataset 'coco'; there are refcoco"):
        open_dataset("coco", ".")
    with pytest.raises(UsageError, match="videos belongs to vts-cot and rl"):
        open_dataset("mevis", ".", videos=".")
