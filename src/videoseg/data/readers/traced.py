"""Data readers: the video sets that VTS-CoT and the RL files name: where their frames and masks are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videoseg.data.frames import ImageFrames
from videoseg.data.lazy import LazyList, find_path
from videoseg.data.readers.base import field, ids, listed_frames, text_field
from videoseg.data.readers.meta import MaskDict
from videoseg.data.sample import Origin, Target
from videoseg.errors import DatasetError

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


class FilesBySet:
    """One JSON list per video set, read as one sequence: `rows[i]` is (its set, its file, place, entry).

    `pattern` names the files, with `{}` for the set; `split` is `train` (all there are) or one set's name.
    Raises `DatasetError` where none is there, saying to give the folder `give`.
    """

    def __init__(self, home: Path, pattern: str, split: str, videos: Path | str | None, give: str) -> None:
        if split not in ("train", *LAYOUTS):
            raise DatasetError(f"{home}: no split {split!r}; there are train, {', '.join(LAYOUTS)}")
        files = {name: home / pattern.format(name) for name in LAYOUTS if split in ("train", name)}
        paths = {name: path for name, path in files.items() if path.is_file()}
        if not paths:
            raise DatasetError(f"{home}: none of {', '.join(p.name for p in files.values())}; give {give}")
        sets_folder = video_sets_folder(home, videos)
        self.lists = {name: LazyList(path) for name, path in paths.items()}
        self.sets = {name: VideoSet.open(name, sets_folder) for name in paths}
        self._places = [(name, number) for name, items in self.lists.items() for number in range(len(items))]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> tuple[VideoSet, Path, int, Any]:
        name, number = self._places[index]
        items = self.lists[name]
        return self.sets[name], items.path, number, items[number]

    def counts(self) -> dict[str, int]:
        """Entries by set."""
        return {name: len(items) for name, items in self.lists.items()}


def video_sets_folder(folder: Path, videos: Path | str | None) -> Path:
    """Where the video sets are: as given, or `video_datas` beside or in the folder of the annotations."""
    if videos is not None:
        return find_path("the video sets (revos, mevis, Long-RVOS)", Path(videos))
    places = (folder / "video_datas", folder.parent / "video_datas")
    return find_path("the video sets (revos, mevis, Long-RVOS)", *places)
