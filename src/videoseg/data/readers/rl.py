"""Data reader: the prompts of the reinforcement stage (O3 specification §12.1, benchmarks §4.2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from videoseg.data.lazy import LazyList
from videoseg.data.readers.base import Reader, field
from videoseg.data.readers.traced import LAYOUTS, VideoSet, video_sets_folder
from videoseg.data.sample import Origin, RlSample
from videoseg.data.tracks import short
from videoseg.errors import DatasetError

FOLDER = "VideoSEG-O3-RL"


class RlReader(Reader[RlSample]):
    """`VideoSEG-O3-RL/rl_{mevis,revos,longrvos}_data.json`: a list of lists, of which element 0 counts.

    `folder` is that folder or its parent; `split` is `train` (all files that are there) or the name of one.
    """

    dataset = "rl"

    def __init__(self, folder: Path | str, split: str = "train", *, videos: Path | str | None = None) -> None:
        super().__init__(folder, split)
        home = self.folder / FOLDER if (self.folder / FOLDER).is_dir() else self.folder
        wanted = tuple(LAYOUTS) if split == "train" else (split,)
        paths = {name: home / f"rl_{name}_data.json" for name in wanted}
        paths = {name: path for name, path in paths.items() if path.is_file() and name in LAYOUTS}
        if not paths:
            raise DatasetError(
                f"{home}: none of {', '.join(f'rl_{n}_data.json' for n in wanted)}; give {FOLDER}"
            )
        sets_folder = video_sets_folder(home, videos)
        self.files = {name: LazyList(path) for name, path in paths.items()}
        self.sets = {name: VideoSet.open(name, sets_folder) for name in paths}
        self._pairs = [(name, number) for name, items in self.files.items() for number in range(len(items))]

    def __len__(self) -> int:
        return len(self._pairs)

    def sample(self, index: int) -> RlSample:
        """Prompt number `index`, over all files."""
        source, number = self._pairs[index]
        items = self.files[source]
        origin = self.origin(items.path, str(number))
        row = items[number]
        if not isinstance(row, list) or not row:
            raise origin.error("entry", f"a list with at least one prompt is expected, not {short(row)}")
        video, frames, query, targets = self.sets[source].read(row[0], origin)
        return RlSample(origin, frames, query, targets, existence(row[0], len(frames), origin), video)

    def counts(self) -> dict[str, int]:
        """Prompts by file."""
        return {"prompts": len(self), **{name: len(items) for name, items in self.files.items()}}


def existence(item: Any, num_frames: int, origin: Origin) -> tuple[bool, ...]:
    """`mask_existence`, one 0 or 1 per frame."""
    values = field(item, "mask_existence", list, origin)
    if len(values) != num_frames:
        raise origin.error("mask_existence", f"{len(values)} values for {num_frames} frames")
    if not all(value in (0, 1) for value in values):
        raise origin.error("mask_existence", f"{short(values)} holds something else than 0 and 1")
    return tuple(bool(value) for value in values)
