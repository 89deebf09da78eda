"""Frames in and out: decoding of one video file, by index and in either direction.

A frame is reached by seeking to the keyframe at or before it and decoding on. Frames come upright
(the display matrix is applied) as uint8 [H, W, 3] in the order red, green, blue.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from av.error import FFmpegError

from videoseg.errors import CorruptVideoError, FrameError, VideoError
from videoseg.video.cache import Frame
from videoseg.video.integrity import broken_at
from videoseg.video.stream import open_stream, packets
from videoseg.video.table import FrameTable, build_table, damaged, without_leading

MAX_WARMUP = 2


class ContainerSource:
    """Frames of a file such as mp4, mkv, avi, webm or gif.

    Opening reads all packets and decodes the first frame. Raises the errors of `open_stream`,
    `CorruptVideoError` for a file that is cut short and `FrameError` for a frame that is damaged;
    with `conceal` such a file is read as far as the decoder gets.
    """

    chunked = True

    def __init__(self, path: Path, *, conceal: bool = False) -> None:
        self.path = path
        self.name = str(path)
        self._conceal = conceal
        self._container: Any = None
        self._packets: Iterator[tuple[int, Any]] | None = None
        self._last = -1
        self._warmup = 0
        table = self._build()
        self._container, self._stream = open_stream(path, conceal=conceal)
        self.fps = table.fps(self._stream.average_rate)
        self._table = table
        first = self._first_frame()
        self._table = without_leading(table, first.pts)
        self._matrix = display_matrix(first)
        self.height, self.width = upright(first, self._matrix).shape[:2]
        self._last = -1
        self._packets = None

    def _build(self) -> FrameTable:
        broken = None if self._conceal else broken_at(self.path)
        if broken is None:
            return build_table(self.path, conceal=self._conceal)
        try:
            readable = len(build_table(self.path, conceal=True))
        except VideoError:
            readable = 0
        size = self.path.stat().st_size
        what = "is cut short" if broken >= size else f"is damaged at byte {broken:,} of {size:,}"
        raise CorruptVideoError(
            f"{self.name}: the file {what}; about {readable} frames can be read, so frame "
            f"{max(0, readable - 1)} or one near it is the first that is missing. Copy or download the file "
            f"again, or open it with conceal_damage=True to use what is there"
        )

    def _first_frame(self) -> Any:
        self._restart()
        for _, frame in self._packets or ():
            return frame
        raise FrameError(damaged(self.name, 0, "the decoder returns nothing"))

    def __len__(self) -> int:
        return len(self._table)

    def seconds(self) -> np.ndarray:
        """When each frame appears, float64 [T] in seconds from the first one."""
        return self._table.seconds()

    def duration(self) -> float:
        """Seconds from the first frame to the end of the last."""
        return float((self._table.end - int(self._table.pts[0])) * self._table.time_base)

    def chunk_start(self, last: int, limit: int) -> int:
        """Where to begin so that decoding up to `last` wastes least: at most `limit` frames before."""
        lowest = max(0, last - limit + 1)
        frames = self._table.key_frames
        place = int(np.searchsorted(frames, lowest))
        return int(frames[place]) if place < len(frames) and frames[place] <= last else lowest

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, Frame]]:
        """Decode the frames of ascending `indices`; only these are converted to RGB."""
        for index in indices:
            frame = upright(self._advance(index), self._matrix)
            if frame.shape[:2] != (self.height, self.width):
                raise FrameError(
                    f"{self.name}: frame {index} is {frame.shape[0]}x{frame.shape[1]}, the first is "
                    f"{self.height}x{self.width} (height x width); re-encode the file to one size"
                )
            yield index, frame

    def close(self) -> None:
        """Release file and decoder."""
        self._packets = None
        if self._container is not None:
            self._container.close()
            self._container = None

    def _advance(self, index: int) -> Any:
        """The decoded picture of frame `index`, from where the decoder stands or after a seek."""
        key = self._table.key_before(index)
        if self._packets is not None and self._last < index and self._table.keys[key].frame <= self._last + 1:
            frame = self._attempt(index)
            if frame is not None:
                return frame
        # An open GOP refers to pictures before its keyframe, so a later attempt starts further back.
        for warmup in range(self._warmup, MAX_WARMUP + 1):
            place = max(0, key - warmup)
            for time in self._seek_times(place):
                self._seek(place, time, self._table.keys[key].frame)
                frame = self._attempt(index)
                if frame is not None:
                    self._warmup = warmup
                    return frame
        self._restart()
        return self._decode_to(index, final=True)

    def _attempt(self, index: int) -> Any | None:
        """Frame `index` from where the decoder stands; None where it is passed over or damaged."""
        try:
            return self._decode_to(index, final=False)
        except FrameError:
            return None

    def _seek_times(self, place: int) -> list[int]:
        key = self._table.keys[place]
        if place == 0 or (key.dts is None and not self._table.by_pts):
            return []
        times = (key.pts, key.dts) if self._table.by_pts else (key.dts,)
        return list(dict.fromkeys(t for t in times if t is not None))

    def _decode_to(self, index: int, *, final: bool) -> Any:
        """Decode until frame `index`; None (or, at the last attempt, an error) where it is passed over."""
        nearest = None
        for number, frame in self._packets or ():
            self._last, nearest = number, frame
            if number >= index:
                break
        if self._last == index and nearest is not None:
            return nearest
        if not final:
            return None
        if self._conceal and nearest is not None:
            return nearest
        self._packets = None
        raise FrameError(damaged(self.name, index, "the decoder skips it"))

    def _restart(self) -> None:
        """Decode from the first packet again, in a fresh container: not every format can seek."""
        if self._container is not None:
            self._container.close()
        self._container, self._stream = open_stream(self.path, conceal=self._conceal)
        self._last = -1
        self._packets = self._emit(0, None, 0)

    def _seek(self, place: int, time: int, floor: int) -> None:
        key = self._table.keys[place]
        self._last = -1
        try:
            self._container.seek(time, stream=self._stream)
            self._packets = self._emit(key.frame, None if self._table.by_pts else key.dts, floor)
        except FFmpegError:
            self._packets = iter(())

    def _emit(self, first: int, dts: int | None, floor: int) -> Iterator[tuple[int, Any]]:
        """Pairs of frame index and picture in order of presentation, from frame `first` on.

        Where frames are counted, the first packet must be that of `dts`, else nothing comes. Damage
        before frame `floor` is of no interest.
        """
        damage: tuple[int, Exception] | None = None
        count, started = first, first == 0
        for packet in packets(self._container, self._stream, self.path, conceal=self._conceal):
            if dts is not None and packet.dts != dts:
                return
            dts = None
            try:
                frames = packet.decode()
            except FFmpegError as error:
                number = self._table.find(packet.pts)
                number = count if number is None else number
                if number >= floor and not self._conceal:
                    damage = min(damage, (number, error), key=lambda d: d[0]) if damage else (number, error)
                frames = []
            for frame in frames:
                started = started or bool(frame.key_frame)
                if not self._table.by_pts and not started:
                    continue
                place = self._table.find(frame.pts) if self._table.by_pts else count
                count += 1
                if place is None:
                    continue
                if damage and damage[0] <= place:
                    raise FrameError(damaged(self.name, *damage)) from damage[1]
                yield place, frame
        if damage:
            raise FrameError(damaged(self.name, *damage)) from damage[1]


def display_matrix(frame: Any) -> tuple[int, int, int, int] | None:
    """The entries a, b, c, d of the frame's display matrix, if it has one.

    Asking makes the frame refer to itself, so that only the garbage collector can free it: ask once
    per file.
    """
    for data in tuple(frame.side_data.keys()):
        if data.type.name == "DISPLAYMATRIX":
            entries = np.frombuffer(bytes(data), dtype=np.int32)[:5].tolist()
            return entries[0], entries[1], entries[3], entries[4]
    return None


def upright(frame: Any, matrix: tuple[int, int, int, int] | None) -> Frame:
    """The picture as uint8 [H, W, 3] RGB with its display matrix applied.

    The matrix maps a pixel (x, y) to (a x + c y, b x + d y); quarter turns and mirrorings are
    exact, and any other angle is taken to be the nearest of them.
    """
    picture = frame.to_ndarray(format="rgb24")
    if matrix is None:
        return np.ascontiguousarray(picture)
    a, b, c, d = matrix
    if abs(b) + abs(c) > abs(a) + abs(d):
        picture, across, down = picture.swapaxes(0, 1), c, b
    else:
        across, down = a, d
    picture = picture[:, ::-1] if across < 0 else picture
    picture = picture[::-1] if down < 0 else picture
    return np.ascontiguousarray(picture)
