"""Frames in and out: whether a container file is whole, read from its outer structure.

A cut or damaged file often demuxes without complaint and merely gives fewer frames, so what its
boxes promise is compared with the bytes that are there.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

ISO_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"styp")
EBML = b"\x1a\x45\xdf\xa3"
MAX_AFTER_TRAILER = 64
SEGMENT = 0x18538067
CLUSTER = 0x1F43B675
VOID_AND_CHECKSUM = {0xEC, 0xBF}
# Matroska element ids (RFC 9559) that may stand in a segment and in a cluster.
IN_SEGMENT = VOID_AND_CHECKSUM | {
    *(0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1043A770, CLUSTER, 0x1C53BB6B, 0x1941A469, 0x1254C367)
}
IN_CLUSTER = VOID_AND_CHECKSUM | {0xE7, 0xA3, 0xA0, 0xAB, 0xA7, 0x5854, 0xAF}


def looks_like_video(path: Path) -> bool:
    """Whether the first bytes are those of a known video container."""
    with path.open("rb") as file:
        head = file.read(16)
    return (
        head[4:8] in ISO_BOXES
        or head.startswith((EBML, b"GIF87a", b"GIF89a", b"FLV", b"\x00\x00\x01\xba"))
        or (head.startswith(b"RIFF") and head[8:12] == b"AVI ")
    )


def broken_at(path: Path) -> int | None:
    """Byte at which the structure of the file breaks off or stops making sense.

    The size of the file where it is cut short; None where it is whole or the format cannot tell
    (transport streams, FLV, files that were written live).
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(16)
        if head[4:8] in ISO_BOXES:
            return _broken_box(file, size)
        if head.startswith(EBML):
            return _broken_element(file, size)
        if head.startswith(b"RIFF"):
            return size if int.from_bytes(head[4:8], "little") + 8 > size else None
        if head.startswith(b"GIF8"):
            return _broken_block(file, size)
    return None


def _broken_box(file: BinaryIO, size: int) -> int | None:
    """Walk the top-level boxes of an ISO media file (mp4, mov)."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        header = file.read(16)
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length == 0:
            return None
        if length < 8:
            return position
        position += length
    return size if position > size else None


def _broken_block(file: BinaryIO, size: int) -> int | None:
    """Walk the blocks of a GIF up to its trailer."""
    file.seek(10)
    file.seek(13 + _color_table(file.read(1)))
    while True:
        position = file.tell()
        kind = file.read(1)
        if kind == b";":  # the trailer; far from the end it is a byte of a picture
            return None if size - position <= MAX_AFTER_TRAILER else position
        if kind == b",":
            descriptor = file.read(9)
            file.seek(_color_table(descriptor[8:]) + 1, 1)
        elif kind == b"!":
            file.seek(1, 1)
        elif kind != b"\0":  # some writers pad with empty blocks
            return min(position, size)
        while kind != b"\0" and (length := file.read(1)) not in (b"", b"\0"):
            file.seek(length[0], 1)


def _color_table(flags: bytes) -> int:
    """Bytes of the colour table that the packed field of a GIF announces."""
    return 3 << ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0


def _broken_element(file: BinaryIO, size: int) -> int | None:
    """Check the segment of a Matroska file (mkv, webm): its length, then its structure."""
    header = _element(file, 0)
    segment = _element(file, header[1] + header[2]) if header and header[2] is not None else None
    if segment is None or segment[0] != SEGMENT:
        return header[1] if header else 0
    _, start, length = segment
    if length is None:
        return None
    return size if start + length > size else _walk(file, start, start + length, IN_SEGMENT)


def _walk(file: BinaryIO, position: int, end: int, allowed: set[int]) -> int | None:
    """Position of the first element that has no place between `position` and `end`."""
    while position < end:
        element = _element(file, position)
        if element is None or element[0] not in allowed:
            return position
        kind, start, length = element
        if length is None:
            return None
        if start + length > end:
            return position
        broken = _walk(file, start, start + length, IN_CLUSTER) if kind == CLUSTER else None
        if broken is not None:
            return broken
        position = start + length
    return None


def _element(file: BinaryIO, position: int) -> tuple[int, int, int | None] | None:
    """Id, start of content and its length (None where unknown) of the element at `position`."""
    file.seek(position)
    header = file.read(12)
    id_length = 9 - header[0].bit_length() if header else 9
    if id_length > 4 or len(header) <= id_length or header[id_length] == 0:
        return None
    width = 9 - header[id_length].bit_length()
    if len(header) < id_length + width:
        return None
    mask = (1 << 7 * width) - 1
    length = int.from_bytes(header[id_length : id_length + width], "big") & mask
    start = position + id_length + width
    return int.from_bytes(header[:id_length], "big"), start, None if length == mask else length
