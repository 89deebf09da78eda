"""Data reader: Long-RVOS, long videos with static, dynamic and hybrid expressions (benchmarks §3.5)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from videoseg.data.lazy import find_path
from videoseg.data.readers.base import field, ids
from videoseg.data.readers.meta import MaskDict, MetaReader, VideoEntry, mask_dict_targets
from videoseg.data.sample import Origin, Target
from videoseg.data.tracks import PngTrack

CONVERTED = "meta_expressions_with_anno.json"


class LongRvosReader(MetaReader):
    """`long_rvos/<split>/{JPEGImages, Annotations/<video>/<obj_id>/<frame>.png, meta_expressions.json}`.

    A missing PNG means that the object is absent from that frame. `obj_id` is a number or a text; what
    counts is the folder's name. Where `Annotations` is missing, O3's conversion is read instead
    (`meta_expressions_with_anno.json` with `mask_dict.json`). `folder` is `long_rvos` (or `Long-RVOS`).
    """

    dataset = "long-rvos"

    def __init__(self, folder: Path | str, split: str = "train") -> None:
        super().__init__(folder, split)
        self.annotations = self.meta.parent / "Annotations"
        converted = self.meta.name == CONVERTED
        self.masks = MaskDict.open(self.meta.parent / "mask_dict.json") if converted else None

    def meta_path(self) -> Path:
        """`meta_expressions.json` beside `Annotations`, else O3's conversion."""
        inner = self.folder / self.split
        home = inner if inner.is_dir() or self.folder.name != self.split else self.folder
        official, converted = home / "meta_expressions.json", home / CONVERTED
        first = (converted, official) if not (home / "Annotations").is_dir() else (official, converted)
        return find_path("the expressions of all videos", *first)

    def frame_folder(self, video: str) -> Path:
        """`JPEGImages/<video>`."""
        return self.meta.parent / "JPEGImages" / video

    def targets(
        self, video: VideoEntry, name: str, entry: Mapping[str, Any], origin: Origin
    ) -> tuple[Target, ...] | None:
        """The object's folder of PNGs; None where the split has none (test)."""
        if self.masks is not None:
            return mask_dict_targets(self.masks, video, entry, origin)
        if not self.annotations.is_dir():
            if self.split == "test":
                return None
            raise origin.error("masks", f"{self.annotations}: no such folder, and no {CONVERTED} beside it")
        stems = tuple(Path(file).stem for file in video.frames.files)
        names = ids(field(entry, "obj_id", (int, str, list), origin), origin, "obj_id")
        return tuple(Target(one, PngTrack(self._folder(name, one, origin), stems)) for one in names)

    def _folder(self, video: str, name: str, origin: Origin) -> Path:
        """The folder of an object: its id as it is, or with another number of leading zeros."""
        home = self.annotations / video
        if (home / name).is_dir():
            return home / name
        there = sorted(path.name for path in home.iterdir() if path.is_dir()) if home.is_dir() else []
        same = [one for one in there if one.isdecimal() and name.isdecimal() and int(one) == int(name)]
        if not same:
            raise origin.error(
                "obj_id", f"{home} has no folder {name}; there are {', '.join(there) or 'none'}"
            )
        return home / same[0]

    def kind(self, entry: Mapping[str, Any]) -> str:
        """`static`, `dynamic` or `hybrid`."""
        return str(entry.get("type", ""))
