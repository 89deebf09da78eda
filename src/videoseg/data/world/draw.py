"""Draws a scene of the generated world: frames and exact masks at any resolution (design §5)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from videoseg.data.world.scene import COLOURS, FINE, Scene, Thing

FloatArray = NDArray[np.float32]
ByteArray = NDArray[np.uint8]
BoolArray = NDArray[np.bool_]


class Stage:
    """Draws the frames of one scene; the background is drawn once.

    `height` and `width` default to those of the scene.
    """

    def __init__(self, scene: Scene, height: int | None = None, width: int | None = None) -> None:
        self.scene = scene
        self.height = height or scene.height
        self.width = width or scene.width
        self._background: FloatArray | None = None

    def frame(self, index: int) -> tuple[ByteArray, BoolArray]:
        """RGB `uint8 [H, W, 3]` and visible masks `bool [things, H, W]` of one frame."""
        if self._background is None:
            self._background = _background(self.scene.seed, self.height, self.width)
        image = self._background.copy()
        masks = self._paint(index, image)
        return np.clip(image + 0.5, 0, 255).astype(np.uint8), masks

    def masks(self, index: int) -> BoolArray:
        """Visible masks only, `bool [things, H, W]`."""
        return self._paint(index, None)

    def mask(self, thing: int, index: int) -> BoolArray:
        """Visible mask of one thing, `bool [H, W]`."""
        visible: BoolArray = self.masks(index)[thing]
        return visible

    def _paint(self, index: int, image: FloatArray | None) -> BoolArray:
        time = self.scene.time(index)
        masks = np.zeros((len(self.scene.things), self.height, self.width), dtype=bool)
        for number, thing in enumerate(self.scene.things):
            if not thing.visible(time):
                continue
            rows, columns, distance, y, x = _window(thing, time, self.height, self.width)
            inside = distance < 0
            masks[:number, rows, columns] &= ~inside
            masks[number, rows, columns] = inside
            if image is not None:
                cover = np.clip(0.5 - distance, 0, 1)[..., None]
                paint = _paint_of(thing, y, x)
                image[rows, columns] += cover * (paint - image[rows, columns])
        return masks


def _window(
    thing: Thing, time: float, height: int, width: int
) -> tuple[slice, slice, FloatArray, FloatArray, FloatArray]:
    """The pixels around a thing, their signed distance to its edge and their offsets in radii."""
    centre_x, centre_y = thing.position(time)
    centre_x, centre_y, radius = centre_x * width, centre_y * height, thing.radius * height
    top, bottom = max(0, int(centre_y - radius - 2)), min(height, int(centre_y + radius + 3))
    left, right = max(0, int(centre_x - radius - 2)), min(width, int(centre_x + radius + 3))
    y = (np.arange(top, bottom, dtype=np.float32)[:, None] + 0.5 - centre_y) / radius
    x = (np.arange(left, right, dtype=np.float32)[None, :] + 0.5 - centre_x) / radius
    distance = (signed_distance(thing.shape, y, x) * radius).astype(np.float32)
    return slice(top, bottom), slice(left, right), distance, y, x


def signed_distance(shape: str, y: FloatArray, x: FloatArray) -> FloatArray:
    """Distance to the edge of a shape of radius 1 about the origin, negative inside (broadcasts y, x)."""
    if shape == "disc":
        value = np.sqrt(x * x + y * y) - 0.95
    elif shape == "square":
        value = np.maximum(np.abs(x), np.abs(y)) - 0.82
    elif shape == "diamond":
        value = (np.abs(x) + np.abs(y)) * 0.7071 - 0.7
    elif shape == "triangle":
        value = np.maximum(np.abs(x) * 0.88 - (y + 0.95) * 0.47, y - 0.75)
    else:
        raise ValueError(f"unknown shape {shape!r}")
    return value.astype(np.float32)


def _paint_of(thing: Thing, y: FloatArray, x: FloatArray) -> FloatArray:
    """Colour of every pixel of a thing's window, `float32 [h, w, 3]`; textures do not change its mean."""
    shade = np.ones(np.broadcast_shapes(y.shape, x.shape), dtype=np.float32)
    if thing.texture == "stripes":
        shade = shade + np.where(np.sin(9.0 * (x + y)) > 0, 0.08, -0.08)
    elif thing.texture == FINE:
        shade = shade + _fine_stripes(y * thing.radius, x * thing.radius)
    elif thing.texture == "shaded":
        shade = shade + 0.1 * np.clip(x + y, -1, 1)
    shade = shade * thing.brightness
    paint: FloatArray = shade[..., None].astype(np.float32) * np.array(
        COLOURS[thing.colour], dtype=np.float32
    )
    return paint


def _fine_stripes(y: FloatArray, x: FloatArray) -> FloatArray:
    """Diagonal stripes one pixel wide at 160 lines; images of half the size do not show them.

    `y` and `x` are in heights of the picture.
    """
    return np.where(np.cos(np.pi * 160 * (x + y)) > 0, 0.16, -0.16)


def _background(seed: int, height: int, width: int) -> FloatArray:
    """A dim, nearly grey texture: smooth blotches, a gradient and fine grain, `float32 [H, W, 3]`."""
    rng = np.random.default_rng([seed, 77])
    base = rng.uniform(45, 95) + rng.uniform(-9, 9, size=3)
    blotches = _enlarge(rng.normal(0, 9, size=(5, 7)), height, width)
    slope = (
        rng.uniform(-14, 14) * np.linspace(-1, 1, width)[None, :]
        + rng.uniform(-14, 14) * np.linspace(-1, 1, height)[:, None]
    )
    grain = rng.normal(0, 3, size=(height, width))
    image: FloatArray = ((blotches + slope + grain)[..., None] + base).astype(np.float32)
    return image


def _enlarge(grid: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """Bilinear enlargement of a small grid to `[height, width]`."""
    rows = np.linspace(0, grid.shape[0] - 1, height)
    columns = np.linspace(0, grid.shape[1] - 1, width)
    across = np.stack([np.interp(columns, np.arange(grid.shape[1]), row) for row in grid])
    return np.stack([np.interp(rows, np.arange(grid.shape[0]), column) for column in across.T], axis=1)
