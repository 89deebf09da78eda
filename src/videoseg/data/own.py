"""Data: your own videos: one JSONL schema, one line per query (users §2.5, R27; described in docs/data.md).

Paths are relative to the JSONL file's folder. Unknown fields are errors, so a misspelt one is found.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from videoseg.data.frames import FileFrames, Frames, ImageFrames
from videoseg.data.lazy import LazyLines, require_file
from videoseg.data.readers.base import Reader, frame_number
from videoseg.data.sample import Origin, RefVideoSample, Target, TraceSample
from videoseg.data.tracks import PngTrack, SparseTrack, Track
from videoseg.dialogue.grammar import parse
from videoseg.errors import DatasetError, OutputError, ReplyError
from videoseg.types import Answer, Select
from videoseg.video.sources import images_in

Masks = list[dict[str, Any] | None] | dict[int, dict[str, Any]]


class OwnObject(BaseModel):
    """One object: exactly one of `rle`, `polygons` and `png`.

    `rle`: one COCO code or null per frame, or an object from frame number to code; `polygons`: from frame
    number to a list of [x, y, x, y, ...] in pixels; `png`: a folder with a picture per frame, all non-zero
    pixels or those of `value` (for label maps).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str | int = "1"
    rle: Masks | None = None
    polygons: dict[int, list[Any]] | None = None
    png: str | None = None
    value: int | None = None

    @model_validator(mode="after")
    def _one_source(self) -> OwnObject:
        given = [name for name in ("rle", "polygons", "png") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of rle, polygons and png (there is {', '.join(given) or 'none'})"
            )
        if self.value is not None and self.png is None:
            raise ValueError("value belongs to png")
        return self


class OwnRow(BaseModel):
    """One line: a query about one video (or image), and the objects that it means.

    `video` is a file or a folder of images, `frames` a list of image files, `image` one image: exactly one.
    `objects` empty means "no such object". `annotated` lists the frames whose masks are known; without it,
    a frame without a mask is one without the object. `replies` and `high_frames` make a cold-start dialogue.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    query: str
    objects: list[OwnObject]
    video: str | None = None
    frames: list[str] | None = None
    image: str | None = None
    id: str | None = None
    kind: str = ""
    annotated: list[int] | None = None
    split: str | None = None
    replies: list[str] | None = None
    high_frames: list[int] | None = None

    @model_validator(mode="after")
    def _one_video(self) -> OwnRow:
        given = [name for name in ("video", "frames", "image") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of video, frames and image (there is {', '.join(given) or 'none'})"
            )
        if not self.query.strip():
            raise ValueError("query is empty")
        if (self.replies is None) != (self.high_frames is None):
            raise ValueError("replies and high_frames belong together")
        return self

    @property
    def media(self) -> str:
        """What the row is about, as text; rows of one video have the same."""
        return self.video or self.image or (self.frames or [""])[0]


class OwnReader(Reader[RefVideoSample | TraceSample]):
    """A JSONL file of your own; `folder` is the file, or a folder with `<split>.jsonl` or `data.jsonl`.

    Lines with another `split` are left out. Lines of one video that follow each other are one unit.
    """

    dataset = "own"

    def __init__(self, folder: Path | str, split: str = "train") -> None:
        given = Path(folder)
        if given.suffix == ".jsonl":
            self.path = require_file(given, "one query per line")
            super().__init__(given.parent, split)
        else:
            super().__init__(given, split)
            named = given / f"{split}.jsonl"
            self.path = named if named.is_file() else require_file(given / "data.jsonl", "one query per line")
        self._lines = LazyLines(self.path)
        self._kept: list[int] = []
        self._media: list[int] = []
        for place, line in enumerate(self._lines):
            if self._belongs(line):
                self._kept.append(place)
                self._media.append(hash(_media_key(line)))
        if not self._kept:
            raise DatasetError(f"{self.path}: no line for split {split!r}; leave split out, or give another")

    def _belongs(self, line: Any) -> bool:
        return not isinstance(line, dict) or line.get("split") in (None, self.split)

    def __len__(self) -> int:
        return len(self._kept)

    def row(self, index: int) -> tuple[OwnRow, Origin]:
        """A line as it is written, checked against the schema."""
        place = self._kept[index]
        origin = self.origin(self.path, f"line {self._lines.numbers[place]}")
        try:
            return OwnRow.model_validate(self._lines[place]), origin
        except ValidationError as error:
            first = error.errors()[0]
            at = ".".join(str(part) for part in first["loc"]) or "line"
            raise origin.error(at, first["msg"]) from error

    def sample(self, index: int) -> RefVideoSample | TraceSample:
        """Line number `index`: a query, or a dialogue where the line has `replies`."""
        row, origin = self.row(index)
        with origin.naming("video"):
            frames = self._frames(row)
        targets = tuple(
            Target(str(item.id), self._track(item, frames, origin, f"objects.{i}"))
            for i, item in enumerate(row.objects)
        )
        count = len(frames)
        if row.replies is not None:
            return self._dialogue(row, origin, frames, targets)
        known = row.annotated
        annotated = (
            None if known is None else tuple(frame_number(v, count, origin, "annotated") for v in known)
        )
        return RefVideoSample(origin, frames, row.query.strip(), targets, row.kind, annotated, row.media)

    def _frames(self, row: OwnRow) -> Frames:
        if row.frames:
            return ImageFrames(self.folder, tuple(row.frames))
        path = self.folder / row.media
        if row.image:
            return ImageFrames(path.parent, (path.name,))
        if path.is_dir():
            return ImageFrames(path, tuple(image.name for image in images_in(path)))
        if not path.is_file():
            raise ValueError(f"{path}: no such file or folder; paths are relative to {self.folder}")
        return FileFrames(path)

    def _track(self, item: OwnObject, frames: Frames, origin: Origin, at: str) -> Track:
        if item.png is not None:
            folder = self.folder / item.png
            if not folder.is_dir():
                raise origin.error(f"{at}.png", f"{folder}: no such folder")
            return PngTrack(folder, stems(frames), item.value)
        entries: Mapping[int, Any] = item.polygons or {}
        if isinstance(item.rle, list):
            if len(item.rle) != len(frames):
                raise origin.error(f"{at}.rle", f"{len(item.rle)} entries for {len(frames)} frames")
            entries = dict(enumerate(item.rle))
        elif item.rle is not None:
            entries = item.rle
        for frame in entries:
            frame_number(
                frame, len(frames), origin, f"{at}.rle" if item.polygons is None else f"{at}.polygons"
            )
        with origin.naming("video"):
            return SparseTrack(entries, *frames.size(0))

    def _dialogue(
        self, row: OwnRow, origin: Origin, frames: Frames, targets: tuple[Target, ...]
    ) -> TraceSample:
        shown = [frame_number(v, len(frames), origin, "high_frames") for v in row.high_frames or []]
        replies = tuple(text.strip() for text in row.replies or [])
        parsed: list[Select | Answer] = []
        for number, text in enumerate(replies):
            try:
                parsed.append(parse(text))
            except ReplyError as error:
                raise origin.error(
                    f"replies.{number}", f"it does not follow the turn grammar: {error}"
                ) from error
            frame_number(parsed[-1].keyframe, len(frames), origin, f"replies.{number} keyframe")
        selects = tuple(reply for reply in parsed[:-1] if isinstance(reply, Select))
        if not shown or not parsed or len(selects) != len(parsed) - 1 or not isinstance(parsed[-1], Answer):
            raise origin.error(
                "replies", "one or more selects (or none) and then one answer, with high_frames"
            )
        return TraceSample(
            origin,
            frames,
            row.query.strip(),
            targets,
            tuple(sorted(set(shown))),
            "",
            (),
            replies,
            selects,
            row.media,
        )

    @cached_property
    def groups(self) -> Sequence[range]:
        """Runs of lines about one video."""
        units: list[range] = []
        for index, media in enumerate(self._media):
            if units and media == self._media[index - 1]:
                units[-1] = range(units[-1].start, index + 1)
            else:
                units.append(range(index, index + 1))
        return units

    def counts(self) -> dict[str, int]:
        """Videos (units) and queries."""
        return {"videos": len(self.groups), "expressions": len(self)}


def _media_key(line: Any) -> str:
    names = ("video", "frames", "image")
    return json.dumps([line.get(name) for name in names]) if isinstance(line, dict) else ""


def stems(frames: Frames) -> tuple[str, ...]:
    """Names of mask pictures without suffix: those of the frames, or 00000, 00001, … for a video file."""
    if isinstance(frames, ImageFrames):
        return tuple(Path(name).stem for name in frames.files)
    return tuple(f"{index:05d}" for index in range(len(frames)))


def write_rows(rows: Iterable[Mapping[str, Any]], path: Path | str) -> int:
    """Write a JSONL file in one go (nothing is left if it fails); returns the number of lines.

    Every row is checked against the schema first. Raises `DatasetError` for a row that does not fit and
    `OutputError` where the file cannot be written.
    """
    target = Path(path)
    partial = target.with_name(f".{target.name}.partial-{uuid.uuid4().hex[:8]}")
    count = 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w") as file:
            for line in _lines(rows, target):
                file.write(line)
                count += 1
        os.replace(partial, target)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error}); check the folder") from error
    finally:
        with suppress(OSError):  # what led here is already being raised
            partial.unlink(missing_ok=True)
    return count


def _lines(rows: Iterable[Mapping[str, Any]], target: Path) -> Iterator[str]:
    for number, row in enumerate(rows, 1):
        try:
            OwnRow.model_validate(row)
        except ValidationError as error:
            raise DatasetError(f"{target}, line {number}: {error}") from error
        yield json.dumps(row, separators=(",", ":")) + "\n"
