"""R1's coordinate maps between a frame and what the model sees of it (specification §3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from videoseg.errors import UsageError


@dataclass(frozen=True, slots=True)
class PlaneMap:
    """The map (x, y) -> (a·x + b·y + c, d·x + e·y + f), with a non-zero a·e - b·d.

    Points are continuous: the frame is the rectangle from (0, 0) to (width, height), whatever its pixels.
    """

    a: float = 1.0
    b: float = 0.0
    c: float = 0.0
    d: float = 0.0
    e: float = 1.0
    f: float = 0.0

    def point(self, x: float, y: float) -> tuple[float, float]:
        """Where a point goes."""
        return self.a * x + self.b * y + self.c, self.d * x + self.e * y + self.f

    def box(self, box: Sequence[float]) -> tuple[float, float, float, float]:
        """Where a box (x1, y1, x2, y2) goes, its corners ordered again after a turn.

        A box that was reversed stays so unless the map turns or mirrors.
        """
        (x1, y1), (x2, y2) = self.point(box[0], box[1]), self.point(box[2], box[3])
        if self.b == self.d == 0 and self.a > 0 and self.e > 0:
            return x1, y1, x2, y2
        return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)

    def then(self, other: PlaneMap) -> PlaneMap:
        """This map followed by `other`."""
        return PlaneMap(
            other.a * self.a + other.b * self.d,
            other.a * self.b + other.b * self.e,
            other.a * self.c + other.b * self.f + other.c,
            other.d * self.a + other.e * self.d,
            other.d * self.b + other.e * self.e,
            other.d * self.c + other.e * self.f + other.f,
        )

    def inverse(self) -> PlaneMap:
        """The map back."""
        whole = self.a * self.e - self.b * self.d
        a, b, d, e = self.e / whole, -self.b / whole, -self.d / whole, self.a / whole
        return PlaneMap(a, b, -(a * self.c + b * self.f), d, e, -(d * self.c + e * self.f))


def scale(size: tuple[float, float], new: tuple[float, float]) -> PlaneMap:
    """From a picture of (height, width) to the same one resized; UsageError on an empty one."""
    if min(*size, *new) <= 0:
        raise UsageError(f"a picture of {size} cannot be shown at {new}; both need an area")
    return PlaneMap(a=new[1] / size[1], e=new[0] / size[0])


def crop(left: float, top: float) -> PlaneMap:
    """From a picture to its part that begins at (left, top)."""
    return PlaneMap(c=-left, f=-top)


def rotate(size: tuple[float, float], quarters: int) -> PlaneMap:
    """From a picture of (height, width) to the same one after `quarters` clockwise quarter turns."""
    height, width = size
    turns = (
        PlaneMap(),
        PlaneMap(a=0, b=-1, c=height, d=1, e=0),
        PlaneMap(a=-1, c=width, e=-1, f=height),
        PlaneMap(a=0, b=1, d=-1, e=0, f=width),
    )
    return turns[quarters % 4]
