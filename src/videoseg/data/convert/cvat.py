"""Data converter: "CVAT for video 1.1" and "CVAT for images 1.1" (annotations.xml): polygons and masks."""

from __future__ import annotations

import xml.etree.ElementTree as Xml
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from videoseg.data.convert.common import Options, box_mask, need_media, refuse_box, relative
from videoseg.data.lazy import require_file
from videoseg.data.tracks import polygons_rle
from videoseg.errors import DatasetError
from videoseg.masks import Rle, union
from videoseg.video.reader import Video

SHAPES = ("polygon", "mask", "box")
QUERY = "query"


@dataclass(slots=True)
class Picked:
    """A row in the making: objects by id, each with masks by frame."""

    objects: dict[str, dict[int, list[Rle]]] = field(default_factory=dict)

    def add(self, name: str, frame: int, mask: Rle) -> None:
        """Several shapes of one object on one frame become their union."""
        self.objects.setdefault(name, {}).setdefault(frame, []).append(mask)

    def rows(self) -> list[dict[str, Any]]:
        """The objects as the schema wants them."""
        return [
            {
                "id": name,
                "rle": {str(frame): union(masks).to_coco() for frame, masks in sorted(frames.items())},
            }
            for name, frames in self.objects.items()
        ]


def cvat_rows(source: Path, home: Path, options: Options) -> Iterator[dict[str, Any]]:
    """One row per query: of a video task for the whole video, of an image task per image.

    The query is the attribute `query` of a track or shape, else the label. Frames are those of the
    original video (`options.media`: the video file, or the folder of images). Tracks are exported frame by
    frame, so nothing is interpolated; a shape marked outside is absent.
    """
    path = require_file(source / "annotations.xml" if source.is_dir() else source, "a CVAT export")
    root = _parse(path)
    if root.find("image") is not None:
        media = options.media or (
            path.parent / "images" if (path.parent / "images").is_dir() else path.parent
        )
        for image in root.iter("image"):
            yield from _image_rows(path, image, media, home, options)
        return
    yield from _video_rows(path, root, need_media(options, "the video of the task"), home, options)


def _parse(path: Path) -> Xml.Element:
    with path.open("rb") as file:
        head = file.read(4096)
    if b"<!DOCTYPE" in head or b"<!ENTITY" in head:
        raise DatasetError(f"{path}: it declares entities, which a CVAT export never does; it is refused")
    try:
        root = Xml.parse(path).getroot()
    except Xml.ParseError as error:
        raise DatasetError(f"{path}: not valid XML ({error}); export it again") from error
    if root.tag != "annotations":
        raise DatasetError(
            f"{path}: the root is <{root.tag}>, not <annotations>; export as CVAT for video or images"
        )
    return root


def _video_rows(
    path: Path, root: Xml.Element, media: Path, home: Path, options: Options
) -> Iterator[dict[str, Any]]:
    with Video(media) as video:
        count, height, width = len(video), video.height, video.width
    stated = root.find(".//original_size")
    if stated is not None and (stated.findtext("height"), stated.findtext("width")) != (
        str(height),
        str(width),
    ):
        size = f"{stated.findtext('width')}x{stated.findtext('height')}"
        raise DatasetError(
            f"{path}: the task's video is {size}, {media} is {width}x{height}; give the right --media"
        )
    picked: dict[str, Picked] = {}
    for track in root.iter("track"):
        name = track.get("id", "0")
        text = _query(track, name, media.stem, options)
        for shape in track:
            if shape.tag not in SHAPES or shape.get("outside") == "1":
                continue
            where = f"{path}: track {name}, frame {shape.get('frame')}"
            frame = _number(shape, "frame", where)
            if not 0 <= frame < count:
                raise DatasetError(f"{where}: {media} has {count} frames")
            mask = _mask(shape, height, width, where, options)
            if mask is not None:
                picked.setdefault(text, Picked()).add(name, frame, mask)
    known = _annotated(root, count)
    for text, row in picked.items():
        base: dict[str, Any] = {"video": relative(media, home), "query": text, "objects": row.rows()}
        yield base if known is None else {**base, "annotated": known}


def _annotated(root: Xml.Element, count: int) -> list[int] | None:
    """Frames of a task that covers only a part of the video; None where it covers all."""
    first, last = root.findtext(".//task/start_frame"), root.findtext(".//task/stop_frame")
    step = (root.findtext(".//task/frame_filter") or "").partition("step=")[2]
    numbers = [int(text) if text and text.strip().isdecimal() else None for text in (first, last, step)]
    frames = list(
        range(
            numbers[0] or 0,
            min(count, (count - 1 if numbers[1] is None else numbers[1]) + 1),
            numbers[2] or 1,
        )
    )
    return None if len(frames) == count else frames


def _image_rows(
    path: Path, image: Xml.Element, media: Path, home: Path, options: Options
) -> Iterator[dict[str, Any]]:
    name = image.get("name", "")
    where = f"{path}: image {name}"
    file = media / name
    if not file.is_file():
        raise DatasetError(f"{where}: {file} is missing; give the folder of images with --media")
    height, width = _number(image, "height", where), _number(image, "width", where)
    picked: dict[str, Picked] = {}
    for number, shape in enumerate(image):
        if shape.tag not in SHAPES:
            continue
        mask = _mask(shape, height, width, f"{where}, shape {number}", options)
        if mask is not None:
            text = _query(shape, str(number), Path(name).stem, options)
            picked.setdefault(text, Picked()).add(shape.get("group_id") or f"s{number}", 0, mask)
    for text, row in picked.items():
        yield {"image": relative(file, home), "query": text, "objects": row.rows()}


def _query(element: Xml.Element, name: str, video: str, options: Options) -> str:
    for attribute in element.iter("attribute"):
        if attribute.get("name") == QUERY and (attribute.text or "").strip():
            return str(attribute.text).strip()
    return options.text(label=element.get("label", ""), id=name, video=video)


def _mask(shape: Xml.Element, height: int, width: int, where: str, options: Options) -> Rle | None:
    """The pixels of a shape; None for a box that is to be left out."""
    try:
        if shape.tag == "polygon":
            points = [float(v) for pair in shape.get("points", "").split(";") for v in pair.split(",")]
            return polygons_rle([points], height, width)
        if shape.tag == "mask":
            return _runs(shape, height, width, where)
        if options.boxes == "skip":
            return None
        if options.boxes == "error":
            raise refuse_box(where)
        return box_mask(
            [float(shape.get(side, "nan")) for side in ("xtl", "ytl", "xbr", "ybr")], height, width
        )
    except ValueError as error:
        raise DatasetError(f"{where}: {error}") from error


def _runs(shape: Xml.Element, height: int, width: int, where: str) -> Rle:
    """A mask: runs over the rows of its box, the first one of background."""
    left, top = _number(shape, "left", where), _number(shape, "top", where)
    across, down = _number(shape, "width", where), _number(shape, "height", where)
    runs = [int(value) for value in shape.get("rle", "").split(",")]
    if min(runs) < 0 or sum(runs) != across * down:
        raise ValueError(f"runs cover {sum(runs)} pixels, the box of the mask has {across}x{down}")
    if left < 0 or top < 0 or left + across > width or top + down > height:
        raise ValueError(
            f"a mask at {left},{top} of {across}x{down} is not inside the picture of {width}x{height}"
        )
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    mask = np.zeros((height, width), dtype=bool)
    mask[top : top + down, left : left + across] = flat.reshape(down, across)
    return Rle.encode(mask)


def _number(element: Xml.Element, name: str, where: str) -> int:
    value = element.get(name)
    try:
        return int(value or "")
    except ValueError as error:
        raise DatasetError(f"{where}: attribute {name} is {value!r}, a whole number is expected") from error
