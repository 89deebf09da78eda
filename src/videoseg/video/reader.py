"""Frames in and out: `Video`, one interface over files, image folders, arrays and iterators."""

from __future__ import annotations

import glob
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from videoseg.errors import UnsupportedVideoError, UsageError, VideoError, VideoNotFoundError
from videoseg.types import VideoInfo
from videoseg.video.cache import Frame, FrameCache
from videoseg.video.container import ContainerSource
from videoseg.video.sources import (
    IMAGE_SUFFIXES,
    ArraySource,
    FrameSource,
    ImageSource,
    SpoolSource,
    images_in,
    natural_key,
    whole_array,
)

DEFAULT_CACHE_BYTES = 256 * 1024 * 1024


class Video:
    """Frames of a video by index: uint8 [H, W, 3], red-green-blue, upright, read-only.

    Args:
        source: a video file (mp4, mkv, avi, webm, gif and what else FFmpeg reads), an image file,
            a folder or glob of images (natural order), an array uint8 [T, H, W, 3], a sequence of
            arrays uint8 [H, W, 3], PIL images or image paths, or an iterator of frames (written to
            a temporary file as they come).
        fps: for a video file, sample it at this rate (each time shows the frame that is on screen
            then); for all other sources, which have no clock, the rate to state (24 by default).
        cache_bytes: upper bound of the decoded frames that are held, whatever the length.
        conceal_damage: go on over damaged or missing parts of a file instead of raising.

    Opening reads the packets of a file once, so the length is exact and a file that is cut short is
    refused with `CorruptVideoError`. `check()` decodes everything, to find damage before long work.
    Raises the subclasses of `VideoError`; each names the source, and the frame where there is one.
    """

    def __init__(
        self,
        source: Any,
        *,
        fps: float | None = None,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        conceal_damage: bool = False,
    ) -> None:
        if fps is not None and not fps > 0:
            raise UsageError(f"fps is {fps}; give a rate above 0, or leave it out")
        self._source: FrameSource = open_source(source, conceal=conceal_damage)
        self._picks = _resampled(self._source, fps)
        self._lock = threading.RLock()
        self._closed = False
        self.cache = FrameCache(cache_bytes)
        count = len(self._source) if self._picks is None else len(self._picks)
        rate = self._source.fps if fps is None else float(fps)
        self.info = VideoInfo(self._source.name, count, self._source.height, self._source.width, rate)

    @property
    def fps(self) -> float:
        """Frames per second; the average where the rate varies."""
        return self.info.fps

    @property
    def height(self) -> int:
        """Height of a frame in pixels."""
        return self.info.height

    @property
    def width(self) -> int:
        """Width of a frame in pixels."""
        return self.info.width

    @property
    def frame_size(self) -> tuple[int, int]:
        """`(height, width)` in pixels."""
        return self.info.height, self.info.width

    def __len__(self) -> int:
        return self.info.num_frames

    def __getitem__(self, index: int) -> Frame:
        """Frame `index`, uint8 [H, W, 3]; a negative index counts from the end.

        Raises `IndexError` outside the video and `FrameError` where the frame cannot be decoded.
        """
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"frame {index} of {self.info.source}, which has {len(self)} frames")
        with self._lock:
            cached = self.cache.get(position)
            return self._load([position]) if cached is None else cached

    def __iter__(self) -> Iterator[Frame]:
        for _, frame in self.frames(0, len(self)):
            yield frame

    def frames(self, start: int, stop: int, step: int = 1) -> Iterator[tuple[int, Frame]]:
        """`(index, frame)` for the indices of `range(start, stop, step)`, forward or backward.

        Backward, a file is decoded in runs that fit the cache, so memory is bounded even where one
        keyframe serves the whole file.
        """
        wanted = range(start, stop, step)
        if len(wanted) and not (min(wanted) >= 0 and max(wanted) < len(self)):
            raise IndexError(f"frames {start} to {stop} of {self.info.source}, which has {len(self)} frames")
        for position, index in enumerate(wanted):
            yield index, self._with_chunk(wanted, position) if step < 0 else self[index]

    def check(self) -> None:
        """Decode every frame once; raises `FrameError` at the first that is damaged."""
        for _ in self.frames(0, len(self)):
            pass

    def close(self) -> None:
        """Release file, decoder, cache and temporary storage; reading afterwards is an error."""
        with self._lock:
            self._closed = True
            self.cache.clear()
            self._source.close()

    def __enter__(self) -> Video:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _with_chunk(self, wanted: range, position: int) -> Frame:
        """Frame `wanted[position]` of a backward walk; on a miss, the run before it is decoded too."""
        index = wanted[position]
        with self._lock:
            cached = self.cache.get(index)
            if cached is not None:
                return cached
            room = self.cache.capacity(self.height * self.width * 3)
            if room < 2 or not isinstance(self._source, ContainerSource):
                return self._load([index])
            run = wanted[position : position + room]
            if self._picks is None:
                lowest = self._source.chunk_start(index, index - run[-1] + 1)
                run = run[: 1 + (index - max(lowest, run[-1])) // -run.step]
            return self._load(run[::-1])

    def _load(self, indices: Sequence[int]) -> Frame:
        """Read ascending `indices` into the cache; returns the frame of the last."""
        if self._closed:
            raise VideoError(f"{self.info.source}: the video is closed; open it again to read frames")
        places = [index if self._picks is None else int(self._picks[index]) for index in indices]
        frames = self._source.read(list(dict.fromkeys(places)))
        place, frame = next(frames)
        for index, wanted in zip(indices, places, strict=True):
            if wanted != place:
                place, frame = next(frames)
            frame.flags.writeable = False
            self.cache.put(index, frame)
        return frame


def _resampled(source: FrameSource, fps: float | None) -> np.ndarray | None:
    """Indices of the frames on screen at times `0, 1/fps, 2/fps, ...`, or None for all frames."""
    if fps is None or not isinstance(source, ContainerSource):
        return None
    count = max(1, round(source.duration() * fps))
    times = np.arange(count) / fps
    # Half a tick of tolerance: times in milliseconds must not push a frame to its predecessor.
    picks = np.searchsorted(source.seconds(), times + 1e-3, side="right") - 1
    return np.clip(picks, 0, len(source) - 1)


def open_source(source: Any, *, conceal: bool = False) -> FrameSource:
    """Find out what `source` is; raises `VideoNotFoundError` and `UnsupportedVideoError`."""
    if isinstance(source, str | Path):
        return _open_path(source, conceal)
    if hasattr(source, "__array__"):
        return ArraySource(whole_array(source), "array")
    if isinstance(source, Sequence):
        if source and all(isinstance(item, str | Path) for item in source):
            return ImageSource([Path(item) for item in source], f"list of {len(source)} images")
        return ArraySource(source, "sequence of frames")
    if hasattr(source, "__iter__"):
        return SpoolSource(source, "iterator of frames")
    raise UnsupportedVideoError(
        f"a {type(source).__name__} is no video; give a path, an array uint8 [T, H, W, 3], "
        f"a sequence of frames or an iterator of frames"
    )


def _open_path(source: str | Path, conceal: bool) -> FrameSource:
    path = Path(source)
    if path.is_dir():
        return ImageSource(images_in(path), str(path))
    if path.is_file():
        if path.suffix.lower() in IMAGE_SUFFIXES:
            return ImageSource([path], str(path))
        return ContainerSource(path, conceal=conceal)
    text = str(source)
    if "://" in text:
        raise UnsupportedVideoError(f"{text}: addresses are not read; download the video and give its path")
    if glob.has_magic(text):
        return _open_glob(text, conceal)
    raise VideoNotFoundError(f"{path}: no such file or folder; check the path")


def _open_glob(pattern: str, conceal: bool) -> FrameSource:
    found = [Path(p) for p in glob.glob(pattern, recursive=True)]
    images = sorted((p for p in found if p.suffix.lower() in IMAGE_SUFFIXES), key=natural_key)
    if images:
        return ImageSource(images, pattern)
    if len(found) == 1:
        return _open_path(found[0], conceal)
    if found:
        raise VideoNotFoundError(f"{pattern}: matches {len(found)} files and no image; name one video file")
    raise VideoNotFoundError(f"{pattern}: matches nothing; check the pattern (quote it in a shell)")
