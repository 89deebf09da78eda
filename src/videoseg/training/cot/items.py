"""VTS-CoT builder: accepted dialogues as files: the VTS-CoT layout, or own-data lines (O3 spec §11).

VTS-CoT items name their masks by id, so they fit datasets with a mask dictionary. For all others the
dialogue becomes a line of the own-data schema, which carries its masks.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from videoseg.data.frames import Frames, ImageFrames
from videoseg.data.readers.base import Reader
from videoseg.data.readers.meta import MaskDict
from videoseg.data.readers.traced import LAYOUTS
from videoseg.data.sample import RefVideoSample, Target
from videoseg.data.tracks import JsonTrack
from videoseg.dialogue import prompts
from videoseg.dialogue.preset import Preset
from videoseg.training.cot.play import Dialogue

FOLDER = "VTS-CoT"
CONTINUE_TAIL = prompts.CONTINUE.split("'{query}'", 1)[1]
"""What follows the repeated query; the released loader puts the query in place of `<image>` (spec §3)."""


def vts_name(reader: Reader[Any]) -> str | None:
    """The name of the VTS-CoT file for a dataset, or None where its masks are not in a mask dictionary."""
    name = reader.dataset.replace("-", "")
    if name in LAYOUTS and reader.split == "train" and isinstance(getattr(reader, "masks", None), MaskDict):
        return name
    return None


def vts_item(sample: RefVideoSample, dialogue: Dialogue, preset: Preset) -> dict[str, Any]:
    """An item of `VTS-CoT/<name>.json`.

    Raises `DatasetError` where frames are no list of JPEG files. Masks must be `in_mask_order`.
    """
    frames = sample.frames
    if not isinstance(frames, ImageFrames) or not all(file.endswith(".jpg") for file in frames.files):
        raise sample.origin.error("frames", "a VTS-CoT item needs frames that are .jpg files")
    return {
        "video_name": sample.video,
        "frames": [file.removesuffix(".jpg") for file in frames.files],
        "exp": sample.query,
        "anno_id": [_anno_id(target) for target in sample.targets or ()],
        "sample_frame_indice": list(dialogue.high_frames),
        "cot_trace": [
            {
                "start_frame": select.interval.start,
                "end_frame": select.interval.end,
                "key_frame": select.keyframe,
            }
            for select in dialogue.selects
        ],
        "conversations": conversations(sample.query, len(frames), dialogue, preset),
    }


def in_mask_order(sample: RefVideoSample) -> bool:
    """Whether the mask dictionary lists the frames in time order, which a VTS-CoT item takes for granted."""
    orders = [target.track.order for target in sample.targets or () if isinstance(target.track, JsonTrack)]
    return all(order == tuple(range(len(order))) for order in orders)


def conversations(query: str, num_frames: int, dialogue: Dialogue, preset: Preset) -> list[dict[str, str]]:
    """System, then human and gpt in turn.

    Human texts are the question, then what follows the repeated query: images, frame lists and that query
    are inserted by whoever loads the file.
    """
    asked = [prompts.question(query, num_frames, preset).strip()]
    asked += [f"<image>{CONTINUE_TAIL}"] * len(dialogue.selects)
    listed = [{"from": "system", "value": prompts.SYSTEM_PROMPT}]
    for human, reply in zip(asked, dialogue.texts, strict=True):
        listed += [{"from": "human", "value": human}, {"from": "gpt", "value": reply}]
    return listed


def _anno_id(target: Target) -> int | str:
    plain = target.id.isdecimal() and str(int(target.id)) == target.id
    return int(target.id) if plain else target.id


def own_row(sample: RefVideoSample, dialogue: Dialogue, home: Path) -> dict[str, Any]:
    """A line of the own-data schema for a file in folder `home`; it holds all known masks as RLE."""
    count = len(sample.frames)
    known = range(count) if sample.annotated is None else sample.annotated
    row = {
        **_media(sample, home),
        "id": sample.origin.key,
        "query": sample.query,
        "kind": sample.kind,
        "objects": [
            {"id": target.id, "rle": _codes(sample, target, known)} for target in sample.targets or ()
        ],
        "annotated": None if sample.annotated is None else list(known),
        "high_frames": list(dialogue.high_frames),
        "replies": list(dialogue.texts),
    }
    return {name: value for name, value in row.items() if value is not None}


def _codes(sample: RefVideoSample, target: Target, known: Any) -> Mapping[str, Any]:
    with sample.origin.naming(f"masks of object {target.id}"):
        masks = target.track.read(list(known))
    return {str(frame): mask.to_coco() for frame, mask in zip(known, masks, strict=True) if mask is not None}


def _media(sample: RefVideoSample, home: Path) -> dict[str, Any]:
    """Where the frames are, relative to `home`."""
    frames: Frames = sample.frames
    if isinstance(frames, ImageFrames):
        return {"frames": [_relative(frames.path(i), home) for i in range(len(frames))]}
    if frames.stride != 1:
        raise sample.origin.error("video", "an own-data line cannot say that only some frames count")
    return {"video": _relative(frames.path, home)}


def _relative(path: Path, home: Path) -> str:
    return Path(os.path.relpath(path.absolute(), home.absolute())).as_posix()
