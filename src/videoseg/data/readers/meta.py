"""Data readers: the YTVOS-style `meta_expressions.json`, shared by five video datasets (benchmarks §2)."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from videoseg.data.frames import ImageFrames
from videoseg.data.lazy import LazyDict, read_json
from videoseg.data.readers.base import Reader, field, ids, listed_frames, text_field
from videoseg.data.sample import Origin, RefVideoSample, Target
from videoseg.data.tracks import JsonTrack
from videoseg.errors import DatasetError
from videoseg.video.sources import natural_key


@dataclass(frozen=True, slots=True)
class VideoEntry:
    """A video of the meta file: frames in time order and, per frame, its place in the file's list."""

    frames: ImageFrames
    order: tuple[int, ...]
    raw: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class MaskDict:
    """`mask_dict.json`: object id to one code per frame, indexed but not read."""

    path: Path
    members: LazyDict

    @classmethod
    def open(cls, path: Path) -> MaskDict:
        """Index the file."""
        if not path.is_file():
            raise DatasetError(
                f"{path}: no such file; it should hold the masks. Check the folder and its layout"
            )
        return cls(path, LazyDict(path))

    def target(self, name: str, order: tuple[int, ...], origin: Origin, at: str) -> Target:
        """The masks of one id; raises `DatasetError` where the file does not have it."""
        if name not in self.members.spans:
            raise origin.error(at, f"{name} is not in {self.path} ({len(self.members)} objects)")
        return Target(name, JsonTrack(self.members.path, self.members.spans[name], order))


class MetaReader(Reader[RefVideoSample]):
    """Samples are (video, expression) pairs; a unit is a video with all its expressions.

    Videos are in the file's order, expressions of a video in natural order of their ids ('2' before '10').
    """

    def __init__(self, folder: Path | str, split: str = "train") -> None:
        super().__init__(folder, split)
        self.meta = self.meta_path()
        self._videos = videos_of(self.meta)
        self._pairs = [
            (video, name)
            for video, entry in self._videos.items()
            for name in sorted(self._expressions(video, entry), key=lambda text: natural_key(Path(text)))
        ]
        self._entries: dict[str, VideoEntry] = {}

    @abstractmethod
    def meta_path(self) -> Path:
        """The file with the expressions."""

    @abstractmethod
    def frame_folder(self, video: str) -> Path:
        """Folder of a video's JPEG files."""

    @abstractmethod
    def targets(
        self, video: VideoEntry, name: str, entry: Mapping[str, Any], origin: Origin
    ) -> tuple[Target, ...] | None:
        """What an expression means; `name` is the video."""

    def kind(self, entry: Mapping[str, Any]) -> str:
        """The dataset's own type of an expression."""
        return ""

    def __len__(self) -> int:
        return len(self._pairs)

    def sample(self, index: int) -> RefVideoSample:
        """The expression number `index`."""
        video, name = self._pairs[index]
        origin = self.origin(self.meta, f"{video}/{name}")
        expression = self._videos[video]["expressions"][name]
        entry = self.video(video, origin)
        query = text_field(expression, "exp", origin)
        targets = self.targets(entry, video, expression, origin)
        return RefVideoSample(origin, entry.frames, query, targets, self.kind(expression), video=video)

    def video(self, name: str, origin: Origin) -> VideoEntry:
        """Frames of a video; made once, shared by its expressions."""
        if name not in self._entries:
            frames, order = listed_frames(self._videos[name], self.frame_folder(name), origin)
            self._entries[name] = VideoEntry(frames, order, self._videos[name])
        return self._entries[name]

    @property
    def videos(self) -> Mapping[str, Any]:
        """The meta file's entries by video."""
        return self._videos

    @cached_property
    def groups(self) -> Sequence[range]:
        """One unit per video that has expressions."""
        units: list[range] = []
        for index, (video, _) in enumerate(self._pairs):
            if units and self._pairs[units[-1].start][0] == video:
                units[-1] = range(units[-1].start, index + 1)
            else:
                units.append(range(index, index + 1))
        return units

    def counts(self) -> dict[str, int]:
        """Videos and expressions."""
        return {"videos": len(self._videos), "expressions": len(self._pairs)}

    def notes(self) -> list[str]:
        """Frame-name patterns, types of ids, and whether frames are listed in time order."""
        patterns: Counter[str] = Counter()
        unsorted = 0
        for entry in self._videos.values():
            names = entry.get("frames") if isinstance(entry, dict) else None
            if isinstance(names, list) and names and isinstance(names[0], str):
                patterns[re.sub(r"\d", "0", names[0])] += 1
                unsorted += names != sorted(names)
        kinds = Counter(
            type(self._videos[video]["expressions"][name].get("obj_id")).__name__
            for video, name in self._pairs
            if isinstance(self._videos[video]["expressions"][name], dict)
        )
        shown = ", ".join(f"{pattern} ({count})" for pattern, count in patterns.most_common(4))
        notes = [
            f"frame names like {shown}",
            f"obj_id is {', '.join(f'{k} ({n})' for k, n in kinds.items())}",
        ]
        return notes + ([f"{unsorted} videos list their frames out of order"] if unsorted else [])

    def _expressions(self, video: str, entry: Any) -> Mapping[str, Any]:
        expressions: Mapping[str, Any] = field(
            entry, "expressions", dict, self.origin(self.meta, video), f"videos.{video}"
        )
        return expressions


def videos_of(path: Path) -> dict[str, Any]:
    """`videos` of a meta file."""
    data = read_json(path, "the expressions of all videos")
    videos = data.get("videos") if isinstance(data, dict) else None
    if not isinstance(videos, dict) or not videos:
        raise DatasetError(f"{path}: field videos is missing or empty; it is not a meta_expressions file")
    return videos


def mask_dict_targets(
    masks: MaskDict | None, video: VideoEntry, entry: Mapping[str, Any], origin: Origin
) -> tuple[Target, ...] | None:
    """Targets of an expression by its `anno_id`; None where the split has no mask dictionary."""
    if masks is None:
        return None
    names = ids(field(entry, "anno_id", (list, int, str), origin), origin, "anno_id")
    return tuple(masks.target(name, video.order, origin, "anno_id") for name in names)
