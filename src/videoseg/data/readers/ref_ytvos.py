"""Data reader: Ref-YouTube-VOS, one object per expression, palette PNGs (benchmarks §3.2)."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from videoseg.data.lazy import LazyDict, find_path, read_pickle
from videoseg.data.readers.base import field, ids
from videoseg.data.readers.meta import MaskDict, MetaReader, VideoEntry, videos_of
from videoseg.data.sample import Origin, Target
from videoseg.data.tracks import PngTrack
from videoseg.errors import DatasetError

VALID_VIDEOS = 202


class RefYtvosReader(MetaReader):
    """`{train/{JPEGImages, Annotations, meta.json}, valid/JPEGImages, meta_expressions/<split>/…json}`.

    Masks come from `train/Annotations/<video>/<frame>.png`, pixel value = `obj_id`. Where that folder is
    missing, `mask_dict.pkl` is used; its numbers count expressions over sorted videos and, within a
    video, over ids sorted as text ('10' before '2'). `valid` has no masks, and its file may also list the
    videos of the test split: they are left out if `meta_expressions/test` is there to tell them apart.
    """

    dataset = "ref-ytvos"

    def __init__(self, folder: Path | str, split: str = "train") -> None:
        super().__init__(folder, split)
        self.left_out = self._leave_out_test() if split == "valid" else 0
        self.annotations = self.folder / split / "Annotations"
        self.masks: MaskDict | None = None
        self._numbers: dict[tuple[str, str], str] = {}
        if split == "train" and not self.annotations.is_dir():
            self._use_pickle(find_path("the masks", self.annotations, self.folder / "mask_dict.pkl"))

    def meta_path(self) -> Path:
        """`meta_expressions/<split>/meta_expressions.json`."""
        inner = Path("meta_expressions") / self.split / "meta_expressions.json"
        return find_path("the expressions of all videos", self.folder / inner)

    def frame_folder(self, video: str) -> Path:
        """`<split>/JPEGImages/<video>`."""
        return self.folder / self.split / "JPEGImages" / video

    def targets(
        self, video: VideoEntry, name: str, entry: Mapping[str, Any], origin: Origin
    ) -> tuple[Target, ...] | None:
        """The object of the expression; None where the split has no masks."""
        if self.masks is not None:
            number = self._numbers[name, origin.key.rpartition("/")[2]]
            return (self.masks.target(number, video.order, origin, "mask_dict.pkl"),)
        if not self.annotations.is_dir():
            return None
        value = field(entry, "obj_id", (int, str), origin)
        (only,) = ids(value, origin, "obj_id")
        if not only.isdecimal() or not 1 <= int(only) <= 255:
            raise origin.error("obj_id", f"{value!r} is no pixel value of a label picture (1 to 255)")
        stems = tuple(Path(file).stem for file in video.frames.files)
        folder = self.annotations / name
        if not folder.is_dir():
            raise origin.error("masks", f"{folder}: no such folder")
        return (Target(only, PngTrack(folder, stems, value=int(only), required=True)),)

    def notes(self) -> list[str]:
        """Also where the masks come from, and what was left out."""
        source = (
            "mask_dict.pkl" if self.masks else "palette PNGs" if self.annotations.is_dir() else "no masks"
        )
        notes = [*super().notes(), f"masks: {source}"]
        if self.left_out:
            notes.append(f"{self.left_out} videos of the test split left out")
        if self.split == "valid" and len(self.videos) != VALID_VIDEOS:
            notes.append(
                f"{len(self.videos)} videos; the validation split has {VALID_VIDEOS}. Without "
                "meta_expressions/test/meta_expressions.json the test videos cannot be told apart"
            )
        return notes

    def _leave_out_test(self) -> int:
        test = self.folder / "meta_expressions" / "test" / "meta_expressions.json"
        if not test.is_file():
            return 0
        others = set(videos_of(test)) & set(self._videos)
        for video in others:
            del self._videos[video]
        self._pairs = [pair for pair in self._pairs if pair[0] not in others]
        return len(others)

    def _use_pickle(self, path: Path) -> None:
        """Write the pickle to a temporary JSON file, so that masks need not stay in memory."""
        data = read_pickle(path, "the masks")
        if not isinstance(data, dict):
            raise DatasetError(f"{path}: a dictionary of masks is expected, not a {type(data).__name__}")
        self._spool = tempfile.TemporaryDirectory(prefix="videoseg-")
        spooled = Path(self._spool.name) / "mask_dict.json"
        with spooled.open("w") as file:
            for position, (name, codes) in enumerate(data.items()):
                file.write(
                    f"{',' if position else '{'}{json.dumps(str(name))}:{json.dumps(codes, default=_text)}"
                )
            file.write("}" if data else "{}")
        self.masks = MaskDict(path, LazyDict(spooled))
        pairs = [
            (video, name) for video in sorted(self._videos) for name in sorted(self._expressions_of(video))
        ]
        self._numbers = {pair: str(number) for number, pair in enumerate(pairs)}
        if len(data) != len(pairs):
            raise DatasetError(
                f"{path}: {len(data)} objects for {len(pairs)} expressions of {self.meta}; they do not "
                "belong together"
            )

    def _expressions_of(self, video: str) -> Mapping[str, Any]:
        return self._expressions(video, self._videos[video])


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("latin1")
    raise TypeError(f"{type(value).__name__} in a mask")
