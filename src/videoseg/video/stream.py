"""Frames in and out: opening a container, and whether the file is whole.

A cut file often demuxes without complaint and merely ends early, so what its boxes promise is
compared with the bytes that are there.
"""

from __future__ import annotations

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

DECODER_THREADS = 2
EBML_SEGMENT = 0x18538067


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
    if _looks_like_video(path):
        return CorruptVideoError(
            f"{path}: the container is damaged or cut short ({error}); copy or download the file again, "
            f"or repair it by remuxing"
        )
    return UnsupportedVideoError(
        f"{path}: not a video that can be decoded ({error}); give mp4, mkv, avi, webm, gif "
        f"or a folder of images"
    )


def _looks_like_video(path: Path) -> bool:
    """Whether the first bytes are those of a known video container."""
    with path.open("rb") as file:
        head = file.read(16)
    return (
        head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"styp")
        or head.startswith((b"\x1a\x45\xdf\xa3", b"GIF87a", b"GIF89a", b"FLV", b"\x00\x00\x01\xba"))
        or (head.startswith(b"RIFF") and head[8:12] == b"AVI ")
    )


def is_cut(path: Path) -> bool:
    """Whether the file has fewer bytes than its container promises (False where it cannot tell)."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(16)
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"styp"):
            return _boxes_end(file, size) > size
        if head.startswith(b"\x1a\x45\xdf\xa3"):
            return _ebml_end(file) > size
        if head.startswith(b"RIFF"):
            return int.from_bytes(head[4:8], "little") + 8 > size
        if head.startswith(b"GIF8"):
            file.seek(max(0, size - 64))
            return not file.read().rstrip(b"\0\r\n").endswith(b";")
    return False


def _boxes_end(file: Any, size: int) -> int:
    """Where the last top-level box of an ISO media file says that it ends."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        header = file.read(16)
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length == 0:
            return size
        if length < 8:
            return position
        position += length
    return position


def _ebml_end(file: Any) -> int:
    """Where the segment of a Matroska file says that it ends; 0 where its size is unknown."""
    position = 0
    for _ in range(2):
        file.seek(position)
        header = file.read(12)
        id_length = _vint_length(header[0]) if header else 0
        if not 1 <= id_length <= 4 or len(header) <= id_length:
            return 0
        element = int.from_bytes(header[:id_length], "big")
        length = _vint_length(header[id_length])
        bits = int.from_bytes(header[id_length : id_length + length], "big") & ((1 << 7 * length) - 1)
        if bits == (1 << 7 * length) - 1:
            return 0
        position += id_length + length + bits
        if element == EBML_SEGMENT:
            return position
    return 0


def _vint_length(first: int) -> int:
    return 9 - first.bit_length()
