"""Small datasets in official layouts, made for tests: frames, masks, annotation files."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from videoseg.data.tracks import sav_masklet
from videoseg.masks import Rle
from videoseg.video.writer import VideoWriter

HEIGHT, WIDTH = 24, 32


def square(
    left: int = 4, top: int = 6, side: int = 8, *, height: int = HEIGHT, width: int = WIDTH
) -> np.ndarray:
    """`bool [height, width]` with a filled square."""
    mask = np.zeros((height, width), dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def code(mask: np.ndarray) -> dict[str, Any]:
    """The COCO code of a mask, as JSON."""
    return Rle.encode(mask).to_coco()


def jpegs(folder: Path, stems: Sequence[str], *, height: int = HEIGHT, width: int = WIDTH) -> None:
    """JPEG files of one size, each of another brightness."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, stem in enumerate(stems):
        pixels = np.full((height, width, 3), 20 + 10 * index, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{stem}.jpg")


def mp4(path: Path, frames: int = 8, *, height: int = HEIGHT, width: int = WIDTH, fps: float = 24) -> None:
    """A video whose frames differ in brightness."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, fps) as writer:
        for index in range(frames):
            writer.write(np.full((height, width, 3), 20 + 10 * index, dtype=np.uint8))


def palette_png(path: Path, labels: np.ndarray) -> None:
    """A palette PNG as YouTube-VOS and DAVIS write them: pixel value = object."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels.astype(np.uint8)).convert("P")
    image.putdata(labels.astype(np.uint8).flatten().tolist())
    image.putpalette(
        [channel for value in range(256) for channel in ((value * 67) % 256, value, 255 - value)]
    )
    image.save(path)


def binary_png(path: Path, mask: np.ndarray) -> None:
    """A 0/255 picture, as Long-RVOS writes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)


def write_json(path: Path, data: Any) -> Path:
    """A JSON file; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))
    return path


def edit_json(path: Path, change: Any) -> None:
    """Read a JSON file, let `change` alter it, write it back."""
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def write_pickle(path: Path, data: Any, protocol: int = 2) -> Path:
    """A pickle; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(data, protocol=protocol))
    return path


def make_mevis(root: Path, split: str = "train") -> Path:
    """Two videos; frames of v2 are out of order; expression 10 means two overlapping objects."""
    home = root / split
    frames = {"v1": ["00000", "00001", "00002"], "v2": ["00002", "00010", "00001"]}
    for video, stems in frames.items():
        jpegs(home / "JPEGImages" / video, stems)
    expressions = {
        "0": {"exp": "The square that stays", "obj_id": [0], "anno_id": [7]},
        "2": {"exp": "The square that leaves", "obj_id": [1], "anno_id": [8]},
        "10": {"exp": "Both squares", "obj_id": [0, 1], "anno_id": [7, 8]},
    }
    other = {"0": {"exp": "what moves", "obj_id": [0], "anno_id": [9]}}
    if split == "valid":
        expressions, other = {"0": {"exp": "a square"}}, {"0": {"exp": "another"}}
    videos = {
        "v1": {"vid_id": 0, "frames": frames["v1"], "expressions": expressions},
        "v2": {"vid_id": 1, "frames": frames["v2"], "expressions": other},
    }
    write_json(home / "meta_expressions.json", {"videos": videos})
    if split != "valid":
        moving = [code(square(left=left)) for left in (10, 20, 0)]
        masks = {"7": [code(square())] * 3, "8": [code(square(left=8)), None, None], "9": moving}
        write_json(home / "mask_dict.json", masks)
    return root


def make_revos(root: Path, *, packed: bool = False) -> Path:
    """The three types of expressions; video names contain slashes; `packed` leaves JPEGImages out."""
    stems = ["00000", "00001"]
    for video in ("TAO/train/x", "UVO/all/y"):
        jpegs((root if packed else root / "JPEGImages") / video, stems)
    size = {"height": HEIGHT, "width": WIDTH, "frames": stems}
    videos = {
        "TAO/train/x": {
            "vid_id": 3,
            **size,
            "expressions": {
                "0": {"exp": "the left one", "obj_id": [1], "anno_id": [42], "type_id": 0},
                "1": {"exp": "which one could roll?", "obj_id": [1, 2], "anno_id": [42, 43], "type_id": 1},
                "2": {"exp": "the unicorn", "obj_id": [], "anno_id": [], "type_id": 2},
            },
        },
        "UVO/all/y": {
            "vid_id": 4,
            **size,
            "expressions": {"0": {"exp": "the box", "obj_id": [1], "anno_id": [44], "type_id": 0}},
        },
    }
    write_json(root / "meta_expressions_train_.json", {"videos": videos})
    masks = {"42": [code(square()), None], "43": [code(square(left=18))] * 2, "44": [code(square())] * 2}
    write_json(root / "mask_dict.json", masks)
    return root


def reply(kind: str, start: int, end: int, keyframe: int) -> str:
    """An assistant turn in the canonical form."""
    body = json.dumps({"start": start, "end": end, "keyframe": keyframe})
    think = "Step 1: it moves. Step 2: left. Step 3: the square. Action: go on."
    return f"<think>{think}</think><{kind}><VTG>{body}</VTG><RefSeg>[SEG]</RefSeg></{kind}>"


def make_vts_cot(root: Path, folder: str = "VTG-CoT") -> Path:
    """A dialogue of two turns and one of a single turn over the MeViS fixture, in the data layout of O3."""
    make_mevis(root / "video_datas" / "mevis")
    common = {
        "video_name": "v1",
        "frames": ["00000", "00001", "00002"],
        "exp": "Both squares",
        "anno_id": [7, 8],
        "sample_frame_indice": [2, 0],
    }
    two = {
        **common,
        "cot_trace": [{"start_frame": 0, "end_frame": 1, "key_frame": 1}],
        "conversations": [
            {"from": "system", "value": "You find objects."},
            {"from": "human", "value": "The query is this."},
            {"from": "gpt", "value": reply("select", 0, 1, 1)},
            {"from": "human", "value": "<image>.\n Continue."},
            {"from": "gpt", "value": reply("answer", 0, 1, 1) + "\n"},
        ],
    }
    single = {
        **common,
        "cot_trace": [],
        "conversations": [*two["conversations"][:2], {"from": "gpt", "value": reply("answer", 0, 0, 0)}],
    }
    write_json(root / folder / "mevis.json", [two, single])
    return root


def make_rl(root: Path) -> Path:
    """One prompt of MeViS and one of ReVOS, in the published layout."""
    make_vts_cot(root)
    make_revos(root / "video_datas/revos", packed=True)
    mevis = {
        "video_name": "v1",
        "frames": ["00000", "00001", "00002"],
        "exp": "leaves",
        "anno_id": [8],
        "mask_existence": [1, 0, 0],
    }
    revos = {
        "video_name": "TAO/train/x",
        "frames": ["00000", "00001"],
        "exp": "left",
        "anno_id": [42],
        "mask_existence": [1, 0],
    }
    write_json(root / "VideoSEG-O3-RL/rl_mevis_data.json", [[mevis, {"unused": True}]])
    write_json(root / "VideoSEG-O3-RL/rl_revos_data.json", [[revos]])
    return root


LEFT = [4, 6, 12, 6, 12, 14, 4, 14]
RIGHT = [8, 6, 16, 6, 16, 14, 8, 14]


def make_refcoco(root: Path, refs_file: str = "refs(unc).p") -> Path:
    """Two images; annotation 11 has two overlapping polygons, 12 is a crowd code, 13 is of another split."""
    jpegs(root / "coco2014/train2014", ["COCO_train2014_000000000001", "COCO_train2014_000000000002"])
    images = [
        {"id": n, "file_name": f"COCO_train2014_{n:012d}.jpg", "height": HEIGHT, "width": WIDTH}
        for n in (1, 2, 3)
    ]
    crowd = {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT, HEIGHT * (WIDTH - 1)]}
    annotations = [
        {"id": 11, "image_id": 1, "category_id": 1, "segmentation": [LEFT, RIGHT], "bbox": [4, 6, 12, 8]},
        {"id": 12, "image_id": 1, "category_id": 1, "segmentation": crowd, "iscrowd": 1},
        {"id": 13, "image_id": 2, "category_id": 1, "segmentation": [LEFT]},
        {"id": 14, "image_id": 2, "category_id": 1, "segmentation": [LEFT]},
    ]
    write_json(
        root / "instances.json", {"info": {}, "images": images, "annotations": annotations, "categories": []}
    )

    def ref(number: int, annotation: int, image: int, split: str, *texts: str) -> dict[str, Any]:
        sentences = [{"raw": text.upper(), "sent": text, "tokens": text.split()} for text in texts]
        return {
            "ref_id": number,
            "ann_id": annotation,
            "image_id": image,
            "split": split,
            "sentences": sentences,
        }

    refs = [
        ref(0, 11, 1, "train", "left man", "guy in blue"),
        ref(1, 12, 1, "train", "crowd"),
        ref(2, 14, 2, "train", "the dog"),
        ref(3, 13, 2, "val", "cat"),
    ]
    write_pickle(root / refs_file, refs, protocol=0)
    return root


def make_grandf(root: Path, groundings: dict[str, Any], caption: str = '"A man beside a red car."') -> Path:
    """One caption of GranDf with these groundings."""
    write_json(
        root / "annotations/GranDf_HA_GCG_train.json",
        [{"file_name": "x.jpg", "image_id": "x", "caption": caption, "groundings": groundings}],
    )
    jpegs(root / "images/grandf/train", ["x"])
    return root


def ground(start: int, end: int, *masks: np.ndarray) -> dict[str, Any]:
    """A grounding: characters of the caption and masks."""
    return {"token_positives": [start, end], "rle_masks": [code(mask) for mask in masks]}


EMPTY = code(square(side=0))


def make_ref_sav(root: Path, *, doubled: bool = True, frames: int = 9) -> Path:
    """A video of 9 frames: frames 0, 4 and 8 are annotated; object 1 is empty in the last."""
    home = root / "sam_v_full"
    folder = home / ("sav_train/sav_000" if not doubled else "sav_000/sav_train/sav_000")
    mp4(folder / "sav_000002.mp4", frames)
    rows = [[code(square(left=n)), code(square(left=20)) if n < 2 else EMPTY] for n in range(3)]
    write_json(
        folder / "sav_000002_manual.json", {"video_id": "sav_000002", "masklet": rows, "masklet_num": 2}
    )
    stated = "sav_000/sav_train/sav_000/sav_000002"
    objects = {"0": {"formated": "The square that moves."}, "1": {"formated": "The square that vanishes."}}
    entry = {"video_path": f"{stated}.mp4", "anno_path": f"{stated}_manual.json", "objects": objects}
    write_json(root / "sam_v_final_custom.json", {"sav_000002": entry})
    sav_masklet.cache_clear()
    return root


def make_chat(root: Path, conversations: list[dict[str, Any]] | None = None) -> Path:
    """A conversation about an mp4 that is called mkv."""
    said = conversations or [
        {"from": "human", "value": "<video>\nWhat happens?"},
        {"from": "gpt", "value": "A square moves."},
        {"from": "human", "value": "Why?"},
        {"from": "gpt", "value": "Nobody knows."},
    ]
    write_json(root / "video_chat.json", [{"id": "0", "video": "v_1.mkv", "conversations": said}])
    mp4(root / "Activity_Videos/v_1.mp4")
    return root


LINE = {
    "source": "cosmo_cap",
    "video_path": "cosmo/a.mp4",
    "duration": 12.0,
    "events": [
        {"query": "it turns", "span": [[1.25, 3.99], [5.0, 6.0]]},
        {"query": "it stops", "span": [[11.5, 12.4]]},
    ],
}


def make_timelens(root: Path, line: dict[str, Any], folder: str = "videos") -> Path:
    """One line of events, after a blank one."""
    root.mkdir(exist_ok=True)
    (root / "timelens-100k.jsonl").write_text("\n" + json.dumps(line) + "\n")
    mp4(root / folder / "cosmo/a.mp4")
    return root
