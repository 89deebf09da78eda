"""Formats: the trace as one self-contained page, with the frames that were looked at.

The page needs no network and no other file: pictures are data URIs, charts are inline SVG. All text
that a model or a user wrote is escaped by the template.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image, ImageDraw

from videoseg.masks import BoolArray, Masklet
from videoseg.types import (
    Answer,
    Cues,
    Interval,
    Reply,
    Result,
    Role,
    Select,
    ShownFrame,
    StopReason,
    Turn,
    Vote,
)
from videoseg.video.cache import Frame
from videoseg.video.reader import Video
from videoseg.video.writer import color_of, overlay

NUM_OVERVIEW = 8
OVERVIEW_WIDTH = 480
KEYFRAME_WIDTH = 960
JPEG_QUALITY = 82
CURVE_POINTS = 600

ROLE_LABELS = {
    Role.LOW: "Low resolution",
    Role.HIGH: "High resolution",
    Role.KEYFRAME: "Keyframe",
    Role.SEGMENT: "Key segment",
    Role.REFERENCE: "References",
    Role.TARGET: "Target frame",
}
STOP_LABELS = {
    StopReason.ANSWER: "it answered",
    StopReason.TURN_LIMIT: "the turn limit was reached",
    StopReason.EMPTY_INTERVAL: "it chose an interval without frames",
    StopReason.INVALID_REPLY: "its reply did not follow the grammar",
    StopReason.LENGTH: "its reply was cut at the token limit",
}


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of the page: data URI (None without video), size in pixels, caption."""

    uri: str | None
    width: int
    height: int
    caption: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A stretch of the timeline in percent of the video's length."""

    left: float
    width: float


def write_trace_html(result: Result, path: Path, *, video: Video | None = None) -> Path:
    """Write the page; without `video` it says so and shows text and charts only."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("trace.html.jinja")
    with path.open("w", encoding="utf-8") as file:
        for piece in page.generate(**_context(result, _Thumbnails(video))):
            file.write(piece)
    return path


class _Thumbnails:
    """JPEG data URIs of frames; a picture that is shown twice is encoded once."""

    def __init__(self, video: Video | None) -> None:
        self.video = video
        self._made: dict[tuple[int, int, int], str] = {}

    def shown(self, frame: int, width: int, height: int) -> str | None:
        """Frame as it was shown to the model, at exactly that size."""
        if self.video is None or not 0 <= frame < len(self.video):
            return None
        key = (frame, width, height)
        if key not in self._made:
            self._made[key] = _jpeg(self.video[frame], width, height)
        return self._made[key]

    def masked(self, frame: int, masks: BoolArray, most: int) -> tuple[str | None, int, int]:
        """Frame with masks bool [N, H, W] over it, at most `most` pixels wide; URI, width, height."""
        height, width = masks.shape[1:]
        scale = min(1.0, most / width)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        if self.video is None:
            return None, *size
        return _jpeg(overlay(self.video[frame], masks), *size), *size


def _jpeg(frame: Frame, width: int, height: int) -> str:
    image = Image.fromarray(frame)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _context(result: Result, thumbnails: _Thumbnails) -> dict[str, Any]:
    return {
        "result": result,
        "has_video": thumbnails.video is not None,
        "stop": STOP_LABELS[result.trace.stop],
        "turns": [_turn(turn, result, thumbnails) for turn in result.trace.turns],
        "objects": [_object(position, masklet) for position, masklet in enumerate(result.masklets)],
        "keyframe": _keyframe(result, thumbnails),
        # A generator: pictures are made as the template writes them, never all at once.
        "overview": (_overview(result, frame, thumbnails) for frame in overview_frames(result)),
        "keyframe_place": _place(result.trace.keyframe, result.video.num_frames),
        "totals": {
            "tokens": sum(turn.num_tokens for turn in result.trace.turns),
            "seconds": sum(turn.seconds for turn in result.trace.turns),
            "images": sum(len(turn.shown) for turn in result.trace.turns),
        },
        "provenance": {name: readable(value) for name, value in result.provenance.items()},
        "seconds_at": lambda frame: frame / result.video.fps if result.video.fps > 0 else 0.0,
    }


def readable(value: Any) -> str:
    """A nested value on one line, without quotes and braces."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {readable(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(readable(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def overview_frames(result: Result) -> list[int]:
    """About eight frames, evenly over the video."""
    frames = np.linspace(0, result.video.num_frames - 1, min(NUM_OVERVIEW, result.video.num_frames))
    return [int(frame) for frame in np.unique(np.rint(frames))]


def _turn(turn: Turn, result: Result, thumbnails: _Thumbnails) -> dict[str, Any]:
    count = result.video.num_frames
    return {
        "turn": turn,
        "action": _action(turn.reply),
        "reply": turn.reply,
        "is_seg": turn.index == result.trace.seg_turn,
        "groups": [_group(role, turn.shown, thumbnails) for role in _roles(turn.shown)],
        "ticks": sorted({_place(shown.frame, count) for shown in turn.shown}),
        "bar": _bar(turn.reply.interval, count) if isinstance(turn.reply, Reply | Vote) else None,
        "keyframe_place": _reply_place(turn.reply, count),
        "cues": _cues(turn, thumbnails) if isinstance(turn.reply, Cues) else None,
    }


def _roles(shown: Iterable[ShownFrame]) -> list[Role]:
    present = {frame.role for frame in shown}
    return [role for role in Role if role in present]


def _group(role: Role, shown: Sequence[ShownFrame], thumbnails: _Thumbnails) -> dict[str, Any]:
    frames = [frame for frame in shown if frame.role == role]
    pictures = [
        Picture(thumbnails.shown(s.frame, s.width, s.height), s.width, s.height, str(s.frame)) for s in frames
    ]
    sizes = sorted({f"{s.width}×{s.height}" for s in frames})
    return {"role": role.value, "label": ROLE_LABELS[role], "sizes": ", ".join(sizes), "pictures": pictures}


def _place(frame: int, count: int) -> float:
    """Middle of a frame on the timeline, in percent."""
    return round(100 * (min(max(frame, 0), count - 1) + 0.5) / max(1, count), 3)


def _reply_place(reply: Reply | Vote | Cues | None, count: int) -> float | None:
    keyframe = reply.keyframe if isinstance(reply, Reply | Vote) else None
    return _place(keyframe, count) if keyframe is not None and 0 <= keyframe < count else None


def _action(reply: Reply | Vote | Cues | None) -> str | None:
    names: dict[type, str] = {Answer: "answer", Select: "select", Vote: "vote", Cues: "cues"}
    return None if reply is None else names[type(reply)]


def _cues(turn: Turn, thumbnails: _Thumbnails) -> Picture | None:
    """R1's target frame with the boxes and points of its answer."""
    frame = next((shown.frame for shown in turn.shown if shown.role is Role.TARGET), None)
    if frame is None or thumbnails.video is None or not isinstance(turn.reply, Cues):
        return None
    image = Image.fromarray(thumbnails.video[frame])
    draw = ImageDraw.Draw(image)
    for position, cue in enumerate(turn.reply.objects):
        draw.rectangle(cue.box, outline=color_of(position), width=max(1, image.width // 200))
        for point, sign in ((cue.point, "+"), (cue.negative, "-")):
            if point is not None:
                _mark(draw, point, sign, image.width / 80)
    picture = _jpeg(np.asarray(image), *image.size)
    return Picture(picture, *image.size, caption=f"Frame {frame} with what SAM2 is prompted with")


def _mark(draw: ImageDraw.ImageDraw, point: tuple[int, int], sign: str, reach: float) -> None:
    x, y = point
    for width, color in ((5, "black"), (2, "white")):
        draw.line((x - reach, y, x + reach, y), fill=color, width=width)
        if sign == "+":
            draw.line((x, y - reach, x, y + reach), fill=color, width=width)


def _bar(interval: Interval, count: int) -> Bar | None:
    """The part of an interval that lies in the video; None where none does."""
    start, end = max(0, interval.start), min(count - 1, interval.end)
    if start > end:
        return None
    return Bar(round(100 * start / count, 3), round(100 * (end - start + 1) / count, 3))


def _keyframe(result: Result, thumbnails: _Thumbnails) -> Picture | None:
    frame = result.trace.keyframe
    if not 0 <= frame < result.video.num_frames:
        return None
    picture = thumbnails.masked(frame, result.masklets.frame(frame), KEYFRAME_WIDTH)
    return Picture(*picture, caption=f"Frame {frame}, where the mask was decoded")


def _overview(result: Result, frame: int, thumbnails: _Thumbnails) -> Picture:
    return Picture(
        *thumbnails.masked(frame, result.masklets.frame(frame), OVERVIEW_WIDTH), caption=str(frame)
    )


def _object(position: int, masklet: Masklet) -> dict[str, Any]:
    areas = [rle.area for rle in masklet.rles]
    seen = [index for index, area in enumerate(areas) if area]
    largest = max(areas, default=0)
    return {
        "id": masklet.object_id,
        "color": "#{:02x}{:02x}{:02x}".format(*color_of(position)),
        "presence": curve(masklet.presence),
        "area": curve([area / largest if largest else 0.0 for area in areas]),
        "seen": len(seen),
        "first": seen[0] if seen else None,
        "last": seen[-1] if seen else None,
        "score": float(np.mean(masklet.scores)) if masklet.scores else 0.0,
    }


def curve(values: Sequence[float]) -> str:
    """Points of an SVG polyline in a 1000 x 100 box: values in [0, 1], 1 on top.

    A long video is thinned to the mean of equal stretches.
    """
    series = np.clip(np.nan_to_num(np.asarray(values, dtype=np.float64)), 0, 1)
    if len(series) > CURVE_POINTS:
        series = np.array([part.mean() for part in np.array_split(series, CURVE_POINTS)])
    across = (np.arange(len(series)) + 0.5) * 1000 / max(1, len(series))
    points = (
        [(0.0, series[0]), *zip(across, series, strict=True), (1000.0, series[-1])] if len(series) else []
    )
    return " ".join(f"{x:.1f},{100 - 100 * y:.1f}" for x, y in points)
