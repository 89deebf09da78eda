"""Masks of objects through a video as COCO run-length codes, and their algebra.

Dense masks are `bool [T, H, W]`; an `Rle` is column-major and compressed, as pycocotools writes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Rle:
    """One mask of `height` x `width` pixels as a compressed COCO run-length code."""

    height: int
    width: int
    counts: str

    @classmethod
    def encode(cls, mask: BoolArray) -> Rle:
        """Encode a `[H, W]` mask; any non-zero pixel counts as set."""
        if mask.ndim != 2:
            raise ValueError(f"a mask is [H, W], got shape {mask.shape}")
        code = coco.encode(np.asfortranarray(mask != 0, dtype=np.uint8))
        return cls(mask.shape[0], mask.shape[1], code["counts"].decode("ascii"))

    @classmethod
    def empty(cls, height: int, width: int) -> Rle:
        """The mask without any pixel."""
        return cls.encode(np.zeros((height, width), dtype=bool))

    @classmethod
    def from_coco(cls, code: dict[str, Any]) -> Rle:
        """Read `{"size": [h, w], "counts": str | bytes | list}`."""
        height, width = code["size"]
        counts = code["counts"]
        if isinstance(counts, list):
            counts = coco.frPyObjects({"size": [height, width], "counts": counts}, height, width)["counts"]
        return cls(height, width, counts.decode("ascii") if isinstance(counts, bytes) else counts)

    def to_coco(self) -> dict[str, Any]:
        """The JSON-ready COCO form."""
        return {"size": [self.height, self.width], "counts": self.counts}

    def _raw(self) -> dict[str, Any]:
        return {"size": [self.height, self.width], "counts": self.counts.encode("ascii")}

    def decode(self) -> BoolArray:
        """The dense mask, `bool [H, W]`."""
        dense: BoolArray = coco.decode(self._raw()).astype(bool)
        return dense

    @property
    def area(self) -> int:
        """Number of pixels that are set."""
        return int(coco.area(self._raw()))

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Bounding box `(x, y, width, height)` in pixels; zeros where empty."""
        x, y, w, h = (int(v) for v in coco.toBbox(self._raw()))
        return x, y, w, h


def union(codes: Sequence[Rle]) -> Rle:
    """Pixels set in any of the masks (at least one mask, all of one size)."""
    return _merge(codes, intersect=False)


def intersection(codes: Sequence[Rle]) -> Rle:
    """Pixels set in all of the masks (at least one mask, all of one size)."""
    return _merge(codes, intersect=True)


def _merge(codes: Sequence[Rle], *, intersect: bool) -> Rle:
    sizes = {(code.height, code.width) for code in codes}
    if len(sizes) != 1:
        raise ValueError(f"masks of one size are needed, got sizes {sorted(sizes)}")
    merged = coco.merge([code._raw() for code in codes], intersect=intersect)
    return Rle(*sizes.pop(), merged["counts"].decode("ascii"))


def iou(a: Rle, b: Rle) -> float:
    """Intersection over union; 1.0 where both are empty (DAVIS convention)."""
    overlap = intersection([a, b]).area
    total = a.area + b.area - overlap
    return overlap / total if total else 1.0


@dataclass(frozen=True, slots=True)
class Masklet:
    """One object through the whole video, one entry per frame.

    `presence` is the probability in [0, 1] that the object is in the frame; `scores` is the
    mask's predicted IoU.
    """

    object_id: int
    rles: tuple[Rle, ...]
    presence: tuple[float, ...]
    scores: tuple[float, ...]

    def __post_init__(self) -> None:
        if not len(self.rles) == len(self.presence) == len(self.scores):
            raise ValueError(
                f"object {self.object_id}: {len(self.rles)} masks, {len(self.presence)} presence "
                f"values and {len(self.scores)} scores; one of each per frame is needed"
            )

    @classmethod
    def absent(cls, object_id: int, num_frames: int, height: int, width: int) -> Masklet:
        """An object that appears in no frame."""
        zeros = (0.0,) * num_frames
        return cls(object_id, (Rle.empty(height, width),) * num_frames, zeros, zeros)

    def dense(self) -> BoolArray:
        """All masks, `bool [T, H, W]`."""
        return np.stack([code.decode() for code in self.rles])


@dataclass(frozen=True, slots=True)
class Masklets:
    """All objects that a query means; none is a valid answer ("no such object")."""

    num_frames: int
    height: int
    width: int
    objects: tuple[Masklet, ...] = ()

    def __post_init__(self) -> None:
        for masklet in self.objects:
            if len(masklet.rles) != self.num_frames:
                raise ValueError(
                    f"object {masklet.object_id} has {len(masklet.rles)} frames, the video {self.num_frames}"
                )
            for frame, code in enumerate(masklet.rles):
                if (code.height, code.width) != (self.height, self.width):
                    raise ValueError(
                        f"object {masklet.object_id}, frame {frame}: mask of {code.height}x{code.width}, "
                        f"the video is {self.height}x{self.width}"
                    )

    def __len__(self) -> int:
        return len(self.objects)

    def __iter__(self) -> Iterator[Masklet]:
        return iter(self.objects)

    def frame(self, index: int) -> BoolArray:
        """Masks of one frame, `bool [objects, H, W]`."""
        if not self.objects:
            return np.zeros((0, self.height, self.width), dtype=bool)
        return np.stack([masklet.rles[index].decode() for masklet in self.objects])

    def union(self, index: int) -> BoolArray:
        """Pixels of any object in one frame, `bool [H, W]`."""
        return np.asarray(self.frame(index).any(axis=0), dtype=bool)

    def presence(self, index: int) -> float:
        """Probability in [0, 1] that any object is in the frame; 0 for "no such object"."""
        return max((masklet.presence[index] for masklet in self.objects), default=0.0)

    def dense(self) -> BoolArray:
        """The union of all objects, `bool [T, H, W]`; holds the whole video, so mind its length."""
        return np.stack([self.union(index) for index in range(self.num_frames)])


def masklet_from_frames(
    object_id: int, frames: Iterable[tuple[int, Rle, float, float]], num_frames: int
) -> Masklet:
    """Order `(frame, code, presence, score)` entries that arrive in any order, one per frame."""
    slots: list[tuple[Rle, float, float] | None] = [None] * num_frames
    for index, code, presence, score in frames:
        slots[index] = (code, presence, score)
    missing = [index for index, slot in enumerate(slots) if slot is None]
    if missing:
        raise ValueError(f"object {object_id}: no mask for frames {missing[:10]}")
    filled = [slot for slot in slots if slot is not None]
    rles, presence_all, scores = zip(*filled, strict=True)
    return Masklet(object_id, rles, presence_all, scores)
