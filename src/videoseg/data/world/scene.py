"""The scene graph of the generated world (design §5): what is in a clip, where and when.

Positions are fractions of the frame's width and height, radii fractions of its height, times
fractions of the clip, so that one scene can be drawn at any resolution and length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 30, 35),
    "orange": (250, 140, 15),
    "yellow": (240, 230, 40),
    "green": (35, 170, 50),
    "cyan": (50, 215, 225),
    "blue": (35, 70, 225),
    "pink": (235, 75, 205),
    "white": (245, 245, 245),
}
SIZES: dict[str, tuple[float, float]] = {"small": (0.085, 0.11), "large": (0.19, 0.225)}
SHAPES = ("disc", "square", "triangle", "diamond")
TEXTURES = ("plain", "stripes", "shaded")
FINE = "fine"
"""Stripes one pixel wide at 160 lines: gone in images shown at half that size."""
DIRECTIONS: dict[str, tuple[int, int]] = {"right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1)}
MOTIONS = ("still", *DIRECTIONS, "bounce", "circle", "stop")
GLANCE = (6, 3)
"""Low- and high-resolution frames of the first turn between which a short gap must lie."""
GAPS = ("start", "before", "after", "end")
"""Parts of a clip in which a thing may be out of view for a moment."""


@dataclass(frozen=True, slots=True)
class Thing:
    """One object.

    `brightness` is its mean share of the full colour, `start` and `end` are (x, y) of its centre, `enter`,
    `leave` and the two of `gap`, between which it is out of view, times in [0, 1].
    """

    shape: str
    colour: str
    size: str
    radius: float
    texture: str
    brightness: float
    motion: str
    start: tuple[float, float]
    end: tuple[float, float]
    presence: str = "always"
    enter: float = 0.0
    leave: float = 1.0
    gap: tuple[float, float] | None = None

    @property
    def heading(self) -> str | None:
        """The direction in which it gets on, also if it stops on the way; None if it ends where it began."""
        if self.motion != "stop":
            return self.motion if self.motion in DIRECTIONS else None
        way = (self.end[0] - self.start[0], self.end[1] - self.start[1])
        return max(DIRECTIONS, key=lambda name: DIRECTIONS[name][0] * way[0] + DIRECTIONS[name][1] * way[1])

    @property
    def gap_name(self) -> str | None:
        """Which of `GAPS` its gap is, by the middle of it."""
        return None if self.gap is None else GAPS[min(3, int(2 * sum(self.gap)))]

    def visible(self, time: float) -> bool:
        """Whether the object is in the scene at `time` in [0, 1]."""
        away = self.gap is not None and self.gap[0] < time < self.gap[1]
        return self.enter <= time <= self.leave and not away

    def position(self, time: float) -> tuple[float, float]:
        """Centre (x, y) at `time` in [0, 1]."""
        if self.motion == "circle":
            return self._on_circle(time)
        share = _progress(self.motion, time)
        (x0, y0), (x1, y1) = self.start, self.end
        return x0 + share * (x1 - x0), y0 + share * (y1 - y0)

    def _on_circle(self, time: float) -> tuple[float, float]:
        """One round about the midpoint of `start` and `end`."""
        (x0, y0), (x1, y1) = self.start, self.end
        centre_x, centre_y = (x0 + x1) / 2, (y0 + y1) / 2
        angle = math.atan2(y0 - centre_y, x0 - centre_x) + 2 * math.pi * time
        reach = math.hypot(x0 - centre_x, y0 - centre_y)
        return centre_x + reach * math.cos(angle), centre_y + reach * math.sin(angle)


def _progress(motion: str, time: float) -> float:
    """Share of the way from `start` to `end` that is done at `time`."""
    if motion == "still":
        return 0.0
    if motion == "bounce":
        return 1.0 - abs(2.0 * time - 1.0)
    if motion == "stop":
        return min(1.0, 2.0 * time)
    return time


@dataclass(frozen=True, slots=True)
class Scene:
    """A clip's content; later things are drawn over earlier ones."""

    seed: int
    width: int
    height: int
    num_frames: int
    fps: float
    things: tuple[Thing, ...]

    def time(self, frame: int) -> float:
        """Time in [0, 1] of a frame index."""
        return frame / max(1, self.num_frames - 1)


def position_words(x: float, y: float) -> str:
    """The third of the frame a point lies in, as two words: `left top`, `middle centre`, …"""
    column = ("left", "middle", "right")[min(2, max(0, int(x * 3)))]
    row = ("top", "centre", "bottom")[min(2, max(0, int(y * 3)))]
    return f"{column} {row}"


def place(
    motion: str, radius: float, aspect: float, rng: np.random.Generator
) -> tuple[tuple[float, float], ...]:
    """Draw `start` and `end` for a motion so that the object stays inside the frame.

    `aspect` is width / height; moving objects cross at least 60 % of the free way, a circle goes around
    the middle of the frame.
    """
    low_x, low_y = radius / aspect * 1.05, radius * 1.05
    if max(low_x, low_y) >= 0.5:
        raise ValueError(f"a thing of radius {radius:.2f} does not fit into a frame of aspect {aspect:.2f}")
    x, y = rng.uniform(low_x, 1 - low_x), rng.uniform(low_y, 1 - low_y)
    if motion == "still":
        return (x, y), (x, y)
    if motion == "circle":
        reach = rng.uniform(0.6, 1.0) * (0.5 - max(low_x, low_y))
        return (0.5 - reach, 0.5), (0.5 + reach, 0.5)
    direction = motion if motion in DIRECTIONS else str(rng.choice(list(DIRECTIONS)))
    step_x, step_y = DIRECTIONS[direction]
    low, axis_is_x = (low_x, True) if step_x else (low_y, False)
    free = 1 - 2 * low
    near, far = low + rng.uniform(0, 0.2) * free, 1 - low - rng.uniform(0, 0.2) * free
    begin, finish = (near, far) if step_x + step_y > 0 else (far, near)
    drift = rng.uniform(-0.06, 0.06)
    if axis_is_x:
        return (begin, y), (finish, float(np.clip(y + drift, low_y, 1 - low_y)))
    return (x, begin), (float(np.clip(x + drift, low_x, 1 - low_x)), finish)
