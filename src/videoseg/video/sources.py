"""Frames in and out: image folders, arrays and iterators of frames.

All sources give frames as uint8 [H, W, 3] in the order red, green, blue; reading frame `i` of them
needs no other frame, so nothing has to be decoded in chunks.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageOps

from videoseg.errors import EmptyVideoError, FrameError, UnsupportedVideoError, VideoNotFoundError
from videoseg.video.cache import Frame

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"}
DEFAULT_FPS = 24.0
QUARTER_TURNS = {5, 6, 7, 8}
EXIF_ORIENTATION = 0x0112


class FrameSource(Protocol):
    """What `Video` reads from; `chunked` sources are read backwards in runs of several frames."""

    name: str
    fps: float
    height: int
    width: int
    chunked: bool

    def __len__(self) -> int: ...
    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, Frame]]: ...
    def close(self) -> None: ...


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Order in which `frame2` comes before `frame10`."""
    parts = re.split(r"(\d+)", path.name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part.lower()) for part in parts]


def images_in(folder: Path) -> list[Path]:
    """Image files of a folder in natural order; hidden files are left out."""
    found = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
    if not found:
        kinds = " ".join(sorted(IMAGE_SUFFIXES))
        raise EmptyVideoError(
            f"{folder}: the folder holds no image ({kinds}); name the folder of the frames or a video file"
        )
    return sorted(found, key=natural_key)


class ImageSource:
    """A sequence of image files, all of one size; EXIF orientation is applied."""

    chunked = False
    fps = DEFAULT_FPS

    def __init__(self, paths: Sequence[Path], name: str) -> None:
        if not paths:
            raise EmptyVideoError(f"{name}: no image is given; give at least one")
        self.name = name
        self._paths = tuple(paths)
        self.height, self.width = image_size(self._paths[0], "frame 0")
        for index, path in enumerate(self._paths):
            _same_size(image_size(path, f"frame {index}"), index, (self.height, self.width), str(path))

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, Frame]]:
        """Decode the images of `indices`."""
        for index in indices:
            frame = read_image(self._paths[index], f"frame {index}")
            _same_size(frame.shape, index, (self.height, self.width), str(self._paths[index]))
            yield index, frame

    def close(self) -> None:
        """Nothing is held open."""


def image_size(path: Path, place: str = "the file") -> tuple[int, int]:
    """Height and width of an image file after EXIF orientation, from the header alone.

    `place` says in messages which one it is, such as `frame 3`. Raises `VideoNotFoundError`, `FrameError`.
    """
    if not path.is_file():
        raise VideoNotFoundError(f"{path}: no such file ({place}); check the path")
    try:
        with Image.open(path) as image:
            width, height = image.size
            # Asking a PNG without EXIF for it would decode the whole picture.
            known = image.format != "PNG" or "exif" in image.info
            turned = known and image.getexif().get(EXIF_ORIENTATION) in QUARTER_TURNS
    except (OSError, SyntaxError, ValueError) as error:
        raise _bad_image(path, place, error) from error
    return (width, height) if turned else (height, width)


def read_image(path: Path, place: str = "the file") -> Frame:
    """An image file as uint8 [H, W, 3] RGB, upright; raises as `image_size`."""
    if not path.is_file():
        raise VideoNotFoundError(f"{path}: no such file ({place}); check the path")
    try:
        with Image.open(path) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise _bad_image(path, place, error) from error


def _bad_image(path: Path, place: str, error: Exception) -> FrameError:
    return FrameError(
        f"{path}: {place} cannot be decoded as an image ({error}); replace the file or move it out"
    )


class ArraySource:
    """A `uint8 [T, H, W, 3]` array, or a sequence of `uint8 [H, W, 3]` arrays or PIL images."""

    chunked = False
    fps = DEFAULT_FPS

    def __init__(self, frames: Any, name: str) -> None:
        self.name = name
        self._frames = frames
        if len(frames) == 0:
            raise EmptyVideoError(f"{name}: it holds no frame; give at least one")
        self.height, self.width = as_frame(frames[0], 0, name).shape[:2]
        if not isinstance(frames, np.ndarray):
            for index, frame in enumerate(frames):
                _same_size(as_frame(frame, index, name).shape, index, (self.height, self.width), name)

    def __len__(self) -> int:
        return len(self._frames)

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, Frame]]:
        """The frames of `indices`, as copies."""
        for index in indices:
            yield index, np.array(as_frame(self._frames[index], index, self.name))

    def close(self) -> None:
        """Let go of the frames."""
        self._frames = ()


def whole_array(array: Any) -> np.ndarray:
    """Check an array of all frames; raises `UnsupportedVideoError` or `EmptyVideoError`."""
    frames = np.asarray(array)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise UnsupportedVideoError(
            f"array of shape {list(frames.shape)} and type {frames.dtype}: frames are uint8 [T, H, W, 3], "
            f"red-green-blue, 0 to 255; convert it first"
        )
    if 0 in frames.shape:
        raise EmptyVideoError(f"array of shape {list(frames.shape)}: it holds no frame; give at least one")
    return frames


def as_frame(frame: Any, index: int, name: str) -> Frame:
    """One frame as uint8 [H, W, 3]; raises `FrameError` where type or shape does not fit."""
    if isinstance(frame, Image.Image):
        return np.asarray(frame.convert("RGB"))
    array = np.asarray(frame)
    if array.ndim != 3 or array.shape[-1] != 3 or array.dtype != np.uint8 or 0 in array.shape:
        raise FrameError(
            f"{name}: frame {index} has shape {list(array.shape)} and type {array.dtype}; "
            f"a frame is uint8 [H, W, 3], red-green-blue, or a PIL image"
        )
    return array


def _same_size(size: tuple[int, ...], index: int, first: tuple[int, int], name: str) -> None:
    if size[:2] != first:
        raise FrameError(
            f"{name}: frame {index} is {size[0]}x{size[1]}, the first is {first[0]}x{first[1]} "
            f"(height x width); bring all frames to one size or leave this one out"
        )


class SpoolSource:
    """Frames of an iterator, written to a temporary file as they come, so that memory stays bounded.

    The file holds `T * H * W * 3` bytes in the system's temporary folder (set TMPDIR to move it)
    and is gone after `close()`.
    """

    chunked = False
    fps = DEFAULT_FPS

    def __init__(self, frames: Iterable[Any], name: str) -> None:
        self.name = name
        self._count = 0
        self.height = self.width = 0
        self._file = tempfile.TemporaryFile(prefix="videoseg-")  # noqa: SIM115 - closed by close()
        try:
            for frame in frames:
                self._append(as_frame(frame, self._count, name))
            if self._count == 0:
                raise EmptyVideoError(f"{name}: the iterator gives no frame; give at least one")
        except BaseException:
            self._file.close()
            raise

    def _append(self, frame: Frame) -> None:
        if self._count == 0:
            self.height, self.width = frame.shape[:2]
        _same_size(frame.shape, self._count, (self.height, self.width), self.name)
        self._file.write(np.ascontiguousarray(frame).data)
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, Frame]]:
        """Read the frames of `indices` back."""
        size = self.height * self.width * 3
        for index in indices:
            self._file.seek(index * size)
            data = np.frombuffer(bytearray(self._file.read(size)), dtype=np.uint8)
            yield index, data.reshape(self.height, self.width, 3)

    def close(self) -> None:
        """Delete the temporary file."""
        self._file.close()
