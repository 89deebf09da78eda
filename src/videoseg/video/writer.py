"""Frames in and out: writing of videos, and drawing masks over frames.

Every file is written beside its destination and renamed when it is complete.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray
from scipy import ndimage

from videoseg.errors import OutputError, UsageError
from videoseg.masks import BoolArray, Masklets
from videoseg.video.cache import Frame
from videoseg.video.reader import Video

ENCODER_THREADS = 2
BT709 = 1
# Distinct on light and dark pictures, in this order for objects 0, 1, 2, ...
PALETTE = (
    (255, 71, 87),
    (30, 144, 255),
    (46, 213, 115),
    (255, 165, 2),
    (165, 94, 234),
    (0, 210, 211),
    (255, 107, 203),
    (200, 214, 40),
)


def color_of(position: int) -> tuple[int, int, int]:
    """Colour (red, green, blue) of the object at `position` in a result."""
    return PALETTE[position % len(PALETTE)]


class VideoWriter:
    """Writes frames to a video file as they come; use it as a context manager.

    The suffix decides the format. Without alpha: `.mp4`, `.mkv` or `.mov`, H.264 of frames
    uint8 [H, W, 3]. With alpha, frames uint8 [H, W, 4]: `.webm` (VP9, for browsers) or `.mov`
    (ProRes 4444, for editing programs). Both need even sizes, so the last column or row of an odd
    size is written twice. The file appears under its name when the context ends without an
    exception; otherwise nothing is left. Raises `OutputError` where it cannot be written.
    """

    def __init__(self, path: Path | str, fps: float, *, alpha: bool = False, crf: int = 20) -> None:
        self.path = Path(path)
        self._rate = Fraction(fps).limit_denominator(100_000)
        self._alpha = alpha
        self._codec, self._pixels, self._options = _format(self.path, alpha, crf)
        self._partial = partial_path(self.path)
        self._container: Any = None
        self._stream: Any = None
        self._size: tuple[int, ...] = ()
        self._count = 0
        if self._rate <= 0:
            raise UsageError(f"{self.path}: fps is {fps}; give a rate above 0")

    def write(self, frame: Frame) -> None:
        """Append a frame, uint8 [H, W, 3] (or [H, W, 4] with alpha), of the size of the first."""
        depth = 4 if self._alpha else 3
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != depth:
            raise UsageError(
                f"{self.path}: frame {self._count} has shape {list(frame.shape)} and type {frame.dtype}; "
                f"it must be uint8 [H, W, {depth}]"
            )
        if self._size and frame.shape != self._size:
            raise UsageError(
                f"{self.path}: frame {self._count} is {frame.shape[0]}x{frame.shape[1]}, the first was "
                f"{self._size[0]}x{self._size[1]}; all frames of a video have one size"
            )
        try:
            if self._container is None:
                self._open(frame)
            self._container.mux(self._stream.encode(self._picture(frame)))
        except (FFmpegError, OSError) as error:
            raise _unwritable(self.path, error) from error
        self._count += 1

    def close(self) -> None:
        """Finish the file and move it into place."""
        if self._container is None:
            raise OutputError(f"{self.path}: no frame was written, so there is no video to save")
        try:
            self._container.mux(self._stream.encode())
            self._container.close()
            os.replace(self._partial, self.path)
        except (FFmpegError, OSError) as error:
            raise _unwritable(self.path, error) from error

    def abort(self) -> None:
        """Throw away what was written."""
        if self._container is not None:
            with contextlib.suppress(FFmpegError, OSError):  # what led here is already being raised
                self._container.close()
        self._partial.unlink(missing_ok=True)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.close()
        finally:
            self.abort()

    def _open(self, frame: Frame) -> None:
        self._container = av.open(str(self._partial), "w", options=_container_options(self.path))
        stream = self._container.add_stream(self._codec, rate=self._rate)
        height, width = frame.shape[:2]
        stream.height, stream.width = height + height % 2, width + width % 2
        stream.pix_fmt = self._pixels
        stream.options = self._options
        stream.codec_context.thread_count = ENCODER_THREADS
        # Without these tags players guess the colour matrix from the size of the picture.
        stream.codec_context.colorspace = BT709
        stream.codec_context.color_primaries = BT709
        stream.codec_context.color_trc = BT709
        self._stream, self._size = stream, frame.shape

    def _picture(self, frame: Frame) -> Any:
        height, width = frame.shape[:2]
        even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), "rgba" if self._alpha else "rgb24")
        picture = picture.reformat(format=self._pixels, dst_colorspace="itu709")
        picture.pts = self._count
        picture.time_base = 1 / self._rate
        return picture


def _format(path: Path, alpha: bool, crf: int) -> tuple[str, str, dict[str, str]]:
    suffix = path.suffix.lower()
    if alpha and suffix == ".webm":
        options = {"crf": str(crf), "b:v": "0", "deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "0"}
        return "libvpx-vp9", "yuva420p", options
    if alpha and suffix == ".mov":
        return "prores_ks", "yuva444p10le", {"profile": "4444"}
    if not alpha and suffix in {".mp4", ".mkv", ".mov"}:
        return "libx264", "yuv420p", {"crf": str(crf), "preset": "veryfast"}
    kinds = ".webm or .mov" if alpha else ".mp4, .mkv or .mov"
    with_alpha = "with alpha " if alpha else ""
    raise UsageError(f"{path}: a video {with_alpha}is written as {kinds}; change the suffix")


def _container_options(path: Path) -> dict[str, str]:
    return {"movflags": "+faststart"} if path.suffix.lower() in {".mp4", ".mov"} else {}


def _unwritable(path: Path, error: Exception) -> OutputError:
    return OutputError(
        f"{path}: the video cannot be written ({error}); check that the folder exists and has room"
    )


def partial_path(path: Path) -> Path:
    """A new hidden name beside `path`, to be renamed to it when complete."""
    return path.with_name(f".{path.stem}.partial-{uuid.uuid4().hex[:8]}{path.suffix}")


def overlay(
    frame: Frame,
    masks: BoolArray,
    *,
    colors: Sequence[tuple[int, int, int]] | None = None,
    alpha: float = 0.5,
    thickness: int | None = None,
) -> Frame:
    """Tint each mask and draw its contour: frame uint8 [H, W, 3], masks bool [N, H, W].

    Returns a new uint8 [H, W, 3]; a later mask lies over an earlier one. `thickness` of the contour is in
    pixels, None: by the size of the frame.
    """
    if masks.ndim != 3 or masks.shape[1:] != frame.shape[:2]:
        raise UsageError(
            f"masks of shape {list(masks.shape)} for a frame of {frame.shape[0]}x{frame.shape[1]}; "
            f"masks are bool [N, H, W] of the frame's size"
        )
    picture = frame.copy()
    width = thickness or max(1, round(min(frame.shape[:2]) / 240))
    for position, mask in enumerate(masks):
        color = np.array(colors[position] if colors else color_of(position), dtype=np.float32)
        _tint(picture, mask, color, alpha, width)
    return picture


def _tint(picture: Frame, mask: BoolArray, color: NDArray[np.float32], alpha: float, thickness: int) -> None:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    inside, view = mask[box], picture[box]
    # Beyond the box lies background, beyond the picture the mask goes on: no line along its border.
    around = np.pad(mask, thickness, mode="edge")
    inner = ndimage.binary_erosion(around, iterations=thickness)[thickness:-thickness, thickness:-thickness][
        box
    ]
    view[inside] = np.rint(view[inside] * (1 - alpha) + color * alpha).astype(np.uint8)
    view[inside & ~inner] = color.astype(np.uint8)


def require_match(video: Video, masklets: Masklets) -> None:
    """Raise `UsageError` unless the masks are of the video's length and size."""
    of_video = (len(video), *video.frame_size)
    of_masks = (masklets.num_frames, masklets.height, masklets.width)
    if of_video != of_masks:
        raise UsageError(
            f"{video.info.source} has {of_video[0]} frames of {of_video[1]}x{of_video[2]}, the masks are for "
            f"{of_masks[0]} frames of {of_masks[1]}x{of_masks[2]}; give the video that was segmented"
        )


def write_overlay(
    path: Path | str, video: Video, masklets: Masklets, *, side_by_side: bool = False, crf: int = 20
) -> Path:
    """Write the video with the masks drawn over it (beside the untouched video if asked for).

    A variable frame rate becomes its average. Raises `UsageError` where masks and video differ in
    size or length, `OutputError` where the file cannot be written.
    """
    require_match(video, masklets)
    with VideoWriter(path, video.fps, crf=crf) as writer:
        for index, frame in video.frames(0, len(video)):
            drawn = overlay(frame, masklets.frame(index))
            writer.write(np.concatenate([frame, drawn], axis=1) if side_by_side else drawn)
    return Path(path)


def write_alpha(path: Path | str, video: Video, masklets: Masklets, *, crf: int = 20) -> Path:
    """Write the objects alone, everything else transparent: `.webm` or `.mov`.

    Raises as `write_overlay`.
    """
    require_match(video, masklets)
    with VideoWriter(path, video.fps, alpha=True, crf=crf) as writer:
        for index, frame in video.frames(0, len(video)):
            opacity = masklets.union(index).astype(np.uint8) * 255
            writer.write(np.concatenate([frame, opacity[..., None]], axis=2))
    return Path(path)
