"""Data: where the masks of one object come from, read frame by frame: RLE lists, PNG files, polygons.

A track answers `read(frames)` with one `Rle` per frame, or None where the object is absent. Problems are
`ValueError`s that name file and frame; samples turn them into `DatasetError`s that name the sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from videoseg.data.lazy import Span, read_json, read_span
from videoseg.errors import DatasetError
from videoseg.masks import BoolArray, Rle, union

LETTERS = frozenset(range(48, 112))
MAX_SIDE = 1 << 15
LABEL_MODES = ("1", "P", "L", "I", "I;16")


class Track(Protocol):
    """Masks of one object; `frames` are positions in the sample's frames."""

    def read(self, frames: Sequence[int]) -> list[Rle | None]: ...


def rle_of(code: Any) -> Rle:
    """A COCO code (compressed or a list of counts) that is known to fit its size.

    Raises ValueError otherwise: the library behind reads what it is given without looking.
    """
    if not isinstance(code, Mapping) or not {"size", "counts"} <= set(code):
        raise ValueError(f'a mask is {{"size": [height, width], "counts": ...}} or null, not {short(code)}')
    size = code["size"]
    if not (isinstance(size, list | tuple) and len(size) == 2 and all(_side(value) for value in size)):
        raise ValueError(f"size {short(size)} is not [height, width] in pixels")
    counts = code["counts"]
    runs = _runs(counts) if isinstance(counts, str | bytes) else _listed(counts)
    if (runs < 0).any() or int(runs.sum()) != size[0] * size[1]:
        raise ValueError(f"counts cover {int(runs.sum())} pixels, size [height, width] is {list(size)}")
    return Rle.from_coco({"size": list(size), "counts": counts})


def _side(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_SIDE


def _listed(counts: Any) -> np.ndarray:
    if not isinstance(counts, list) or not all(isinstance(value, int) for value in counts):
        raise ValueError(f"counts are a string or a list of whole numbers, not {short(counts)}")
    return np.array(counts, dtype=np.int64)


def _runs(counts: str | bytes) -> np.ndarray:
    """Run lengths of a compressed code: 5 bits a letter, from the third on as difference to two before."""
    letters = counts.encode("latin1", "replace") if isinstance(counts, str) else counts
    if not letters or not LETTERS.issuperset(letters):
        raise ValueError("counts is not a compressed COCO code")
    bits = np.frombuffer(letters, dtype=np.uint8).astype(np.int64) - 48
    last = (bits & 32) == 0
    if not last[-1]:
        raise ValueError("counts is cut off")
    starts = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    place = np.arange(len(bits)) - np.repeat(starts, np.diff(np.concatenate([starts, [len(bits)]])))
    if place.max() > 6:
        raise ValueError("counts holds a run that is longer than any picture")
    values = np.add.reduceat((bits & 31) << (5 * place), starts)
    ends = np.flatnonzero(last)
    values -= np.where(bits[ends] & 16, np.int64(1) << (5 * (place[ends] + 1)), 0)
    runs = values.copy()
    runs[1::2] = np.cumsum(values[1::2])
    runs[2::2] = np.cumsum(values[2::2])
    return runs


def polygons_rle(polygons: Any, height: int, width: int) -> Rle:
    """The union of polygons `[[x, y, x, y, ...], ...]` in pixels.

    Raises ValueError where one has fewer than three points or no numbers.
    """
    if not isinstance(polygons, list) or not polygons:
        raise ValueError("polygons is not a list of [x, y, x, y, ...]")
    flat = [polygons] if isinstance(polygons[0], int | float) else polygons
    for points in flat:
        good = isinstance(points, list) and len(points) >= 6 and len(points) % 2 == 0
        if not good or not np.isfinite(np.asarray(points, dtype=float)).all():
            raise ValueError(
                f"a polygon needs three or more points as [x, y, x, y, ...], not {short(points)}"
            )
    codes = coco.frPyObjects([[float(v) for v in points] for points in flat], height, width)
    return union([Rle.from_coco(code) for code in codes])


def coco_mask(segmentation: Any, height: int, width: int) -> Rle:
    """A COCO `segmentation`: polygons, a code, or a list of codes; raises ValueError."""
    if isinstance(segmentation, Mapping):
        return rle_of(segmentation)
    if isinstance(segmentation, list) and segmentation and isinstance(segmentation[0], Mapping):
        return union([rle_of(code) for code in segmentation])
    return polygons_rle(segmentation, height, width)


def short(value: Any, limit: int = 60) -> str:
    """A value as it may stand in a message."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


@dataclass(frozen=True, slots=True)
class JsonTrack:
    """A member of a mask dictionary: codes in the file's own frame order; `order` maps our frames to it."""

    path: Path
    span: Span
    order: tuple[int, ...]

    def read(self, frames: Sequence[int]) -> list[Rle | None]:
        return listed_masks(read_span(self.path, self.span), [self.order[i] for i in frames], len(self.order))


def listed_masks(codes: Any, places: Iterable[int], expected: int) -> list[Rle | None]:
    """Masks at `places` of a list of codes or nulls; raises ValueError where its length is not `expected`."""
    if not isinstance(codes, list):
        raise ValueError(f"masks are a list with one entry per frame, not {short(codes)}")
    if len(codes) != expected:
        raise ValueError(f"{len(codes)} masks for {expected} frames")
    return [_at(codes[place], place) for place in places]


def _at(code: Any, place: int) -> Rle | None:
    if code is None:
        return None
    try:
        return rle_of(code)
    except ValueError as error:
        raise ValueError(f"mask {place}: {error}") from error


@dataclass(frozen=True, slots=True)
class SparseTrack:
    """Masks known as codes or polygons by frame (own data); other frames have none."""

    entries: Mapping[int, Any]
    height: int
    width: int

    def read(self, frames: Sequence[int]) -> list[Rle | None]:
        return [self._one(frame) for frame in frames]

    def _one(self, frame: int) -> Rle | None:
        entry = self.entries.get(frame)
        if entry is None:
            return None
        try:
            return coco_mask(entry, self.height, self.width)
        except ValueError as error:
            raise ValueError(f"frame {frame}: {error}") from error


@dataclass(frozen=True, slots=True)
class PngTrack:
    """One PNG per frame in `folder`; a missing file means that the object is absent.

    `value` None: any non-zero pixel is the object (0/255 pictures). A number: pixels of that palette
    index, for label maps that hold several objects.
    """

    folder: Path
    stems: tuple[str, ...]
    value: int | None = None
    required: bool = False

    def read(self, frames: Sequence[int]) -> list[Rle | None]:
        return [self._one(self.folder / f"{self.stems[frame]}.png") for frame in frames]

    def _one(self, path: Path) -> Rle | None:
        if not path.is_file():
            if self.required:
                raise ValueError(f"{path} is missing")
            return None
        labels = read_labels(path, colours=self.value is None)
        mask = labels != 0 if self.value is None else labels == self.value
        return Rle.encode(mask) if mask.any() else None


def read_labels(path: Path, *, colours: bool = False) -> np.ndarray:
    """Pixel values of a label picture, `[H, W]`: palette index or grey value; raises ValueError.

    With `colours` a colour picture counts as its largest channel, which tells object from background;
    otherwise it is refused, because the numbers of its objects are lost.
    """
    try:
        with Image.open(path) as image:
            indexed = image.mode in LABEL_MODES
            labels = np.array(image if indexed else image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a picture ({error})") from error
    if not indexed and not colours:
        raise ValueError(
            f"{path} is a colour picture; a label picture has object numbers as palette or grey values"
        )
    return labels.astype(np.int64) if labels.ndim == 2 else labels.max(axis=2).astype(np.int64)


@dataclass(frozen=True, slots=True)
class SavTrack:
    """One column of a SA-V annotation: `masklet` is a list of frames, each a list of codes by object."""

    path: Path
    column: int
    num_frames: int

    def read(self, frames: Sequence[int]) -> list[Rle | None]:
        masklet = sav_masklet(self.path)
        if len(masklet) != self.num_frames:
            raise ValueError(
                f"{self.path} has {len(masklet)} annotated frames, every 4th frame of the video makes "
                f"{self.num_frames}"
            )
        return [self._one(masklet[frame], frame) for frame in frames]

    def _one(self, row: Any, frame: int) -> Rle | None:
        if not isinstance(row, list) or self.column >= len(row):
            raise ValueError(f"{self.path}: masklet[{frame}] has no object {self.column}")
        return _at(row[self.column], frame)


@lru_cache(maxsize=2)
def sav_masklet(path: Path) -> list[Any]:
    """The `masklet` of one SA-V file; the two latest are kept, as a video's objects are read together."""
    data = read_json(path, "the SA-V annotation of one video")
    masklet = data.get("masklet") if isinstance(data, dict) else None
    if not isinstance(masklet, list):
        raise DatasetError(f"{path}: field masklet is missing or no list; it is not a SA-V annotation")
    return masklet


def merged(masks: Iterable[Rle | None], size: tuple[int, int]) -> Rle:
    """The union of what is there, an empty mask of `size` (height, width) if nothing is."""
    present = [mask for mask in masks if mask is not None]
    return union(present) if present else Rle.empty(*size)


def dense(mask: Rle | None, size: tuple[int, int]) -> BoolArray:
    """`bool [H, W]`; empty for None."""
    return np.zeros(size, dtype=bool) if mask is None else mask.decode()
