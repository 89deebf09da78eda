"""Evaluation: what each benchmark asks, and the true masks, from its own layout of files (benchmarks §3).

Nothing but annotations is read, and those only when an item's masks are asked for. Pictures are needed by
GroundMoRe alone, whose evaluated frames are chosen among them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from videoseg.data.lazy import LazyDict, Span, find_path, read_pickle, read_span
from videoseg.data.readers.base import field, ids, text_field
from videoseg.data.readers.long_rvos import LongRvosReader
from videoseg.data.readers.meta import MaskDict, MetaReader, VideoEntry, mask_dict_targets, videos_of
from videoseg.data.readers.mevis import MevisReader
from videoseg.data.readers.ref_ytvos import RefYtvosReader
from videoseg.data.readers.revos import RevosReader
from videoseg.data.sample import Origin, Target
from videoseg.data.tracks import PngTrack, Track, listed_masks
from videoseg.errors import DatasetError
from videoseg.masks import Rle
from videoseg.video.sources import natural_key

SAMPLED = 20
RATE = 6
"""GroundMoRe evaluates 20 frames of a clip of 6 frames a second."""


@dataclass(frozen=True, slots=True)
class Item:
    """One expression: its key, the dataset's group of it, evaluated frames by name, and its instances.

    `size` is (height, width) where the annotations state it; `foreground` are all objects of the video.
    """

    key: tuple[str, ...]
    origin: Origin
    frames: tuple[str, ...]
    tracks: tuple[Track, ...]
    group: str = ""
    size: tuple[int, int] | None = None
    foreground: tuple[Track, ...] = ()

    def truth(self) -> list[list[Rle]]:
        """The instances on every frame, without those that are absent; raises `DatasetError`."""
        return self._columns(self.tracks, "masks")

    def others(self) -> list[list[Rle]]:
        """All annotated objects of the video on every frame."""
        return self._columns(self.foreground, "foreground")

    def _columns(self, tracks: Sequence[Track], name: str) -> list[list[Rle]]:
        with self.origin.naming(name):
            columns = [track.read(range(len(self.frames))) for track in tracks]
        return [
            [mask for mask in (column[place] for column in columns) if mask is not None]
            for place in range(len(self.frames))
        ]


class MaskDictReader(MetaReader):
    """YTVOS-style meta file with `mask_dict.json` beside it: Ref-SAV's evaluation set (§3.4)."""

    dataset = "ref-sav"
    meta_name = "meta_expressions_valid.json"
    images = "videos"
    kinds: Mapping[Any, str] = {0: "long", 1: "short"}

    def __init__(self, folder: Path | str, split: str = "valid") -> None:
        super().__init__(folder, split)
        self.masks = MaskDict.open(self.folder / "mask_dict.json")

    def meta_path(self) -> Path:
        """The file of expressions."""
        return find_path("the expressions of all videos", self.folder / self.meta_name)

    def frame_folder(self, video: str) -> Path:
        """Folder of a video's pictures."""
        return self.folder / self.images / video

    def targets(
        self, video: VideoEntry, name: str, entry: Mapping[str, Any], origin: Origin
    ) -> tuple[Target, ...] | None:
        """Its `anno_id`s."""
        return mask_dict_targets(self.masks, video, entry, origin)

    def kind(self, entry: Mapping[str, Any]) -> str:
        """`long` or `short`."""
        return self.kinds.get(entry.get("type_id"), "")


class ReasonVosFormatReader(MaskDictReader):
    """ReasonVOS as O3 stores it again: all frames, one `anno_id` per expression (§3.7)."""

    dataset = "reasonvos"
    meta_name = "meta_expressions_format.json"
    images = "JPEGImages"
    kinds: Mapping[Any, str] = {}


@dataclass(frozen=True, slots=True)
class CodesTrack:
    """Codes or None in memory, in the file's frame order; `order` maps our frames to it."""

    codes: Any
    order: tuple[int, ...]

    def read(self, frames: Sequence[int]) -> list[Rle | None]:
        """Masks of these frames."""
        return listed_masks(self.codes, [self.order[frame] for frame in frames], len(self.order))


class RefDavisReader(RefYtvosReader):
    """Ref-DAVIS17 after conversion (§3.3): `mask_dict.pkl` where it is there, else the label pictures.

    Numbers of the pickle count over sorted videos and, in a video, ids sorted as text ('10' before '2').
    """

    dataset = "ref-davis17"

    def __init__(self, folder: Path | str, split: str = "valid") -> None:
        super().__init__(folder, split)
        places = (self.folder / split / "mask_dict.pkl", self.folder / "mask_dict.pkl")
        path = find_path("the masks", *places, self.annotations)
        self.codes: dict[tuple[str, str], Any] = {}
        if path == self.annotations:
            return
        data = read_pickle(path, "the masks")
        pairs = [
            (video, name) for video in sorted(self.videos) for name in sorted(self._expressions_of(video))
        ]
        if not isinstance(data, dict) or set(map(str, data)) != set(map(str, range(len(pairs)))):
            raise DatasetError(f"{path} does not hold masks 0 to {len(pairs) - 1}, one per expression")
        named = {str(name): codes for name, codes in data.items()}
        self.codes = {pair: named[str(number)] for number, pair in enumerate(pairs)}

    def targets(
        self, video: VideoEntry, name: str, entry: Mapping[str, Any], origin: Origin
    ) -> tuple[Target, ...] | None:
        """The object of the expression."""
        if not self.codes:
            return super().targets(video, name, entry, origin)
        expression = origin.key.rpartition("/")[2]
        return (Target(str(entry.get("obj_id")), CodesTrack(self.codes[name, expression], video.order)),)


@dataclass(frozen=True, slots=True)
class ForegroundTrack:
    """`masks_rle` of one video in ReVOS's `mask_dict_foreground.json`."""

    path: Path
    span: Span
    order: tuple[int, ...]

    def read(self, frames: Sequence[int]) -> list[Rle | None]:
        """Masks of all annotated objects together."""
        codes = read_span(self.path, self.span).get("masks_rle")
        flat = [code[0] if isinstance(code, list) and len(code) == 1 else code for code in codes or []]
        return listed_masks(flat, [self.order[frame] for frame in frames], len(self.order))


@dataclass(frozen=True, slots=True)
class WindowTrack:
    """A track that is empty outside of `window` (both ends included); `places[i]` is frame i's number."""

    track: Track
    places: tuple[int, ...]
    window: tuple[int, int]

    def read(self, frames: Sequence[int]) -> list[Rle | None]:
        """Masks inside the window."""
        first, last = self.window
        masks = self.track.read(frames)
        return [
            mask if first <= self.places[frame] <= last else None
            for frame, mask in zip(frames, masks, strict=True)
        ]


def from_reader(reader: MetaReader) -> Iterator[Item]:
    """Items of a reader with a YTVOS-style meta file, keyed (video, expression)."""
    for sample in reader:
        if sample.targets is None:
            raise sample.origin.error(
                "masks", "this split is published without masks; only the benchmark's server can score it"
            )
        frames = tuple(name.removesuffix(".jpg") for name in getattr(sample.frames, "files", ()))
        tracks = tuple(target.track for target in sample.targets)
        raw, expression = reader.videos[sample.video], sample.origin.key.rpartition("/")[2]
        size = (int(raw["height"]), int(raw["width"])) if {"height", "width"} <= set(raw) else None
        yield Item((sample.video, expression), sample.origin, frames, tracks, sample.kind, size)


def mevis(folder: Path, split: str) -> Iterable[Item]:
    """MeViS (§3.1)."""
    return from_reader(MevisReader(folder, split))


def ref_ytvos(folder: Path, split: str) -> Iterable[Item]:
    """Ref-YouTube-VOS, where masks are at hand (§3.2)."""
    return from_reader(RefYtvosReader(folder, split))


def ref_davis(folder: Path, split: str) -> Iterable[Item]:
    """Ref-DAVIS17, one expression after the other (§3.3)."""
    return from_reader(RefDavisReader(folder, split))


def ref_sav(folder: Path, split: str) -> Iterable[Item]:
    """Ref-SAV's evaluation set (§3.4)."""
    return from_reader(MaskDictReader(folder, split))


def long_rvos(folder: Path, split: str) -> Iterable[Item]:
    """Long-RVOS (§3.5)."""
    return from_reader(LongRvosReader(folder, split))


def revos(folder: Path, split: str) -> Iterator[Item]:
    """ReVOS with each video's foreground: its file, else all objects of the video's expressions (§3.6)."""
    reader = RevosReader(folder, split)
    path = reader.folder / "mask_dict_foreground.json"
    stored = LazyDict(path) if path.is_file() else None
    for item in from_reader(reader):
        video, entry = item.key[0], reader.video(item.key[0], item.origin)
        if stored is None:
            names = dict.fromkeys(
                str(name) for one in entry.raw["expressions"].values() for name in one["anno_id"]
            )
            every = tuple(reader.masks.target(n, entry.order, item.origin, "anno_id").track for n in names)
        elif video in stored.spans:
            every = (ForegroundTrack(stored.path, stored.spans[video], entry.order),)
        else:
            raise item.origin.error("foreground", f"{path} has no video {video}")
        yield Item(item.key, item.origin, item.frames, item.tracks, item.group, item.size, every)


def reason_vos(folder: Path, split: str) -> Iterator[Item]:
    """ReasonVOS as published: evaluated are the frames that have a true PNG (§3.7)."""
    path = folder / "meta_expressions.json"
    for video, entry in videos_of(path).items():
        origin = Origin("reasonvos", path, video)
        for place, one in enumerate(field(entry, "expressions", list, origin)):
            at = f"expressions[{place}]"
            (thing,) = ids(field(one, "obj_id", (int, str), origin, at), origin, f"{at}.obj_id")
            (name,) = ids(field(one, "exp_id", (int, str), origin, at), origin, f"{at}.exp_id")
            home = folder / "Annotations" / f"{text_field(entry, 'source', origin)}_{video}_{thing}"
            stems = tuple(sorted((p.stem for p in home.glob("*.png")), key=lambda s: natural_key(Path(s))))
            if not stems:
                raise origin.error(at, f"{home} holds no PNG")
            key = (video, thing, name)
            yield Item(key, Origin("reasonvos", path, "/".join(key)), stems, (PngTrack(home, stems),))


def reason_vos_o3(folder: Path, split: str) -> Iterable[Item]:
    """ReasonVOS in O3's format."""
    return from_reader(ReasonVosFormatReader(folder, split))


def groundmore(folder: Path, split: str) -> Iterator[Item]:
    """GroundMoRe: 20 frames of each clip, true masks only inside of the action's window (§3.8)."""
    path = find_path("the questions of all videos", folder / f"{split}.json", folder / f"{split}_v2.json")
    for video, entry in videos_of(path).items():
        home = folder / "annotations" / video
        names = sorted((p.stem for p in (home / "images").glob("*.jpg")), key=lambda s: natural_key(Path(s)))
        origin = Origin("groundmore", path, video)
        if not names:
            raise origin.error("frames", f"{home / 'images'} holds no picture")
        places = tuple(int(place) for place in np.linspace(0, len(names) - 1, SAMPLED).astype(int))
        frames = tuple(names[place] for place in places)
        for name, one in field(entry, "questions", dict, origin).items():
            here = Origin("groundmore", path, f"{video}/{name}")
            window = action_window(video, one, here)
            values = [
                part
                for text in ids(field(one, "obj_id", (int, str, list), here), here, "obj_id")
                for part in re.split(r"\s*,\s*", text)
            ]
            with here.naming("obj_id"):
                tracks = tuple(PngTrack(home / "masks", frames, int(value)) for value in values)
            inside = tuple(WindowTrack(track, places, window) for track in tracks)
            yield Item((video, name), here, frames, inside, text_field(one, "q_type", here))


def action_window(video: str, question: Mapping[str, Any], origin: Origin) -> tuple[int, int]:
    """First and last frame of the action: 6·(start - clip start) to 6·(end - clip start) - 1 (§3.8)."""
    found = re.search(r"(\d\d)(\d\d)_\d{4}$", video)
    if not found:
        raise origin.error("video", f"{video} does not end in start and end of the clip (MMSS_MMSS)")
    clip = 60 * int(found[1]) + int(found[2])
    start, end = (
        seconds(text_field(question, name, origin), origin, name) for name in ("action_start", "action_end")
    )
    return RATE * (start - clip), RATE * (end - clip) - 1


def seconds(text: str, origin: Origin, at: str) -> int:
    """`MM:SS` in seconds."""
    found = re.fullmatch(r"(\d+):(\d\d)", text)
    if not found:
        raise origin.error(at, f"{text!r} is no time MM:SS")
    return 60 * int(found[1]) + int(found[2])
