"""Exports of other tools become own data with the same masks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_builders import HEIGHT, WIDTH, code, jpegs, mp4, palette_png, square, write_json
from videoseg.cli.main import main
from videoseg.data.convert import convert
from videoseg.data.convert.common import Options
from videoseg.data.convert.label_studio import brush
from videoseg.data.own import OwnReader
from videoseg.data.sample import RefVideoSample
from videoseg.errors import DatasetError, UsageError
from videoseg.masks import Rle

POLYGON = [4, 6, 12, 6, 12, 14, 4, 14]


def converted(
    form: str, source: Path, target: Path, options: Options | None = None
) -> dict[str, RefVideoSample]:
    """The samples of the written file by query."""
    count = convert(form, source, target, options)
    reader = OwnReader(target)
    assert len(reader) == count
    return {sample.query: sample for sample in reader if isinstance(sample, RefVideoSample)}


def make_coco(root: Path) -> Path:
    jpegs(root / "images/sub", ["a", "b"])
    image = {"height": HEIGHT, "width": WIDTH}
    crowd = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT, HEIGHT, HEIGHT * (WIDTH - 2)]}
    return write_json(
        root / "instances.json",
        {
            "images": [
                {"id": 1, "file_name": "sub/a.jpg", **image},
                {"id": 2, "file_name": "sub/b.jpg", **image},
            ],
            "annotations": [
                {"id": 1, "image_id": 1, "category_id": 3, "segmentation": [POLYGON]},
                {"id": 2, "image_id": 1, "category_id": 3, "segmentation": crowd, "iscrowd": 1},
                {
                    "id": 3,
                    "image_id": 2,
                    "category_id": 4,
                    "segmentation": code(square()),
                    "caption": "my dog",
                },
            ],
            "categories": [{"id": 3, "name": "cat"}, {"id": 4, "name": "dog"}],
        },
    )


def test_coco_objects_of_a_category_are_one_query(tmp_path: Path) -> None:
    samples = converted("coco", make_coco(tmp_path / "coco"), tmp_path / "out/data.jsonl")
    assert set(samples) == {"cat", "my dog"}
    assert samples["cat"].targets is not None
    assert len(samples["cat"].targets) == 2
    assert samples["cat"].masks([0])[0].area == 64 + HEIGHT
    assert samples["my dog"].masks([0]) == [Rle.encode(square())]


def test_coco_query_templates_and_folders_of_images(tmp_path: Path) -> None:
    source = make_coco(tmp_path / "coco")
    (tmp_path / "coco/images").rename(tmp_path / "pictures")
    options = Options(media=tmp_path / "pictures", query="the {label} of {video}")
    assert set(converted("coco", source, tmp_path / "data.jsonl", options)) == {"the cat of a", "my dog"}
    with pytest.raises(UsageError, match="the fields are"):
        convert("coco", source, tmp_path / "x.jsonl", Options(media=tmp_path / "pictures", query="{colour}"))
    with pytest.raises(
        DatasetError, match=r"image 1: .*a\.jpg is missing; give the folder of the images with --media"
    ):
        convert("coco", source, tmp_path / "x.jsonl")


def test_coco_faults_are_named(tmp_path: Path) -> None:
    source = make_coco(tmp_path)
    data = json.loads(source.read_text())
    data["annotations"][0]["segmentation"] = [[1, 2]]
    source.write_text(json.dumps(data))
    with pytest.raises(DatasetError, match=r"instances\.json: annotation 1: a polygon needs"):
        convert("coco", source, tmp_path / "data.jsonl")
    assert not (tmp_path / "data.jsonl").exists()
    data["annotations"] = []
    source.write_text(json.dumps(data))
    with pytest.raises(DatasetError, match="holds no mask that could be converted"):
        convert("coco", source, tmp_path / "data.jsonl")
    source.write_text("{}")
    with pytest.raises(DatasetError, match="images is missing; it is no COCO instance file"):
        convert("coco", source, tmp_path / "data.jsonl")


def test_yt_vis_codes_polygons_and_nulls(tmp_path: Path) -> None:
    jpegs(tmp_path / "JPEGImages/v", ["00000", "00005"])
    video = {
        "id": 7,
        "file_names": ["v/00000.jpg", "v/00005.jpg"],
        "height": HEIGHT,
        "width": WIDTH,
        "length": 2,
    }
    base = {"video_id": 7, "category_id": 1, "iscrowd": 0}
    annotations = [
        {"id": 1, **base, "segmentations": [code(square()), None]},
        {"id": 2, **base, "segmentations": [None, [POLYGON]]},
    ]
    data = {"videos": [video], "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
    source = write_json(tmp_path / "instances.json", data)
    samples = converted("yt-vis", source, tmp_path / "data.jsonl")
    assert [mask.area for mask in samples["person"].masks([0, 1])] == [64, 64]
    assert samples["person"].frames.name(1).endswith("v/00005.jpg")
    annotations[0]["segmentations"] = [None]
    write_json(source, data)
    with pytest.raises(DatasetError, match="annotation 1: segmentations has 1 entries for 2 frames"):
        convert("yt-vis", source, tmp_path / "data.jsonl")


def make_yt_vos(root: Path) -> Path:
    jpegs(root / "JPEGImages/v", ["00000", "00005", "00010"])
    for stem in ("00000", "00010"):
        palette_png(root / f"Annotations/v/{stem}.png", square().astype(int) + 2 * square(left=18))
    objects = {"1": {"category": "cat", "frames": ["00000"]}, "2": {"category": "cat"}}
    write_json(root / "meta.json", {"videos": {"v": {"objects": objects}}})
    return root


def test_yt_vos_pictures_stay_where_they_are_and_gaps_are_not_annotated(tmp_path: Path) -> None:
    samples = converted("yt-vos", make_yt_vos(tmp_path / "train"), tmp_path / "out/data.jsonl")
    assert samples["cat"].annotated == (0, 2)
    assert samples["cat"].masks([2])[0].area == 128
    with pytest.raises(DatasetError, match="frame 1 has no annotation"):
        samples["cat"].masks([1])


def test_yt_vos_with_expressions(tmp_path: Path) -> None:
    texts = {"v": {"frames": ["00000"], "expressions": {"0": {"exp": "the right cat", "obj_id": "2"}}}}
    path = write_json(tmp_path / "meta_expressions.json", {"videos": texts})
    samples = converted(
        "yt-vos", make_yt_vos(tmp_path / "train"), tmp_path / "d.jsonl", Options(texts=(path,))
    )
    assert samples["the right cat"].masks([0]) == [Rle.encode(square(left=18))]


def make_davis(root: Path) -> Path:
    jpegs(root / "JPEGImages/480p/bear", ["00000", "00001"])
    labels = square().astype(int) + 2 * square(left=18)
    labels[0, 0] = 255
    for stem in ("00000", "00001"):
        palette_png(root / f"Annotations/480p/bear/{stem}.png", labels)
    return root


def test_davis_objects_and_texts(tmp_path: Path) -> None:
    root = make_davis(tmp_path / "DAVIS")
    samples = converted("davis", root, tmp_path / "data.jsonl", Options(query="{label} of {video}"))
    assert set(samples) == {"object 1 of bear", "object 2 of bear"}
    texts = tmp_path / "Davis17_annot1.txt"
    texts.write_text('bear 2 "a bear, on the right"\n\nbear 1 "a bear"\n')
    samples = converted("davis", root, tmp_path / "data.jsonl", Options(texts=(texts,)))
    assert samples["a bear, on the right"].masks([1]) == [Rle.encode(square(left=18))]
    texts.write_text("bear\n")
    with pytest.raises(DatasetError, match=r"Davis17_annot1\.txt, line 1: a line is"):
        convert("davis", root, tmp_path / "data.jsonl", Options(texts=(texts,)))


def runs_of(mask: np.ndarray) -> str:
    """CVAT's runs over the rows of a box, background first."""
    flat = np.concatenate([[False], mask.reshape(-1)])
    edges = np.flatnonzero(np.diff(flat.astype(int))) + 0
    return ", ".join(str(n) for n in np.diff(np.concatenate([[0], edges, [mask.size]])))


POINTS = "4.00,6.00;12.00,6.00;12.00,14.00;4.00,14.00"
VIDEO_XML = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><size>4</size><mode>interpolation</mode>
<start_frame>0</start_frame><stop_frame>3</stop_frame><frame_filter>{filter}</frame_filter>
<original_size><width>{width}</width><height>24</height></original_size></task></meta>
<track id="0" label="car" source="manual">
<polygon frame="0" keyframe="1" outside="0" occluded="0" points="{points}">
<attribute name="query">the car that leaves</attribute></polygon>
<polygon frame="1" keyframe="1" outside="1" occluded="0" points="{points}"></polygon>
</track>
<track id="1" label="bus">
<mask frame="2" outside="0" rle="{runs}" left="18" top="6" width="8" height="4"></mask></track>
{more}</annotations>"""


def make_cvat(root: Path, *, more: str = "", width: int = WIDTH, skip: str = "", runs: str = "") -> Path:
    mp4(root / "v.mp4", 4)
    mask = np.ones((4, 8), dtype=bool)
    mask[0, :3] = False
    path = root / "annotations.xml"
    path.write_text(
        VIDEO_XML.format(points=POINTS, filter=skip, width=width, runs=runs or runs_of(mask), more=more)
    )
    return path


def test_cvat_tracks_of_a_video(tmp_path: Path) -> None:
    source = make_cvat(tmp_path)
    samples = converted("cvat", source, tmp_path / "data.jsonl", Options(media=tmp_path / "v.mp4"))
    assert [mask.area for mask in samples["the car that leaves"].masks([0, 1])] == [64, 0]
    bus = samples["bus"].masks([2])[0].decode()
    assert bus.sum() == 29
    assert not bus[6, 18:21].any()
    assert bus[6, 21]


def test_cvat_tasks_of_every_second_frame_are_not_annotated_between(tmp_path: Path) -> None:
    source = make_cvat(tmp_path, skip="step=2")
    samples = converted("cvat", source, tmp_path / "data.jsonl", Options(media=tmp_path / "v.mp4"))
    assert samples["bus"].annotated == (0, 2)


BOX = '<track id="2" label="dog"><box frame="1" outside="0" xtl="4" ytl="6" xbr="12" ybr="14"></box></track>'


def test_cvat_boxes_are_no_masks_unless_they_may_be(tmp_path: Path) -> None:
    source, media = make_cvat(tmp_path, more=BOX), tmp_path / "v.mp4"
    with pytest.raises(DatasetError, match="track 2, frame 1: a box is no mask"):
        convert("cvat", source, tmp_path / "data.jsonl", Options(media=media))
    filled = converted("cvat", source, tmp_path / "data.jsonl", Options(media=media, boxes="fill"))
    assert filled["dog"].masks([1]) == [Rle.encode(square())]
    assert set(converted("cvat", source, tmp_path / "d.jsonl", Options(media=media, boxes="skip"))) == {
        "the car that leaves",
        "bus",
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 99}, "the task's video is 99x24, .* is 32x24; give the right --media"),
        ({"runs": "1, 2"}, "track 1, frame 2: runs cover 3 pixels, the box of the mask has 8x4"),
        ({"more": BOX.replace('frame="1"', 'frame="9"')}, r"track 2, frame 9: .*v\.mp4 has 4 frames"),
        ({"more": BOX.replace('frame="1"', 'frame="x"')}, "attribute frame is 'x'"),
        ({"more": "<track"}, r"annotations\.xml: not valid XML"),
    ],
)
def test_cvat_faults_are_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    source = make_cvat(tmp_path, **change)
    with pytest.raises(DatasetError, match=words):
        convert("cvat", source, tmp_path / "data.jsonl", Options(media=tmp_path / "v.mp4", boxes="fill"))


def test_cvat_entities_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "annotations.xml"
    source.write_text('<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><annotations>&b;</annotations>')
    with pytest.raises(DatasetError, match="declares entities"):
        convert("cvat", source, tmp_path / "data.jsonl")


def test_cvat_images_and_groups(tmp_path: Path) -> None:
    jpegs(tmp_path / "images", ["a"])
    points = "4,6;12,6;12,14;4,14"
    shapes = "".join(f'<polygon label="cat" group_id="{g}" points="{points}"></polygon>' for g in (1, 1, 2))
    text = f'<annotations><image id="0" name="a.jpg" width="32" height="24">{shapes}</image></annotations>'
    (tmp_path / "annotations.xml").write_text(text)
    samples = converted("cvat", tmp_path, tmp_path / "data.jsonl")
    assert samples["cat"].targets is not None
    assert [target.id for target in samples["cat"].targets] == ["1", "2"]


def pack(pixels: np.ndarray, *, literal: bool) -> list[int]:
    """The packing of Label Studio's brush, as runs of one value or with a value for every entry."""
    flat = pixels.reshape(-1)
    bits = f"{flat.size:032b}{7:05b}" + "".join(f"{n:04b}" for n in (2, 3, 7, 15))
    place = 0
    while place < flat.size:
        if literal:
            count = min(8, flat.size - place)
            bits += f"000{count - 1:03b}" + "".join(f"{v:08b}" for v in flat[place : place + count])
        else:
            count = 1
            while place + count < flat.size and flat[place + count] == flat[place] and count < 65536:
                count += 1
            bits += f"111{count - 1:016b}{flat[place]:08b}"
        place += count
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


@pytest.mark.parametrize("literal", [True, False])
def test_label_studio_brushes_are_unpacked(literal: bool) -> None:
    mask = square() | square(left=20, top=1, side=5)
    pixels = np.repeat((mask * 255).astype(int)[..., None], 4, axis=2)
    assert brush(pack(pixels, literal=literal), HEIGHT, WIDTH) == Rle.encode(mask)


def make_label_studio(root: Path, *more: dict[str, Any]) -> Path:
    jpegs(root / "images", ["a"])
    size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    pixels = np.repeat((square(left=20) * 255).astype(int)[..., None], 4, axis=2)
    percent = [[100 * x / WIDTH, 100 * y / HEIGHT] for x, y in np.reshape(POLYGON, (4, 2)).tolist()]
    polygon = {
        "id": "p",
        "type": "polygonlabels",
        "value": {"points": percent, "polygonlabels": ["cat"]},
        **size,
    }
    painted = {"id": "b", "type": "brushlabels", **size}
    painted["value"] = {"format": "rle", "rle": pack(pixels, literal=False), "brushlabels": ["dog"]}
    text = {"id": "b", "type": "textarea", "value": {"text": ["the dog at the right"]}}
    regions = [polygon, painted, text, {"id": "c", "type": "choices", "value": {"choices": ["x"]}}, *more]
    cancelled = {"was_cancelled": True, "result": [{"type": "rectanglelabels"}]}
    task = {
        "id": 5,
        "data": {"image": "/data/upload/1/0123abcd-a.jpg"},
        "annotations": [cancelled, {"result": regions}],
    }
    return write_json(root / "export.json", [task])


def test_label_studio_polygons_brushes_and_texts(tmp_path: Path) -> None:
    source = make_label_studio(tmp_path)
    samples = converted("label-studio", source, tmp_path / "d.jsonl", Options(media=tmp_path / "images"))
    assert samples["cat"].masks([0]) == [Rle.encode(square())]
    assert samples["the dog at the right"].masks([0]) == [Rle.encode(square(left=20))]


def test_label_studio_faults_are_named(tmp_path: Path) -> None:
    box = {"type": "videorectangle", "value": {"sequence": [], "labels": ["x"]}}
    source = make_label_studio(tmp_path, box)
    with pytest.raises(DatasetError, match="task 5, region 4: a box is no mask"):
        convert("label-studio", source, tmp_path / "d.jsonl", Options(media=tmp_path / "images"))
    with pytest.raises(UsageError, match="give it with --media"):
        convert("label-studio", source, tmp_path / "d.jsonl")
    (tmp_path / "images/a.jpg").unlink()
    with pytest.raises(DatasetError, match=r"task 5: '/data/upload/1/0123abcd-a\.jpg' is not under"):
        convert(
            "label-studio", source, tmp_path / "d.jsonl", Options(media=tmp_path / "images", boxes="skip")
        )
    with pytest.raises(ValueError, match="cut off"):
        brush([0, 0, 12, 0, 57], HEIGHT, WIDTH)
    with pytest.raises(ValueError, match="3072 values, a picture of 5x5"):
        brush([0, 0, 12, 0, 57, 0, 0, 0], 5, 5)


def test_the_command_converts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = make_coco(tmp_path / "coco"), tmp_path / "out.jsonl"
    assert main(["data", "convert", str(source), str(out), "--form", "coco"]) == 0
    assert "2 queries written" in capsys.readouterr().err
    assert main(["data", "check", str(out), "--dataset", "own"]) == 0
    assert main(["data", "convert", str(tmp_path / "no"), str(out), "--form", "coco"]) == 3
    with pytest.raises(UsageError, match="unknown format 'xml'"):
        convert("xml", source, out)
