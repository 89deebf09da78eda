"""Frames in and out: the table of a container's frames in order of presentation.

A packet's time of presentation orders the frames, so variable frame rates and B-frames need no
special case. Formats whose packets do not tell (AVI has no presentation times, VP8 hides frames)
are decoded once at opening and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from videoseg.errors import EmptyVideoError, FrameError
from videoseg.video.stream import open_stream, packets

TRUSTED_CONTAINERS = {"mov", "mp4", "matroska", "webm", "mpegts", "flv"}
TRUSTED_CODECS = {
    "h264",
    "hevc",
    "vp9",
    "av1",
    "mjpeg",
    "png",
    "prores",
    "ffv1",
    "qtrle",
    "dnxhd",
    "rawvideo",
}


@dataclass(frozen=True, slots=True)
class KeyPoint:
    """A keyframe to seek to: its frame index and the times of its packet, in ticks."""

    frame: int
    pts: int | None
    dts: int | None


@dataclass(frozen=True, eq=False)
class FrameTable:
    """What is known of a stream's frames: `pts` int64 [T] ticks in order of presentation.

    `by_pts` says whether a decoded frame is recognised by its time; otherwise frames are counted
    from a keyframe on. `keys` are in ascending order of frame and start with frame 0.
    """

    pts: NDArray[np.int64]
    end: int
    keys: tuple[KeyPoint, ...]
    time_base: Fraction
    by_pts: bool

    def __len__(self) -> int:
        return len(self.pts)

    def find(self, pts: int | None) -> int | None:
        """Index of the frame that is presented at `pts`, or None."""
        if pts is None:
            return None
        index = int(np.searchsorted(self.pts, pts))
        return index if index < len(self.pts) and self.pts[index] == pts else None

    def key_before(self, frame: int) -> int:
        """Position in `keys` of the last keyframe at or before `frame`."""
        return max(0, int(np.searchsorted(self.key_frames, frame, side="right")) - 1)

    @cached_property
    def key_frames(self) -> NDArray[np.int64]:
        """Frame index of each of `keys`, int64, ascending."""
        return np.array([key.frame for key in self.keys], dtype=np.int64)

    def seconds(self) -> NDArray[np.float64]:
        """When each frame appears, float64 [T] in seconds from the first one."""
        return (self.pts - self.pts[0]) * float(self.time_base)

    def fps(self, stated: Fraction | None) -> float:
        """Frames per second (the average for a variable rate); the stated rate where it agrees."""
        span = float((self.end - int(self.pts[0])) * self.time_base)
        measured = len(self.pts) / span if span > 0 else 0.0
        rate = float(stated) if stated else 0.0
        if rate > 0 and (measured == 0 or abs(rate - measured) <= 0.02 * measured):
            return rate
        return measured or 25.0


def build_table(path: Path, *, conceal: bool) -> FrameTable:
    """Table of the frames of the first video stream of `path`.

    Reads the whole file once (packets only, unless the format has to be counted). Raises
    `EmptyVideoError` where there is no frame and `FrameError` where counting meets damage.
    """
    container, stream = open_stream(path, conceal=conceal)
    with container:
        return _build(path, container, stream, conceal)


def _build(path: Path, container: Any, stream: Any, conceal: bool) -> FrameTable:
    formats = set(container.format.name.split(","))
    trusted = bool(formats & TRUSTED_CONTAINERS) and stream.codec_context.name in TRUSTED_CODECS
    entries: list[tuple[int | None, int | None, int | None, bool]] = []
    keys: list[tuple[int | None, int | None]] = []
    shown: list[tuple[int | None, bool]] = []
    for packet in packets(container, stream, path, conceal=conceal):
        if packet.size:
            _note(packet, entries, keys)
        if not trusted:
            shown.extend(_decode(packet, str(path), len(shown), conceal))
    if trusted and _usable(entries):
        return _from_packets(entries, stream.time_base)
    if trusted:
        shown = _count(path, conceal)
    if not shown:
        raise EmptyVideoError(f"{path}: the video stream holds no frame; record or export the file again")
    return _from_count(shown, keys, entries, stream)


def _note(packet: Any, entries: list[Any], keys: list[Any]) -> None:
    if packet.is_discard:
        return
    entries.append((packet.pts, packet.dts, packet.duration, bool(packet.is_keyframe)))
    if packet.is_keyframe:
        keys.append((packet.pts, packet.dts))


def _usable(entries: Sequence[tuple[Any, Any, Any, bool]]) -> bool:
    times = [entry[0] for entry in entries]
    return bool(times) and None not in times and len(set(times)) == len(times)


def _decode(packet: Any, name: str, count: int, conceal: bool) -> list[tuple[int | None, bool]]:
    try:
        return [(frame.pts, bool(frame.key_frame)) for frame in packet.decode()]
    except FFmpegError as error:
        if conceal:
            return []
        raise FrameError(damaged(name, count, error)) from error


def damaged(name: str, frame: int, error: Exception | str) -> str:
    """The text about a frame that cannot be decoded."""
    return (
        f"{name}: frame {frame} cannot be decoded ({error}); re-encode or cut the file before it, "
        f"or open it with conceal_damage=True to go on with what the decoder makes of it"
    )


def _count(path: Path, conceal: bool) -> list[tuple[int | None, bool]]:
    shown: list[tuple[int | None, bool]] = []
    container, stream = open_stream(path, conceal=conceal)
    with container:
        for packet in packets(container, stream, path, conceal=conceal):
            shown.extend(_decode(packet, str(path), len(shown), conceal))
    return shown


def _from_packets(entries: Sequence[tuple[Any, Any, Any, bool]], time_base: Fraction) -> FrameTable:
    ordered = sorted(entries)
    keys = [KeyPoint(i, pts, dts) for i, (pts, dts, _, is_key) in enumerate(ordered) if is_key]
    if not keys or keys[0].frame:
        keys.insert(0, KeyPoint(0, None, None))
    pts = np.array([entry[0] for entry in ordered], dtype=np.int64)
    return FrameTable(pts, _end(pts, ordered[-1][2]), tuple(keys), time_base, by_pts=True)


def _from_count(
    shown: Sequence[tuple[int | None, bool]], keys: Sequence[tuple[Any, Any]], entries: Any, stream: Any
) -> FrameTable:
    times = [pts for pts, _ in shown]
    numbers = np.array([-1 if pts is None else pts for pts in times], dtype=np.int64)
    by_pts = None not in times and bool((np.diff(numbers) > 0).all())
    if not by_pts:
        numbers = np.arange(len(shown), dtype=np.int64) * _ticks_per_frame(stream)
    places = [index for index, (_, is_key) in enumerate(shown) if is_key]
    points = [KeyPoint(f, *k) for f, k in zip(places, keys, strict=True)] if len(places) == len(keys) else []
    if not points or points[0].frame:
        points.insert(0, KeyPoint(0, None, None))
    duration = entries[-1][2] if entries else None
    return FrameTable(numbers, _end(numbers, duration), tuple(points), stream.time_base, by_pts)


def _ticks_per_frame(stream: Any) -> int:
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    return max(1, round(1 / (rate * stream.time_base)))


def _end(pts: NDArray[np.int64], duration: int | None) -> int:
    """When the last frame ends; a missing duration is taken to be the median step."""
    step = duration or (int(np.median(np.diff(pts))) if len(pts) > 1 else 0)
    return int(pts[-1]) + step


def without_leading(table: FrameTable, first_pts: int | None) -> FrameTable:
    """Drop frames before the first that can be decoded (a stream cut in the middle of an open GOP)."""
    skip = int(np.searchsorted(table.pts, first_pts)) if first_pts is not None and table.by_pts else 0
    if skip == 0 or skip >= len(table):
        return table
    keys = [KeyPoint(k.frame - skip, k.pts, k.dts) for k in table.keys if k.frame >= skip]
    if not keys or keys[0].frame:
        keys.insert(0, KeyPoint(0, None, None))
    return FrameTable(table.pts[skip:], table.end, tuple(keys), table.time_base, True)
