"""Evaluation: masks that any system predicted, read from the layouts that people have (benchmarks §2, §3).

Folders of PNGs as the benchmarks' own scripts take them (and zips of them), label maps of Ref-DAVIS17,
VideoSEG-O3's `results.json`, and the files of `videoseg eval`. Masks are read in the scoring worker.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from videoseg.data.lazy import Span, members, read_span
from videoseg.data.tracks import read_labels
from videoseg.errors import InputError
from videoseg.evaluation.labelmap import MOST, SOURCES
from videoseg.evaluation.result_json import entry_prediction
from videoseg.evaluation.scoring import Prediction, Predictions
from videoseg.evaluation.truth import Item
from videoseg.masks import Rle

Key = tuple[str, ...]
TOP = "Annotations"
NOT_PREDICTIONS = frozenset({"run.json", "report.json", "round_stats.json", "compare.json"})


@dataclass(frozen=True, slots=True)
class Opened:
    """Predictions, what they were read as, and keys among them that the benchmark does not ask for."""

    predictions: Predictions
    layout: str
    unexpected: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PngPredictions:
    """`<root>/<home of the item>/<frame>.png`; any pixel that is not 0 is the object."""

    root: Path

    def __call__(self, item: Item) -> Prediction | None:
        """Raises ValueError where a picture is damaged or a label map, or none is named as a frame."""
        folder = self.root / home_of(item)
        there = {path.stem: path for path in folder.glob("*.png")} if folder.is_dir() else {}
        if not there:
            return None
        known = [name for name in item.stems if name in there]
        if not known:
            raise ValueError(
                f"{folder}: {len(there)} PNG files ({min(there)}.png, …), but none is named as a frame of "
                f"the video ({item.frames[0]}.png, …)"
            )
        return Prediction({name: binary_mask(there[name]) for name in item.frames if name in there})


@dataclass(frozen=True, slots=True)
class LabelmapPredictions:
    """Ref-DAVIS17: `<root>/anno_<source>/<video>/<frame>.png`, pixel value = object counted from 1 (§3.3)."""

    root: Path

    def __call__(self, item: Item) -> Prediction | None:
        """Raises ValueError where a picture is damaged or no label map of at most 20 objects."""
        thing, source = divmod(int(item.key[1]), SOURCES)
        folder = self.root / f"anno_{source}" / item.key[0]
        paths = {name: folder / f"{name}.png" for name in item.frames}
        there = {name: path for name, path in paths.items() if path.is_file()}
        return (
            Prediction({name: label_mask(path, thing + 1) for name, path in there.items()}) if there else None
        )


def home_of(item: Item) -> str:
    """Folder of an item's pictures below the root."""
    return item.home or item.name


def binary_mask(path: Path) -> Rle | None:
    """Pixels of a picture that are not 0, None if there is none; raises ValueError for a label map."""
    labels = read_labels(path, colours=True)
    # Counting is many times faster than sorting, which np.unique would do.
    numbers = np.flatnonzero(np.bincount(labels.ravel())[1:]) + 1
    if not len(numbers):
        return Rle.empty(*labels.shape)
    if len(numbers) > 1 and numbers[-1] <= MOST:
        raise ValueError(
            f"{path} holds the values {', '.join(map(str, numbers))}: a label map of several objects, where "
            "one mask per expression is needed; write 0 and 255"
        )
    return Rle.encode(labels != 0)


def label_mask(path: Path, value: int) -> Rle:
    """Pixels of one object of a label map; raises ValueError where it holds more than DAVIS allows."""
    labels = read_labels(path)
    if labels.max(initial=0) > MOST:
        raise ValueError(f"{path} holds the value {labels.max()}; label maps are 0 to {MOST}")
    return Rle.encode(labels == value)


@dataclass(frozen=True, slots=True)
class JsonPredictions:
    """Entries of JSON files, parsed when they are asked for."""

    places: dict[Key, tuple[Path, Span]]

    def __call__(self, item: Item) -> Prediction | None:
        """Raises ValueError naming the file where an entry cannot be understood."""
        if item.key not in self.places:
            return None
        path, span = self.places[item.key]
        try:
            return entry_prediction(read_span(path, span), item)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


@contextmanager
def open_predictions(path: Path | str, items: Sequence[Item]) -> Iterator[Opened]:
    """Find out what `path` holds and index it; a zip is unpacked for as long as the context lasts.

    Raises `InputError` that names the file where nothing fits the benchmark, or more than one thing does.
    """
    source = Path(path)
    if not source.exists():
        raise InputError(f"{source}: no such file or folder of predictions")
    if source.is_dir():
        yield open_folder(source, items)
    elif zipfile.is_zipfile(source):
        with tempfile.TemporaryDirectory(prefix="videoseg-") as folder:
            unpack(source, Path(folder))
            yield open_folder(Path(folder), items, str(source))
    else:
        yield open_json([source], items)


def unpack(source: Path, folder: Path) -> None:
    """Raises `InputError` where the zip is damaged."""
    try:
        with zipfile.ZipFile(source) as packed:
            packed.extractall(folder)
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"{source}: cannot be unpacked ({error}); make or fetch it again") from error


def open_folder(folder: Path, items: Sequence[Item], name: str = "") -> Opened:
    """The one layout that the folder has; `name` is used in messages."""
    shown = name or str(folder)
    found = dict(layouts(folder, items))
    if len(found) > 1:
        raise InputError(
            f"{shown}: holds several sets of predictions ({'; '.join(found)}); name the one that counts"
        )
    if not found:
        first = items[0]
        raise InputError(
            f"{shown}: no predictions of this benchmark: neither PNG folders such as "
            f"{home_of(first)}/{first.frames[0]}.png (also below {TOP}/), nor JSON files of results"
        )
    ((_, make),) = found.items()
    return make()


def layouts(folder: Path, items: Sequence[Item]) -> Iterator[tuple[str, Callable[[], Opened]]]:
    """Description and opener of every set of predictions in the folder."""
    for root in (folder, folder / TOP):
        if any(root.glob("anno_[0-3]")):
            yield f"label maps in {root}", partial(Opened, LabelmapPredictions(root), "label maps")
        elif any((root / home_of(item).split("/")[0]).is_dir() for item in items):
            yield f"PNG folders in {root}", partial(open_pngs, root, items)
    inner = folder / "predictions"
    for home in (folder, inner):
        files = sorted(one for one in home.glob("*.json") if one.name not in NOT_PREDICTIONS)
        if files:
            yield f"JSON files in {home}", partial(open_json, files, items)


def open_pngs(root: Path, items: Sequence[Item]) -> Opened:
    """PNG folders; folders that nobody asked for are listed, the highest ones only."""
    wanted = {home_of(item) for item in items}
    above = {str(place) for home in wanted for place in Path(home).parents}
    there = {
        str(path.relative_to(root)) for place in above for path in (root / place).glob("*") if path.is_dir()
    }
    return Opened(PngPredictions(root), "PNG folders", tuple(sorted(there - wanted - above)))


def open_json(files: Sequence[Path], items: Sequence[Item]) -> Opened:
    """JSON files with results; raises `InputError` where two entries have one key, or none is expected."""
    places: dict[Key, tuple[Path, Span]] = {}
    wanted = {item.key for item in items}
    for path in files:
        for key, span in index(path, items):
            if key in places:
                raise InputError(
                    f"{path}: {'/'.join(key)} is predicted twice (also in {places[key][0]}); keep one"
                )
            places[key] = (path, span)
    if not wanted & set(places):
        some, other = next(iter(places), ("nothing",)), items[0].key
        raise InputError(
            f"{files[0]}: no prediction of this benchmark; keys are like {'/'.join(some)}, but "
            f"{'/'.join(other)} is asked for"
        )
    extra = tuple(sorted("/".join(key) for key in set(places) - wanted))
    return Opened(JsonPredictions(places), "JSON results", extra)


def index(path: Path, items: Sequence[Item]) -> Iterator[tuple[Key, Span]]:
    """Key and place of every entry: objects nested by the parts of the key, or one object by joined keys."""
    videos, joined = {item.key[0] for item in items}, {item.name: item.key for item in items}
    for name, span in members(path):
        if isinstance(name, int):
            raise InputError(f"{path}: a list; results are an object by video and expression")
        if name in joined and name not in videos:
            yield joined[name], span
        else:
            yield from nested(path, span, (name,), len(items[0].key))


def nested(path: Path, span: Span, key: Key, depth: int) -> Iterator[tuple[Key, Span]]:
    """Entries `depth` names deep; raises `InputError` where masks stand higher up."""
    if len(key) == depth:
        yield key, span
        return
    for name, inner in members(path, span):
        if isinstance(name, int) or name in ("prediction_masks", "frames"):
            raise InputError(
                f"{path}: {'/'.join(key)}: masks stand here, but here {depth} names lead to them "
                "(ReasonVOS: video, object and expression, since expression numbers repeat)"
            )
        yield from nested(path, inner, (*key, name), depth)
