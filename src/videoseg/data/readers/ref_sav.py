"""Data reader: the Ref-SAV training set, expressions for objects of SA-V (benchmarks §4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from videoseg.data.frames import FileFrames
from videoseg.data.lazy import LazyDict, find_path
from videoseg.data.readers.base import Reader, field, text_field
from videoseg.data.sample import Origin, RefVideoSample, Target
from videoseg.data.tracks import SavTrack
from videoseg.video.sources import natural_key

STRIDE = 4
"""SA-V annotates every 4th of 24 frames a second."""


class RefSavReader(Reader[RefVideoSample]):
    """`sam_v_final_custom.json` or `Ref-SAV.json`, with SA-V's mp4 and `*_manual.json` files.

    The file is `{video: {video_path, anno_path, objects: {obj_id: {formated: text}}}}`. Paths are looked up
    in `sam_v_full/` and beside the file; the folder that the published file names twice
    (`sav_000/sav_train/sav_000/…`) may be there or not. A sample is one object of a video; object `n` is
    the n-th entry of each row of `masklet`. Frames are every 4th of the mp4.
    """

    dataset = "ref-sav"

    def __init__(self, folder: Path | str, split: str = "train") -> None:
        super().__init__(folder, split)
        names = ("sam_v_final_custom.json", "Ref-SAV.json", "ref_sav/Ref-SAV.json", "../ref_sav/Ref-SAV.json")
        self.meta = find_path("the expressions of all objects", *(self.folder / name for name in names))
        self._videos = LazyDict(self.meta)
        self._pairs = [(video, name) for video in self._videos for name in self._objects(video)]

    def _objects(self, video: str) -> list[str]:
        origin = self.origin(self.meta, video)
        return sorted(
            field(self._videos[video], "objects", dict, origin), key=lambda name: natural_key(Path(name))
        )

    def __len__(self) -> int:
        return len(self._pairs)

    def sample(self, index: int) -> RefVideoSample:
        """Object number `index`, counted over all videos."""
        video, name = self._pairs[index]
        origin = self.origin(self.meta, f"{video}/{name}")
        entry = self._videos[video]
        query = text_field(entry["objects"][name], "formated", origin, f"objects.{name}")
        if not name.isdecimal():
            raise origin.error("objects", f"{name!r} is no column of the masklet (a whole number from 0)")
        frames = FileFrames(self._find(entry, "video_path", origin), STRIDE)
        with origin.naming("video_path"):
            track = SavTrack(self._find(entry, "anno_path", origin), int(name), len(frames))
        return RefVideoSample(origin, frames, query, (Target(name, track),), video=video)

    def _find(self, entry: Any, name: str, origin: Origin) -> Path:
        """The file that an entry means, under one of the folders it may have been unpacked to."""
        stated = PurePosixPath(text_field(entry, name, origin))
        homes = (self.folder / "sam_v_full", self.folder, self.meta.parent)
        places = [home / path for home in homes for path in variants(stated)]
        for place in places:
            if place.is_file():
                return place
        raise origin.error(
            name, f"{stated} is not under {self.folder}; looked at {places[0]} and {places[1]}"
        )

    @cached_property
    def groups(self) -> Sequence[range]:
        """One unit per video."""
        units, start = [], 0
        for index, (video, _) in enumerate(self._pairs):
            if index + 1 == len(self._pairs) or self._pairs[index + 1][0] != video:
                units.append(range(start, index + 1))
                start = index + 1
        return units

    def counts(self) -> dict[str, int]:
        """Videos and objects."""
        return {"videos": len(self._videos), "expressions": len(self._pairs)}


def variants(path: PurePosixPath) -> tuple[PurePosixPath, PurePosixPath]:
    """A path without and with the folder that is named both before and after `sav_train`."""
    parts = list(path.parts)
    if "sav_train" in parts:
        place = parts.index("sav_train")
        if 0 < place < len(parts) - 1 and parts[place - 1] == parts[place + 1]:
            return PurePosixPath(*parts[: place - 1], *parts[place:]), path
    return path, PurePosixPath(path.name)
