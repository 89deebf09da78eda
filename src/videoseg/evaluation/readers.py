"""Evaluation: readers and tracks of annotations that no training stage needs (benchmarks §3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videoseg.data.lazy import Span, find_path, read_pickle, read_span
from videoseg.data.readers.meta import MaskDict, MetaReader, VideoEntry, mask_dict_targets
from videoseg.data.readers.mevis import MevisReader
from videoseg.data.readers.ref_ytvos import RefYtvosReader
from videoseg.data.sample import Origin, Target
from videoseg.data.tracks import Track, listed_masks
from videoseg.data.world.files import MEVIS_SPLITS
from videoseg.errors import DatasetError
from videoseg.masks import Rle


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


class UnfilteredYtvosReader(RefYtvosReader):
    """Ref-YouTube-VOS including the videos of the test split that its file of `valid` once held (§3.2)."""

    def _leave_out_test(self) -> int:
        return 0


class WorldReader(MevisReader):
    """The generated world as `videoseg data world --layout mevis` writes it; `folder` is its root."""

    dataset = "world"

    def meta_path(self) -> Path:
        """The file of expressions, below the root or in the split's own folder."""
        inner = Path("video_datas") / "mevis" / MEVIS_SPLITS.get(self.split, self.split)
        homes = (self.folder / inner, self.folder)
        return find_path("the expressions of all videos", *(home / "meta_expressions.json" for home in homes))

    def kind(self, entry: Mapping[str, Any]) -> str:
        """The family of the question."""
        return str(entry.get("family", ""))


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
