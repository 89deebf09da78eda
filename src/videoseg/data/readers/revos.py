"""Data reader: ReVOS, referring and reasoning expressions, and ones without a target (benchmarks §3.6)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from videoseg.data.lazy import find_path
from videoseg.data.readers.meta import MaskDict, MetaReader, VideoEntry, mask_dict_targets
from videoseg.data.sample import Origin, Target

KINDS = {0: "referring", 1: "reasoning", 2: "no_target"}


class RevosReader(MetaReader):
    """`ReVOS/{JPEGImages/<vid>/<frame>.jpg, mask_dict.json, meta_expressions_{train,valid}_.json}`.

    A video's name contains slashes (`TAO/train/x`). The packaging for O3 leaves `JPEGImages` out; both
    are read. Expressions of type 2 have no object: their samples have an empty tuple of targets.
    """

    dataset = "revos"

    def __init__(self, folder: Path | str, split: str = "train") -> None:
        super().__init__(folder, split)
        self.masks = MaskDict.open(self.folder / "mask_dict.json")
        inner = self.folder / "JPEGImages"
        self.frames_root = inner if inner.is_dir() else self.folder

    def meta_path(self) -> Path:
        """`meta_expressions_<split>_.json`: with the underscore at its end."""
        names = (f"meta_expressions_{self.split}_.json", f"meta_expressions_{self.split}.json")
        return find_path("the expressions of all videos", *(self.folder / name for name in names))

    def frame_folder(self, video: str) -> Path:
        """`JPEGImages/<video>` or `<video>`."""
        return self.frames_root / video

    def targets(
        self, video: VideoEntry, name: str, entry: Mapping[str, Any], origin: Origin
    ) -> tuple[Target, ...] | None:
        """Its `anno_id`s; none for type 2."""
        targets = mask_dict_targets(self.masks, video, entry, origin)
        if not targets and entry.get("type_id") != 2:
            raise origin.error(
                "anno_id", f"empty, but type_id is {entry.get('type_id')!r} and not 2 (no target)"
            )
        return targets

    def kind(self, entry: Mapping[str, Any]) -> str:
        """`referring`, `reasoning` or `no_target`."""
        return KINDS.get(entry.get("type_id", -1), str(entry.get("type_id", "")))

    def notes(self) -> list[str]:
        """Also how many expressions of each type there are."""
        kinds = Counter(
            self.kind(expression)
            for entry in self.videos.values()
            for expression in entry["expressions"].values()
        )
        return [*super().notes(), "types: " + ", ".join(f"{kind} {count}" for kind, count in kinds.items())]
