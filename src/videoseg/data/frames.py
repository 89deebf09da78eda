"""Data: the frames of a sample: image files in time order, or a video file of which every n-th counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from videoseg.types import VideoInfo
from videoseg.video import sources
from videoseg.video.cache import Frame
from videoseg.video.reader import Video
from videoseg.video.sources import natural_key, read_image

image_size = lru_cache(maxsize=4096)(sources.image_size)
"""(height, width) of an image file from its header; samples of one video ask for the same files again."""


@dataclass(frozen=True, slots=True)
class ImageFrames:
    """Image files `folder / files[i]` in time order."""

    folder: Path
    files: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)

    @property
    def label(self) -> str:
        """What to call the video in messages."""
        return str(self.folder)

    def name(self, index: int) -> str:
        """File name of a frame."""
        return self.files[index]

    def path(self, index: int) -> Path:
        """File of a frame."""
        return self.folder / self.files[index]

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of a frame."""
        return image_size(self.path(index))

    def missing(self) -> list[Path]:
        """Listed files that are not there; the folder is listed once."""
        if any("/" in name for name in self.files):
            return [self.path(i) for i in range(len(self)) if not self.path(i).is_file()]
        there = {entry.name for entry in self.folder.iterdir()} if self.folder.is_dir() else set()
        return [self.folder / name for name in self.files if name not in there]

    def read(self, indices: Sequence[int]) -> list[Frame]:
        """Frames uint8 [H, W, 3]; raises `FrameError` or `VideoNotFoundError` naming the file."""
        return [read_image(self.path(index)) for index in indices]

    def open(self) -> Video:
        """All frames as a `Video`; compares the sizes of all files first."""
        return Video([self.path(index) for index in range(len(self))])


@dataclass(frozen=True, slots=True)
class FileFrames:
    """Every `stride`-th frame of a video file; frame i is frame `i * stride` of the file."""

    path: Path
    stride: int = 1

    def __len__(self) -> int:
        return -(-self.info().num_frames // self.stride)

    @property
    def label(self) -> str:
        """What to call the video in messages."""
        return str(self.path)

    def info(self) -> VideoInfo:
        """Length, size and rate of the whole file."""
        return _info(self.path)

    def name(self, index: int) -> str:
        """`file, frame n`."""
        return f"{self.path.name}, frame {index * self.stride}"

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of a frame."""
        return self.info().height, self.info().width

    def missing(self) -> list[Path]:
        """The file, if it is not there."""
        return [] if self.path.is_file() else [self.path]

    def read(self, indices: Sequence[int]) -> list[Frame]:
        """Frames uint8 [H, W, 3], decoded in one pass."""
        with Video(self.path) as video:
            got = {index: video[index * self.stride] for index in sorted(set(indices))}
        return [got[index] for index in indices]

    def open(self) -> Video:
        """The whole file as a `Video`: mind the stride."""
        return Video(self.path)


Frames = ImageFrames | FileFrames


@lru_cache(maxsize=1024)
def _info(path: Path) -> VideoInfo:
    with Video(path) as video:
        return video.info


def in_time_order(names: Sequence[str]) -> tuple[int, ...]:
    """Positions of frame names in time order: 2 before 10, whatever the order of the file.

    Raises ValueError where a name occurs twice.
    """
    seen: set[str] = set()
    for name in names:
        if not isinstance(name, str):
            raise ValueError(f"frame name {name!r} is no text")
        if name in seen:
            raise ValueError(f"frame {name!r} is listed twice")
        seen.add(name)
    return tuple(sorted(range(len(names)), key=lambda index: natural_key(Path(names[index]))))
