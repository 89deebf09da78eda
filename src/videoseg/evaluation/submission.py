"""Evaluation: predictions as the zip that a benchmark's server or script takes (benchmarks §3).

Every expected frame must be there, of the frame's size, before a zip appears; nothing else is in it.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from videoseg.errors import DatasetError, InputError, OutputError, UsageError
from videoseg.evaluation.labelmap import SOURCES, compete
from videoseg.evaluation.predictions import home_of
from videoseg.evaluation.protocols import Protocol
from videoseg.evaluation.scoring import Prediction, Predictions, require_unique
from videoseg.evaluation.truth import Item
from videoseg.masks import Rle
from videoseg.video.writer import PALETTE, partial_path

SHOWN = 5
EPOCH = (1980, 1, 1, 0, 0, 0)
"""Time of every member, so that equal masks give equal bytes."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Folder above the videos, pixel value of the object, and whether objects share a label map.

    `split` is the one that a server takes, None where only the benchmark's own script does.
    """

    top: str = ""
    value: int = 255
    labels: bool = False
    split: str | None = None


LAYOUTS: dict[tuple[str, str], Layout] = {
    ("mevis", "official"): Layout(split="valid"),
    ("mevis", "o3"): Layout("Annotations", split="valid"),
    ("ref-ytvos", "official"): Layout("Annotations", split="valid"),
    ("ref-ytvos", "o3"): Layout("Annotations", split="valid"),
    ("ref-davis17", "official"): Layout(labels=True),
    ("ref-davis17", "o3"): Layout("Annotations"),
    ("long-rvos", "official"): Layout(),
    # The script computes A and R from the values as stored, and means 0 and 1 (§3.6).
    ("revos", "official"): Layout(value=1),
    ("reasonvos", "official"): Layout(),
    ("world", "official"): Layout(),
}


@dataclass(frozen=True, slots=True)
class Written:
    """The zip, its pictures, and what was filled with empty masks."""

    path: Path
    pictures: int
    filled: tuple[str, ...]


def layout_of(table: Protocol) -> Layout:
    """Raises `UsageError` where the benchmark takes no pictures."""
    if (table.benchmark, table.name) not in LAYOUTS:
        raise UsageError(
            f"{table.benchmark} ({table.name}) takes no zip of pictures: its script reads results.json, or "
            f"runs the model; there are {', '.join(f'{one} ({name})' for one, name in LAYOUTS)}"
        )
    return LAYOUTS[table.benchmark, table.name]


def write_zip(
    table: Protocol, items: Sequence[Item], predictions: Predictions, out: Path | str, *, fill: bool = False
) -> Written:
    """Write the zip; with `fill` what is missing becomes empty masks.

    Raises `DatasetError` naming expressions that are missing, incomplete, damaged or of another size (all of
    them are looked at first), `OutputError` where the zip cannot be written. Nothing is left then.
    """
    layout, target = layout_of(table), Path(out)
    kept = [item for item in items if item.key[0] not in table.excluded]
    require_unique(kept)
    make = label_maps if layout.labels else partial(pictures, layout)
    work = Checked(predictions, fill)
    scratch = partial_path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            count = pack(scratch, make(kept, work))
            if work.problems:
                raise DatasetError(complaint(work.problems, len(kept)))
            scratch.replace(target)
        finally:
            scratch.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error}); check the folder and the disk") from error
    return Written(target, count, tuple(work.filled))


def pack(path: Path, members: Iterable[tuple[str, Image.Image]]) -> int:
    """Write PNG files into a zip; their number."""
    count = 0
    with zipfile.ZipFile(path, "w") as packed:
        for name, image in members:
            packed.writestr(zipfile.ZipInfo(safe(name), EPOCH), png(image))
            count += 1
    return count


class Checked:
    """Complete predictions of the right size; collects what is wrong, and what was filled."""

    def __init__(self, predictions: Predictions, fill: bool) -> None:
        self.predictions, self.fill = predictions, fill
        self.problems: list[str] = []
        self.filled: list[str] = []

    def __call__(self, item: Item) -> tuple[dict[str, Rle | None], tuple[int, int]] | None:
        """Masks of every evaluated frame and the video's (height, width); None where something is wrong."""
        try:
            size = frame_size(item)
            prediction = self.predictions(item) or self._missing(item)
            lost = [name for name in item.frames if name not in prediction.masks]
            if lost and not self.fill:
                raise ValueError(f"{len(lost)} frames have no mask, such as {lost[0]}")
            for name, mask in prediction.masks.items():
                if mask is not None and (mask.height, mask.width) != size:
                    raise ValueError(
                        f"frame {name}: mask of {mask.height}x{mask.width}, the video is {size[0]}x{size[1]}"
                    )
        except (InputError, ValueError) as error:
            self.problems.append(f"{item.name}: {error}")
            return None
        if lost:
            self.filled.append(item.name)
        return {name: prediction.masks.get(name) for name in item.frames}, size

    def _missing(self, item: Item) -> Prediction:
        if not self.fill:
            raise ValueError("there is no prediction")
        return Prediction({})


def frame_size(item: Item) -> tuple[int, int]:
    """(height, width) as the annotations or the first frame's file state it; raises ValueError."""
    if item.size is not None:
        return item.size
    if item.video is None:
        raise ValueError("nothing states the size of the video")
    height, width = item.video.read([0])[0].shape[:2]
    return height, width


def pictures(layout: Layout, items: Sequence[Item], work: Checked) -> Iterator[tuple[str, Image.Image]]:
    """One grey picture per expression and frame."""
    for item in items:
        found = work(item)
        if found is None:
            continue
        masks, size = found
        for name, mask in masks.items():
            pixels = (
                np.zeros(size, dtype=np.uint8) if mask is None else mask.decode() * np.uint8(layout.value)
            )
            yield str(PurePosixPath(layout.top, home_of(item), f"{name}.png")), Image.fromarray(pixels)


def label_maps(items: Sequence[Item], work: Checked) -> Iterator[tuple[str, Image.Image]]:
    """Ref-DAVIS17: one palette picture per text source, video and frame; the lower object wins a pixel."""
    runs: dict[tuple[str, int], list[Item]] = {}
    for item in items:
        runs.setdefault((item.key[0], int(item.key[1]) % SOURCES), []).append(item)
    for (video, source), run in sorted(runs.items()):
        found = {int(item.key[1]) // SOURCES: work(item) for item in run}
        good = {number: one for number, one in found.items() if one is not None}
        if not good:
            continue
        size = next(iter(good.values()))[1]
        objects = {number: Prediction(masks) for number, (masks, _) in good.items()}
        for name, labels in zip(run[0].frames, compete(dict(objects), run[0].frames, size), strict=True):
            yield f"anno_{source}/{video}/{name}.png", palette(labels)


def palette(labels: np.ndarray) -> Image.Image:
    """A label map as palette picture."""
    image = Image.fromarray(labels).convert("L")
    image.putpalette([0, 0, 0, *(channel for _ in range(3) for colour in PALETTE for channel in colour)])
    return image


def png(image: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def safe(name: str) -> str:
    """The name, which leads nowhere else when it is unpacked; raises `DatasetError`."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        raise DatasetError(
            f"{name}: a video or frame of this name cannot be packed; rename it in the annotations"
        )
    return str(path)


def complaint(problems: Sequence[str], count: int) -> str:
    """What is wrong with how many expressions, the first of them named."""
    more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return (
        f"{len(problems)} of {count} expressions cannot be submitted: {'; '.join(problems[:SHOWN])}{more}. "
        "Complete the predictions, or --fill what is missing with empty masks"
    )
