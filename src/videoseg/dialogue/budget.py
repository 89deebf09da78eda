"""How large a frame is shown: the pure size maths of O3 (specification §4), no image is touched here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from videoseg.dialogue.preset import Preset
from videoseg.errors import CheckpointError, UsageError
from videoseg.types import Role

RELEASED_FACTOR = 28
"""The release resizes to multiples of 28 before the image processor does its own resize."""
RELEASED_MIN, RELEASED_MAX = 4 * RELEASED_FACTOR**2, 16384 * RELEASED_FACTOR**2
"""Pixel limits of that step (qwen-vl-utils 0.0.14 for images)."""
MAX_ASPECT = 200

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class ImageGeometry:
    """How an image becomes patches and tokens; `min_pixels`/`max_pixels` are the processor's own limits.

    `patch` pixels a side, `merge` × `merge` patches per token, `temporal_patch` copies of a still image;
    `mean` and `std` per channel for values in [0, 1].
    """

    patch: int = 16
    merge: int = 2
    temporal_patch: int = 2
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    min_pixels: int = 65_536
    max_pixels: int = 16_777_216

    @property
    def factor(self) -> int:
        """Side of the square of pixels behind one token."""
        return self.patch * self.merge

    @classmethod
    def from_processor_config(cls, config: Mapping[str, Any]) -> ImageGeometry:
        """Read a `preprocessor_config.json`; its `min_pixels`/`max_pixels` win over `size` when set.

        Raises CheckpointError naming a field that is missing or of the wrong kind.
        """
        size = config.get("size") or {}
        try:
            low, high = config.get("min_pixels"), config.get("max_pixels")
            return cls(
                patch=int(config["patch_size"]),
                merge=int(config["merge_size"]),
                temporal_patch=int(config.get("temporal_patch_size", 2)),
                mean=_three(config["image_mean"]),
                std=_three(config["image_std"]),
                min_pixels=int(size["shortest_edge"] if low is None else low),
                max_pixels=int(size["longest_edge"] if high is None else high),
            )
        except KeyError as error:
            raise CheckpointError(f"preprocessor_config.json lacks the field {error}") from error
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"preprocessor_config.json holds a bad value: {error}") from error


@dataclass(frozen=True, slots=True)
class ResizeStep:
    """One resize of an image to `height` × `width` pixels.

    `bilinear` and `bicubic` are Pillow's filters, `tensor_bicubic` is torch's on uint8, which the image
    processor of the released models uses and which differs from Pillow's by a grey level here and there.
    """

    height: int
    width: int
    filter: Literal["bilinear", "bicubic", "tensor_bicubic"]


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def smart_resize(size: Size, factor: int, min_pixels: int, max_pixels: int, *, least: int = 0) -> Size:
    """The size (height, width) nearest in shape to `size` with sides that are multiples of `factor`.

    The rule of the Qwen2-VL image processor: round both sides; if the area leaves the limits, scale towards
    them, downwards when too large. For extreme shapes the area may exceed `max_pixels` (see `fit_size`).
    Python's rounding (half to even) is part of the rule. `least` bounds the rounded sides from below, before
    the area is looked at: qwen-vl-utils has `factor` there, the image processor nothing.
    """
    height, width = size
    new_height, new_width = (max(least, round(side / factor) * factor) for side in size)
    if new_height * new_width > max_pixels:
        scale = math.sqrt(height * width / max_pixels)
        new_height = max(factor, math.floor(height / scale / factor) * factor)
        new_width = max(factor, math.floor(width / scale / factor) * factor)
    elif new_height * new_width < min_pixels:
        scale = math.sqrt(min_pixels / (height * width))
        new_height = math.ceil(height * scale / factor) * factor
        new_width = math.ceil(width * scale / factor) * factor
    return new_height, new_width


def fit_size(size: Size, factor: int, min_pixels: int, max_pixels: int) -> Size:
    """As `smart_resize`, but never above `max_pixels`: the longer side of an extreme shape is cut.

    Raises UsageError if not even one token of `factor` × `factor` pixels fits.
    """
    if factor * factor > max_pixels:
        raise UsageError(
            f"a pixel budget of {max_pixels} does not hold one token of {factor}x{factor} pixels; raise it"
        )
    height, width = (max(factor, side) for side in smart_resize(size, factor, min_pixels, max_pixels))
    if height * width <= max_pixels:
        return height, width
    short = min(height, width, math.isqrt(max_pixels) // factor * factor)
    long = max_pixels // short // factor * factor
    return (short, long) if height <= width else (long, short)


def resize_plan(
    frame_size: Size, role: Role, preset: Preset, geometry: ImageGeometry
) -> tuple[ResizeStep, ...]:
    """The resizes that turn a frame of `frame_size` (height, width) into what the model sees as `role`.

    Steps that would not change the size are left out; an empty plan shows the frame as it is. The final
    sides are multiples of `geometry.factor`. Raises UsageError on a budget smaller than one token, or, with
    `three_step`, on a shape the released chain refuses (sides differing more than 200 times).
    """
    if preset.resampling == "three_step":
        steps = _three_steps(frame_size, role, preset, geometry)
    else:
        steps = [ResizeStep(*_single_size(frame_size, role, preset, geometry), "tensor_bicubic")]
    return _without_idle(frame_size, steps)


def _single_size(size: Size, role: Role, preset: Preset, geometry: ImageGeometry) -> Size:
    """The size inside the role's budget; the processor's own limits have the last word where obeyed."""
    budget = preset.budget
    fitted = fit_size(size, geometry.factor, budget.min_pixels, budget.max_pixels(role))
    if preset.obey_processor_limits:
        return fit_size(fitted, geometry.factor, geometry.min_pixels, geometry.max_pixels)
    return fitted


def _three_steps(size: Size, role: Role, preset: Preset, geometry: ImageGeometry) -> list[ResizeStep]:
    """The released evaluation's chain: area limit, multiples of 28, then the image processor."""
    budget = preset.budget
    limits = (geometry.min_pixels, geometry.max_pixels)
    if not preset.obey_processor_limits:
        limits = (budget.min_pixels, budget.max_pixels(role))
    first = _limit_area(size, budget.min_pixels, budget.max_pixels(role))
    second = _released_resize(first, RELEASED_FACTOR, RELEASED_MIN, RELEASED_MAX, least=RELEASED_FACTOR)
    third = _released_resize(second, geometry.factor, *limits)
    return [
        ResizeStep(*first, "bilinear"),
        ResizeStep(*second, "bicubic"),
        ResizeStep(*third, "tensor_bicubic"),
    ]


def _limit_area(size: Size, min_pixels: int, max_pixels: int) -> Size:
    """Step 1 of the released chain: scale both sides by √(limit / area), floored, at least 28."""
    height, width = size
    area = height * width
    if min_pixels <= area <= max_pixels:
        return size
    # A power, not a square root: the last bit may differ, and both are cut to integers.
    scale = ((max_pixels if area > max_pixels else min_pixels) / area) ** 0.5
    return max(RELEASED_FACTOR, int(height * scale)), max(RELEASED_FACTOR, int(width * scale))


def _released_resize(size: Size, factor: int, min_pixels: int, max_pixels: int, *, least: int = 0) -> Size:
    if max(size) / min(size) > MAX_ASPECT:
        raise UsageError(
            f"an image of {size[0]}x{size[1]} pixels is too elongated for the released resampling "
            f"(limit {MAX_ASPECT} to 1); use the preset field resampling='single'"
        )
    return smart_resize(size, factor, min_pixels, max_pixels, least=least)


def _without_idle(size: Size, steps: list[ResizeStep]) -> tuple[ResizeStep, ...]:
    """Drop the steps that keep the size, as Pillow and torchvision return such an image unchanged."""
    kept: list[ResizeStep] = []
    for step in steps:
        if (step.height, step.width) != size:
            kept.append(step)
            size = (step.height, step.width)
    return tuple(kept)
