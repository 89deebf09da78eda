"""Data reader: TimeLens-100K, events in videos with their times (benchmarks §4.1, §4.3)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from videoseg.data.frames import FileFrames
from videoseg.data.lazy import LazyLines, find_path
from videoseg.data.readers.base import Reader, field, text_field
from videoseg.data.sample import Event, GroundingSample, Origin
from videoseg.data.tracks import short

FILE = "timelens-100k.jsonl"


class TimeLensReader(Reader[GroundingSample]):
    """`TimeLens-100K/{timelens-100k.jsonl, video/ or videos/}`.

    A line is `{source, video_path, duration, events: [{query, span: [[start, end], ...]}]}` in seconds.
    All spans are kept; training uses the first. A span without length or outside the video is an error
    of the data (benchmarks §4.3); up to a second beyond the stated duration passes, as durations are rounded.
    """

    dataset = "timelens"

    def __init__(self, folder: Path | str, split: str = "train") -> None:
        super().__init__(folder, split)
        self.meta = find_path("the events", self.folder / FILE)
        self.video_root = find_path("the videos", self.folder / "videos", self.folder / "video")
        self._lines = LazyLines(self.meta)

    def __len__(self) -> int:
        return len(self._lines)

    def sample(self, index: int) -> GroundingSample:
        """Line number `index`, blank lines not counted."""
        origin = self.origin(self.meta, f"line {self._lines.numbers[index]}")
        item = self._lines[index]
        duration = number(field(item, "duration", (int, float), origin), origin, "duration")
        if duration <= 0:
            raise origin.error("duration", f"{duration} seconds")
        events = field(item, "events", list, origin)
        if not events:
            raise origin.error("events", "the list is empty")
        frames = FileFrames(self.video_root / text_field(item, "video_path", origin))
        parsed = tuple(event_of(event, duration, origin, f"events[{i}]") for i, event in enumerate(events))
        return GroundingSample(origin, frames, duration, parsed)

    def counts(self) -> dict[str, int]:
        """Videos (lines)."""
        return {"videos": len(self)}


def event_of(event: Any, duration: float, origin: Origin, at: str) -> Event:
    """One event with all its spans."""
    query = text_field(event, "query", origin, at)
    spans = field(event, "span", list, origin, at)
    if not spans:
        raise origin.error(f"{at}.span", "the list is empty")
    return Event(
        query, tuple(span_of(span, duration, origin, f"{at}.span[{i}]") for i, span in enumerate(spans))
    )


def span_of(span: Any, duration: float, origin: Origin, at: str) -> tuple[float, float]:
    """`[start, end]` in seconds."""
    if not isinstance(span, list) or len(span) != 2:
        raise origin.error(at, f"{short(span)} is no [start, end] in seconds")
    start, end = (number(value, origin, at) for value in span)
    if not 0 <= start < end <= duration + 1:
        raise origin.error(at, f"{start} to {end} seconds in a video of {duration} seconds")
    return start, end


def number(value: Any, origin: Origin, at: str) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise origin.error(at, f"{short(value)} is no number of seconds")
    return float(value)
