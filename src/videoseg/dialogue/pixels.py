"""Pixels for the vision tower: resizing and patches of the Qwen2-VL image processor (O3 specification §4)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from videoseg.dialogue.budget import ImageGeometry, ResizeStep

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def resize(frame: NDArray[np.uint8], plan: Sequence[ResizeStep]) -> NDArray[np.uint8]:
    """Apply the resizes of `plan` one after the other; uint8 [H, W, 3] in and out."""
    for step in plan:
        frame = _tensor_bicubic(frame, step) if step.filter == "tensor_bicubic" else _pillow(frame, step)
    return frame


def _pillow(frame: NDArray[np.uint8], step: ResizeStep) -> NDArray[np.uint8]:
    image = Image.fromarray(np.ascontiguousarray(frame))
    return np.asarray(image.resize((step.width, step.height), _FILTERS[step.filter]))


def _tensor_bicubic(frame: NDArray[np.uint8], step: ResizeStep) -> NDArray[np.uint8]:
    """Antialiased bicubic on uint8 as torchvision calls it: equal to the released pixels bit for bit."""
    import torch

    tensor = torch.tensor(np.moveaxis(frame, 2, 0))[None]
    resized = torch.nn.functional.interpolate(
        tensor, (step.height, step.width), mode="bicubic", align_corners=False, antialias=True
    )
    return resized[0].permute(1, 2, 0).contiguous().numpy()


def patchify(image: NDArray[np.uint8], geometry: ImageGeometry) -> NDArray[np.float32]:
    """Normalised patches, float32 [rows·columns, 3·temporal_patch·patch²].

    `image` is uint8 [H, W, 3] with sides that are multiples of `geometry.factor`. Patches come in groups of
    merge × merge, row by row; within a patch: channel, temporal copy, row, column.
    """
    patch, merge, copies = geometry.patch, geometry.merge, geometry.temporal_patch
    rows, columns = image.shape[0] // patch, image.shape[1] // patch
    split = image.reshape(rows // merge, merge, patch, columns // merge, merge, patch, 3)
    ordered = split.transpose(0, 3, 1, 4, 6, 2, 5).reshape(rows * columns, 3, 1, patch * patch)
    values = np.empty((rows * columns, 3, copies, patch * patch), dtype=np.float32)
    for channel, table in enumerate(_tables(geometry)):
        values[:, channel] = table[ordered[:, channel]]
    return values.reshape(rows * columns, -1)


def _tables(geometry: ImageGeometry) -> NDArray[np.float32]:
    """Normalised value of each of the 256 levels per channel: float32 [3, 256]."""
    levels = np.arange(256)[None] / 255
    mean, std = (np.asarray(values)[:, None] for values in (geometry.mean, geometry.std))
    return ((levels - mean) / std).astype(np.float32)
