"""Data converters: what they share: options, query texts, relative paths."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from videoseg.data.tracks import coco_mask, short
from videoseg.errors import DatasetError, UsageError
from videoseg.masks import Rle

Pixels = Iterable[Rle]


@dataclass(frozen=True, slots=True)
class Options:
    """How to convert.

    `media`: the video file or folder of images, where the export does not say. `query`: the text where an
    object has none of its own, with the fields {label}, {id} and {video}. `boxes`: what to do with boxes,
    which are no masks: stop, fill them, or leave them out. `texts`: a file of queries (DAVIS).
    """

    media: Path | None = None
    query: str = "{label}"
    boxes: Literal["error", "fill", "skip"] = "error"
    texts: tuple[Path, ...] = ()

    def text(self, *, label: str, id: str, video: str) -> str:
        """The query of an object."""
        try:
            return self.query.format(label=label, id=id, video=video)
        except (KeyError, IndexError, ValueError) as error:
            raise UsageError(
                f"query {self.query!r}: the fields are {{label}}, {{id}} and {{video}}"
            ) from error


def relative(path: Path, home: Path) -> str:
    """`path` as seen from the folder of the JSONL file."""
    return Path(os.path.relpath(path.resolve(), home.resolve())).as_posix()


def mask_of(segmentation: Any, height: int, width: int, where: str) -> dict[str, Any]:
    """A COCO segmentation as a compressed code; raises `DatasetError` that says where."""
    try:
        mask = coco_mask(segmentation, height, width)
    except ValueError as error:
        raise DatasetError(f"{where}: {error}") from error
    if (mask.height, mask.width) != (height, width):
        raise DatasetError(f"{where}: mask of {mask.height}x{mask.width}, the picture is {height}x{width}")
    return mask.to_coco()


def box_mask(box: Sequence[float], height: int, width: int) -> Rle:
    """A box (left, top, right, bottom) in pixels, filled."""
    mask = np.zeros((height, width), dtype=bool)
    left, top, right, bottom = (round(value) for value in box)
    mask[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = True
    return Rle.encode(mask)


def refuse_box(where: str) -> DatasetError:
    """The error for a box where masks are needed."""
    return DatasetError(f"{where}: a box is no mask; draw a polygon or mask, or choose --boxes fill or skip")


def need(entry: Any, name: str, where: str) -> Any:
    """`entry[name]`, or a `DatasetError` that says where it is missing."""
    if not isinstance(entry, Mapping):
        raise DatasetError(f"{where}: an object with fields is expected, not {short(entry)}")
    if name not in entry:
        raise DatasetError(f"{where}: field {name} is missing; there are {', '.join(map(str, entry))}")
    return entry[name]


def need_media(options: Options, what: str) -> Path:
    """The path given as `media`; raises `UsageError` or `DatasetError`."""
    if options.media is None:
        raise UsageError(f"the export does not say where {what} is; give it with --media")
    if not options.media.exists():
        raise DatasetError(f"{options.media}: no such file or folder; --media must be {what}")
    return options.media
