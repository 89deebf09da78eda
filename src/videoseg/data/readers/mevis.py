"""Data reader: MeViS, motion expressions with one or more objects (benchmarks §3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from videoseg.data.lazy import find_path
from videoseg.data.readers.meta import MaskDict, MetaReader, VideoEntry, mask_dict_targets
from videoseg.data.sample import Origin, Target


class MevisReader(MetaReader):
    """`mevis/{train,valid_u,valid}/{JPEGImages, meta_expressions.json, mask_dict.json}`.

    `folder` is `mevis` or the folder of the split. `valid` has no mask dictionary: its samples have no
    targets. Objects of an expression are its `anno_id`s.
    """

    dataset = "mevis"

    def __init__(self, folder: Path | str, split: str = "train") -> None:
        super().__init__(folder, split)
        path = self.meta.parent / "mask_dict.json"
        self.masks = None if split in ("valid", "test") and not path.exists() else MaskDict.open(path)

    def meta_path(self) -> Path:
        """`meta_expressions.json` of the split."""
        inner = self.folder / self.split / "meta_expressions.json"
        named = [self.folder / "meta_expressions.json"] if self.folder.name == self.split else []
        released = self.folder / self.split / "meta_expressions_release.json"
        return find_path("the expressions of all videos", inner, *named, released)

    def frame_folder(self, video: str) -> Path:
        """`JPEGImages/<video>`."""
        return self.meta.parent / "JPEGImages" / video

    def targets(
        self, video: VideoEntry, name: str, entry: Mapping[str, Any], origin: Origin
    ) -> tuple[Target, ...] | None:
        """Its `anno_id`s."""
        return mask_dict_targets(self.masks, video, entry, origin)
