"""Data readers: the video sets that VTS-CoT and the RL files name: where their frames and masks are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videoseg.data.frames import ImageFrames
from videoseg.data.lazy import find_path
from videoseg.data.readers.base import field, ids, listed_frames, text_field
from videoseg.data.readers.meta import MaskDict
from videoseg.data.sample import Origin, Target

LAYOUTS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    # name in the file: folders, frames inside them, mask dictionaries inside them (O3's layout first)
    "revos": (("revos", "ReVOS"), ("JPEGImages", ""), ("mask_dict.json",)),
    "mevis": (("mevis", "MeViS"), ("train/JPEGImages",), ("train/mask_dict.json",)),
    "longrvos": (("Long-RVOS", "long_rvos"), ("train/JPEGImages",), ("train/mask_dict.json",)),
}


@dataclass(frozen=True, slots=True)
class VideoSet:
    """Frames and masks of one source."""

    frames_root: Path
    masks: MaskDict

    @classmethod
    def open(cls, source: str, videos: Path) -> VideoSet:
        """The set `source` under the folder of all video sets; raises `DatasetError`."""
        names, frames, masks = LAYOUTS[source]
        what = f"the video set {source}"
        home = find_path(what, *(videos / name for name in names))
        return cls(
            find_path(f"the frames of {source}", *(home / name for name in frames)),
            MaskDict.open(find_path(f"the masks of {source}", *(home / name for name in masks))),
        )

    def read(self, item: Any, origin: Origin) -> tuple[str, ImageFrames, str, tuple[Target, ...]]:
        """Video, frames, query and targets of an item, the fields that both files share.

        Indices of an item are positions in its `frames`, so these must be in time order.
        """
        video = text_field(item, "video_name", origin)
        frames, order = listed_frames(item, self.frames_root / video, origin)
        if order != tuple(range(len(order))):
            raise origin.error("frames", "not in time order, but the numbers of the item count in this order")
        query = text_field(item, "exp", origin)
        names = ids(field(item, "anno_id", (list, int, str), origin), origin, "anno_id")
        targets = tuple(self.masks.target(name, order, origin, "anno_id") for name in names)
        return video, frames, query, targets


def video_sets_folder(folder: Path, videos: Path | str | None) -> Path:
    """Where the video sets are: as given, or `video_datas` beside or in the folder of the annotations."""
    if videos is not None:
        return find_path("the video sets (revos, mevis, Long-RVOS)", Path(videos))
    places = (folder / "video_datas", folder.parent / "video_datas")
    return find_path("the video sets (revos, mevis, Long-RVOS)", *places)
