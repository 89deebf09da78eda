"""Frames in and out: opening a container and choosing its moving picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
from av.error import FFmpegError

from videoseg.errors import (
    CorruptVideoError,
    EmptyVideoError,
    NoVideoStreamError,
    UnsupportedVideoError,
)
from videoseg.video.integrity import looks_like_video

DECODER_THREADS = 2
# FFmpeg draws plain text and old text-mode art as pictures; nobody means that by a video.
TEXT_FORMATS = {"tty", "bin", "xbin", "adf", "idf", "sbg", "txd"}


def open_stream(path: Path, *, conceal: bool) -> tuple[Any, Any]:
    """The container and its first moving-picture stream, with the decoder set up.

    Raises `EmptyVideoError`, `UnsupportedVideoError`, `CorruptVideoError` or `NoVideoStreamError`.
    """
    if path.stat().st_size == 0:
        raise EmptyVideoError(f"{path}: the file is empty (0 bytes); copy or export it again")
    try:
        container = av.open(str(path), metadata_errors="ignore")
    except FFmpegError as error:
        raise _cannot_open(path, error) from error
    if container.format.name in TEXT_FORMATS:
        container.close()
        raise _cannot_open(path, ValueError("it is text"))
    stream = _choose(container)
    if stream is None:
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "no stream at all"
        container.close()
        raise NoVideoStreamError(
            f"{path}: no video stream (it holds {kinds}); give a file with moving pictures"
        )
    if stream.codec_context is None:
        container.close()
        raise UnsupportedVideoError(f"{path}: no decoder for its video codec; convert it to H.264 mp4")
    # Slice threads add no delay: an error belongs to the packet that was just sent.
    stream.thread_type = "SLICE"
    stream.codec_context.thread_count = DECODER_THREADS
    if not conceal:
        stream.codec_context.options = {"err_detect": "explode"}
    return container, stream


def _choose(container: Any) -> Any | None:
    covers = av.stream.Disposition.attached_pic
    return next((s for s in container.streams.video if not s.disposition & covers), None)


def _cannot_open(path: Path, error: Exception) -> Exception:
    if looks_like_video(path):
        return CorruptVideoError(
            f"{path}: the container is damaged or cut short ({error}); copy or download the file again, "
            f"or repair it by remuxing"
        )
    return UnsupportedVideoError(
        f"{path}: not a video that can be decoded ({error}); give mp4, mkv, avi, webm, gif "
        f"or a folder of images"
    )


def packets(container: Any, stream: Any, path: Path, *, conceal: bool) -> Iterator[Any]:
    """Packets of `stream` in file order; where the container breaks off, an error or (`conceal`) the end."""
    try:
        yield from container.demux(stream)
    except FFmpegError as error:
        if not conceal:
            raise CorruptVideoError(
                f"{path}: the container is damaged ({error}); copy or download the file again, "
                f"or open it with conceal_damage=True to use what is there"
            ) from error
