"""Data reader: the prompts of the reinforcement stage (O3 specification §12.1, benchmarks §4.2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from videoseg.data.readers.base import Reader, field
from videoseg.data.readers.traced import FilesBySet
from videoseg.data.sample import Origin, RlSample
from videoseg.data.tracks import short

FOLDER = "VideoSEG-O3-RL"


class RlReader(Reader[RlSample]):
    """`VideoSEG-O3-RL/rl_{mevis,revos,longrvos}_data.json`: a list of lists, of which element 0 counts.

    `folder` is that folder or its parent; `split` is `train` (all files that are there) or the name of one.
    """

    dataset = "rl"

    def __init__(self, folder: Path | str, split: str = "train", *, videos: Path | str | None = None) -> None:
        super().__init__(folder, split)
        home = self.folder / FOLDER if (self.folder / FOLDER).is_dir() else self.folder
        self.files = FilesBySet(home, "rl_{}_data.json", split, videos, FOLDER)

    def __len__(self) -> int:
        return len(self.files)

    def sample(self, index: int) -> RlSample:
        """Prompt number `index`, over all files."""
        source, path, number, row = self.files[index]
        origin = self.origin(path, str(number))
        if not isinstance(row, list) or not row:
            raise origin.error("entry", f"a list with at least one prompt is expected, not {short(row)}")
        video, frames, query, targets = source.read(row[0], origin)
        return RlSample(origin, frames, query, targets, existence(row[0], len(frames), origin), video)

    def counts(self) -> dict[str, int]:
        """Prompts by file."""
        return {"prompts": len(self), **self.files.counts()}


def existence(item: Any, num_frames: int, origin: Origin) -> tuple[bool, ...]:
    """`mask_existence`, one 0 or 1 per frame."""
    values = field(item, "mask_existence", list, origin)
    if len(values) != num_frames:
        raise origin.error("mask_existence", f"{len(values)} values for {num_frames} frames")
    if not all(value in (0, 1) for value in values):
        raise origin.error("mask_existence", f"{short(values)} holds something else than 0 and 1")
    return tuple(bool(value) for value in values)
