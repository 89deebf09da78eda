"""Image features of one video's frames, encoded once per (frame, size) and shared by turns and queries."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from videoseg.dialogue.render import ImageRef, Renderer
from videoseg.models.vlm import VLM, ImageFeatures

DEFAULT_BYTES = 512 * 2**20
IMAGES_PER_CALL = 8


class Frames(Protocol):
    """Anything that gives frames by index, `uint8 [H, W, 3]` RGB; `Video` for one."""

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """The frame."""
        ...

    def __len__(self) -> int:
        """How many there are."""
        ...


class ImageStore:
    """Features of shown images, least recently used first out once `max_bytes` is exceeded."""

    def __init__(self, vlm: VLM, renderer: Renderer, frames: Frames, max_bytes: int = DEFAULT_BYTES) -> None:
        self._vlm = vlm
        self._renderer = renderer
        self.frames = frames
        self._max_bytes = max_bytes
        self._kept: OrderedDict[Hashable, ImageFeatures] = OrderedDict()
        self.encoded = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the features kept."""
        return sum(features.nbytes for features in self._kept.values())

    @torch.no_grad()
    def features(self, images: Sequence[ImageRef]) -> list[ImageFeatures]:
        """Features of `images` in order; frames that are missing are decoded in ascending order."""
        missing = {image.key: image for image in images if image.key not in self._kept}
        wanted = sorted(missing.values(), key=lambda image: image.frame)
        fresh: dict[Hashable, ImageFeatures] = {}
        for start in range(0, len(wanted), IMAGES_PER_CALL):
            fresh |= self._encode(wanted[start : start + IMAGES_PER_CALL])
        self._kept |= fresh
        found = [self._kept[image.key] for image in images]
        for image in images:
            self._kept.move_to_end(image.key)
        while self.nbytes > self._max_bytes and len(self._kept) > 1:
            self._kept.popitem(last=False)
        return found

    def _encode(self, images: Sequence[ImageRef]) -> dict[Hashable, ImageFeatures]:
        patches = [
            torch.from_numpy(self._renderer.patches(image, self.frames[image.frame])) for image in images
        ]
        self.encoded += len(images)
        encoded = self._vlm.encode_images(patches, [image.grid for image in images])
        return {image.key: features for image, features in zip(images, encoded, strict=True)}
