"""Evaluation: what each benchmark asks, and the true masks, from its own layout of files (benchmarks §3).

Nothing but annotations is read, and those only when an item's masks are asked for. Pictures are listed for
GroundMoRe alone, whose evaluated frames are chosen among them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from videoseg.data.frames import ImageFrames
from videoseg.data.lazy import LazyDict, find_path
from videoseg.data.readers.base import field, ids, listed_frames, text_field
from videoseg.data.readers.long_rvos import LongRvosReader
from videoseg.data.readers.meta import MetaReader, videos_of
from videoseg.data.readers.mevis import MevisReader
from videoseg.data.readers.ref_ytvos import RefYtvosReader
from videoseg.data.readers.revos import RevosReader
from videoseg.data.sample import Origin
from videoseg.data.tracks import PngTrack, Track
from videoseg.evaluation.readers import (
    ForegroundTrack,
    MaskDictReader,
    ReasonVosFormatReader,
    RefDavisReader,
    UnfilteredYtvosReader,
    WindowTrack,
    WorldReader,
)
from videoseg.masks import Rle
from videoseg.video.cache import Frame
from videoseg.video.reader import Video
from videoseg.video.sources import natural_key

SAMPLED = 20
RATE = 6
"""GroundMoRe evaluates 20 frames of a clip of 6 frames a second."""


class Footage(Protocol):
    """All frames of a video in time order; a frame's name is its file's stem."""

    @property
    def files(self) -> tuple[str, ...]:
        """File names."""
        ...

    def read(self, indices: Sequence[int]) -> list[Frame]:
        """Frames uint8 [H, W, 3]."""
        ...

    def open(self) -> Video:
        """The whole video."""
        ...


@dataclass(frozen=True, slots=True)
class Item:
    """One expression: its key, the dataset's group of it, evaluated frames by name, and its instances.

    `tracks` is None where masks are not published. `size` is (height, width) where the annotations state it;
    `foreground` are all objects of the video. `ordered`: the annotations list the frames in time order.
    `home` is the folder of its pictures in the official layout of predictions, if it is not the key.
    """

    key: tuple[str, ...]
    origin: Origin
    frames: tuple[str, ...]
    tracks: tuple[Track, ...] | None
    group: str = ""
    size: tuple[int, int] | None = None
    foreground: tuple[Track, ...] = ()
    text: str = ""
    video: Footage | None = None
    ordered: bool = True
    home: str = ""

    @property
    def name(self) -> str:
        """The key as one text."""
        return "/".join(self.key)

    @property
    def stems(self) -> tuple[str, ...]:
        """Names of all frames of the video; of the evaluated ones where there is no video."""
        return tuple(Path(file).stem for file in self.video.files) if self.video else self.frames

    def truth(self) -> list[list[Rle]]:
        """The instances on every frame, without those that are absent; raises `DatasetError`."""
        return self._columns(self.published(), "masks")

    def published(self) -> tuple[Track, ...]:
        """The tracks; raises `DatasetError` where there are none to be had."""
        if self.tracks is None:
            raise self.origin.error(
                "masks", "this split is published without masks; only the benchmark's server can score it"
            )
        return self.tracks

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


def from_reader(reader: MetaReader) -> Iterator[Item]:
    """Items of a reader with a YTVOS-style meta file, keyed (video, expression)."""
    for sample in reader:
        video, expression = str(sample.video), sample.origin.key.rpartition("/")[2]
        entry = reader.video(video, sample.origin)
        raw = entry.raw
        yield Item(
            (video, expression),
            sample.origin,
            tuple(Path(file).stem for file in entry.frames.files),
            None if sample.targets is None else tuple(target.track for target in sample.targets),
            sample.kind,
            (int(raw["height"]), int(raw["width"])) if {"height", "width"} <= set(raw) else None,
            text=sample.query,
            video=entry.frames,
            ordered=entry.order == tuple(range(len(entry.order))),
        )


def mevis(folder: Path, split: str) -> Iterable[Item]:
    """MeViS (§3.1)."""
    return from_reader(MevisReader(folder, split))


def ref_ytvos(folder: Path, split: str) -> Iterable[Item]:
    """Ref-YouTube-VOS, where masks are at hand (§3.2)."""
    return from_reader(RefYtvosReader(folder, split))


def ref_ytvos_all(folder: Path, split: str) -> Iterable[Item]:
    """Ref-YouTube-VOS with every video that the file lists, as O3 takes it (§3.2)."""
    return from_reader(UnfilteredYtvosReader(folder, split))


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
        yield replace(item, foreground=every)


def world(folder: Path, split: str) -> Iterable[Item]:
    """The generated world; groups are its families (design §5)."""
    return from_reader(WorldReader(folder, split))


def reason_vos(folder: Path, split: str) -> Iterator[Item]:
    """ReasonVOS as published: evaluated are the frames that have a true PNG (§3.7)."""
    path = folder / "meta_expressions.json"
    for video, entry in videos_of(path).items():
        origin = Origin("reasonvos", path, video)
        frames, _ = listed_frames(entry, folder / "JPEGImages" / video, origin)
        for place, one in enumerate(field(entry, "expressions", list, origin)):
            at = f"expressions[{place}]"
            (thing,) = ids(field(one, "obj_id", (int, str), origin, at), origin, f"{at}.obj_id")
            (name,) = ids(field(one, "exp_id", (int, str), origin, at), origin, f"{at}.exp_id")
            home = folder / "Annotations" / f"{text_field(entry, 'source', origin)}_{video}_{thing}"
            stems = tuple(sorted((p.stem for p in home.glob("*.png")), key=lambda s: natural_key(Path(s))))
            if not stems:
                raise origin.error(at, f"{home} holds no PNG")
            key = (video, thing, name)
            yield Item(
                key,
                Origin("reasonvos", path, "/".join(key)),
                stems,
                (PngTrack(home, stems),),
                text=str(one.get("exp_text", "")),
                video=frames,
                home=f"{home.name}/{name}",
            )


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
            kind, text = (text_field(one, at, here) for at in ("q_type", "question"))
            whole = ImageFrames(home / "images", tuple(f"{stem}.jpg" for stem in names))
            yield Item((video, name), here, frames, inside, kind, text=text, video=whole)


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
