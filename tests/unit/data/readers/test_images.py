"""RefCOCO and GCG in their official layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_builders import (
    HEIGHT,
    LEFT,
    RIGHT,
    code,
    edit_json,
    ground,
    jpegs,
    make_grandf,
    make_refcoco,
    square,
    write_json,
    write_pickle,
)
from videoseg.data.mix import draw_phrases
from videoseg.data.readers import open_dataset
from videoseg.data.readers.gcg import FlickrReader, GcgReader, OpenPsgReader, RefCocogGcgReader
from videoseg.data.readers.refcoco import RefCocogReader, RefCocoReader
from videoseg.errors import DatasetError
from videoseg.masks import Rle


def test_refcoco_samples_are_images_with_all_phrases_of_the_split(tmp_path: Path) -> None:
    reader = RefCocoReader(make_refcoco(tmp_path))
    assert reader.counts() == {"images": 2, "objects": 3, "expressions": 4}
    first = reader[0]
    assert [target.texts for target in first.targets] == [("left man", "guy in blue"), ("crowd",)]
    assert [target.texts for target in RefCocoReader(tmp_path, "val")[0].targets] == [("cat",)]


def test_refcoco_polygons_are_a_union_and_codes_are_read(tmp_path: Path) -> None:
    first = RefCocoReader(make_refcoco(tmp_path))[0]
    assert first.mask(first.targets[0]).area == 96
    assert first.mask(first.targets[1]).box == (0, 0, 1, HEIGHT)


def test_refcocog_reads_the_partition_of_umd(tmp_path: Path) -> None:
    assert len(RefCocogReader(make_refcoco(tmp_path, "refs(umd).p"))) == 2
    with pytest.raises(DatasetError, match=r"refs\(unc\)\.p: no such file"):
        RefCocoReader(tmp_path)


def test_five_phrases_are_drawn_with_replacement_from_all_sentences(tmp_path: Path) -> None:
    sample = RefCocoReader(make_refcoco(tmp_path))[0]
    drawn = draw_phrases(sample, 200, np.random.default_rng(0))
    assert {text for text, _ in drawn} == {"left man", "guy in blue", "crowd"}
    assert all(text in target.texts for text, target in drawn)


def break_refs(root: Path, change: dict[str, Any]) -> None:
    ref = {"ref_id": 0, "ann_id": 11, "image_id": 1, "split": "train", "sentences": [{"sent": "a"}], **change}
    write_pickle(root / "refs(unc).p", [ref])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ann_id": 99}, "sample image 1, ref 0.ann_id: 99 is not among the annotations"),
        ({"image_id": 77}, "sample image 77, image_id: 77 is not among the images"),
        ({"sentences": []}, "ref 0.sentences: the list is empty"),
        ({"sentences": [{"sent": " "}]}, "ref 0.sentences.sent: the text is empty"),
        ({"ann_id": "11"}, "ref 0.ann_id: '11' is no int"),
    ],
)
def test_bad_phrases_are_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    root = make_refcoco(tmp_path)
    break_refs(root, change)
    with pytest.raises(DatasetError, match=words):
        _ = RefCocoReader(root)[0]


def test_a_bad_polygon_and_a_wrong_size_are_named(tmp_path: Path) -> None:
    root = make_refcoco(tmp_path)
    edit_json(root / "instances.json", lambda data: data["annotations"][0].update(segmentation=[[1, 2]]))
    edit_json(root / "instances.json", lambda data: data["images"][1].update(height=HEIGHT + 1))
    reader = RefCocoReader(root)
    with pytest.raises(DatasetError, match="sample image 1, mask of 11: a polygon needs three"):
        reader[0].mask(reader[0].targets[0])
    with pytest.raises(DatasetError, match=r"image 2, mask of 14: it is 25x32, .* is 24x32"):
        reader[1].mask(reader[1].targets[0])


def test_an_unknown_split_lists_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no phrase of split 'testA'; there are train, val"):
        RefCocoReader(make_refcoco(tmp_path), "testA")


def test_gcg_captions_are_tagged_in_order_and_masks_joined(tmp_path: Path) -> None:
    groundings = {
        "a red car": ground(13, 22, square(left=20)),
        "A man": ground(0, 5, square(), square(left=8)),
        "nothing": None,
    }
    sample = GcgReader(make_grandf(tmp_path, groundings))[0]
    assert sample.tagged() == "<p> A man </p> [SEG] beside <p> a red car </p> [SEG]."
    first, second = sample.masks()
    assert (first.decode() == (square() | square(left=8))).all()
    assert second == Rle.encode(square(left=20))


def test_gcg_overlapping_phrases_cannot_break_the_tags(tmp_path: Path) -> None:
    """Tagging overlapping spans from the back, as the release does, tears the tags apart."""
    groundings = {
        "man beside a red": ground(2, 18, square()),
        "a red car": ground(13, 22, square(left=20)),
        "red": ground(15, 18, square(left=10)),
    }
    sample = GcgReader(make_grandf(tmp_path, groundings))[0]
    assert sample.tagged() == "A <p> man beside </p> [SEG] <p> a </p> [SEG] <p> red </p> [SEG] car."
    assert sample.tagged().count("[SEG]") == len(sample.masks())


def test_gcg_of_two_phrases_at_one_place_keeps_the_shorter(tmp_path: Path) -> None:
    groundings = {"A man beside": ground(0, 12, square()), "A man": ground(0, 5, square(left=9))}
    sample = GcgReader(make_grandf(tmp_path, groundings))[0]
    assert sample.tagged() == "<p> A man </p> [SEG] beside a red car."
    assert sample.masks() == [Rle.encode(square(left=9))]


@pytest.mark.parametrize(
    ("groundings", "words"),
    [
        ({}, "sample 0, groundings: no phrase of the caption has a place and a mask"),
        ({"A man": ground(0, 99, square())}, r"groundings.A man.token_positives: \[0, 99\] is no"),
        ({"A man": {"token_positives": [0, 5]}}, "groundings.A man.rle_masks: missing"),
        ({"A man": {"token_positives": [0], "rle_masks": []}}, "token_positives"),
    ],
)
def test_bad_groundings_are_named(tmp_path: Path, groundings: dict[str, Any], words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        _ = GcgReader(make_grandf(tmp_path, groundings))[0]


def test_a_missing_image_of_a_caption_is_named(tmp_path: Path) -> None:
    root = make_grandf(tmp_path, {"A man": ground(0, 5, square())})
    (root / "images/grandf/train/x.jpg").unlink()
    with pytest.raises(DatasetError, match=r"sample 0, mask of 'A man': .*x\.jpg: no such file"):
        GcgReader(root)[0].masks()


def test_openpsg_has_the_same_entries_elsewhere(tmp_path: Path) -> None:
    item = {
        "file_name": "train2017/1.jpg",
        "caption": "A dog runs.",
        "groundings": {"A dog": ground(0, 5, square())},
    }
    write_json(tmp_path / "annotations/OpenPsgGCG_train.json", [item])
    jpegs(tmp_path / "images/coco2017/train2017", ["1"])
    assert OpenPsgReader(tmp_path)[0].masks() == [Rle.encode(square())]


def test_refcocog_gcg_finds_the_sentences_in_the_caption(tmp_path: Path) -> None:
    refs = [
        {"sentence": "A Dog", "segmentation": [LEFT], "bbox": [0, 0, 1, 1]},
        {"sentence": "a dog", "segmentation": [RIGHT]},
        {"sentence": "not there", "segmentation": [LEFT]},
    ]
    item = {"77": {"img_file_name": "x.jpg", "caption": '"A dog and A dog play."', "refs": refs}}
    write_json(tmp_path / "annotations/RefCOCOg_GCG_train.json", [item])
    jpegs(tmp_path / "images/coco2014/train2014", ["x"])
    sample = RefCocogGcgReader(tmp_path)[0]
    assert sample.tagged() == "<p> a dog </p> [SEG] and <p> a dog </p> [SEG] play."
    assert [mask.box[0] for mask in sample.masks()] == [4, 8]
    assert sample.origin.key == "0 (id 77)"


def test_flickr_keeps_usable_images_and_boxes(tmp_path: Path) -> None:
    def annotation(number: int, image: int, place: list[int], **change: Any) -> dict[str, Any]:
        entry = {
            "id": number,
            "image_id": image,
            "bbox": [4, 6, 8, 8],
            "area": 64,
            "sam_mask": code(square(height=40, width=48)),
        }
        return {**entry, "tokens_positive": [place], **change}

    images = [
        {"id": 1, "file_name": "a.jpg", "height": 40, "width": 48, "caption": "A man runs fast"},
        {"id": 2, "file_name": "b.jpg", "height": 40, "width": 48, "caption": "Two words"},
        {"id": 3, "file_name": "c.jpg", "height": 20, "width": 48, "caption": "A small picture"},
    ]
    annotations = [
        annotation(1, 1, [0, 5]),
        annotation(2, 1, [6, 10], ignore=True),
        annotation(3, 1, [6, 10], bbox=[60, 6, 8, 8]),
        annotation(4, 2, [0, 3]),
    ]
    write_json(
        tmp_path / "annotations/flickr_mergedGT_GCG_train.json",
        {"images": images, "annotations": annotations},
    )
    jpegs(tmp_path / "images/flickr30k/Flickr30K", ["a"], height=40, width=48)
    reader = FlickrReader(tmp_path)
    assert len(reader) == 1
    assert reader[0].tagged() == "<p> A man </p> [SEG] runs fast"
    assert reader[0].masks()[0].area == 64
    assert open_dataset("gcg-flickr30k", tmp_path).counts() == {"images": 1}
