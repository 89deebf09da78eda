"""Data converter: DAVIS 2017 folders, with the texts of Ref-DAVIS where they are at hand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from videoseg.data.convert.common import Options
from videoseg.data.convert.yt_vos import palette_rows
from videoseg.data.lazy import find_path
from videoseg.data.tracks import read_labels
from videoseg.errors import DatasetError

LINE = re.compile(r'^(\S+)\s+(\d+)\s+"?(.*?)"?\s*$')
VOID = 255
LABELS = ("Annotations_unsupervised/480p", "Annotations/480p", "Annotations/Full-Resolution", "Annotations")
FRAMES = ("JPEGImages/480p", "JPEGImages/Full-Resolution", "JPEGImages")


def davis_rows(source: Path, home: Path, options: Options) -> Iterator[dict[str, Any]]:
    """One row per text (`options.texts`: lines `sequence object "text"`), else one per object.

    Objects without text are called by `options.query`; their label is `object <id>`. The numbers of the
    published texts belong to `Annotations_unsupervised`, which is used where it is there.
    """
    frames = find_path("the frames", *(source / name for name in FRAMES))
    labels = find_path("the label pictures", *(source / name for name in LABELS))
    texts = _texts(options.texts)
    for folder in sorted(path for path in labels.iterdir() if path.is_dir()):
        queries = texts.get(folder.name, []) if options.texts else _objects(folder, options)
        yield from palette_rows(frames / folder.name, folder, queries, home)


def _texts(paths: tuple[Path, ...]) -> dict[str, list[tuple[str, list[str]]]]:
    queries: dict[str, list[tuple[str, list[str]]]] = {}
    for path in paths:
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError as error:
            raise DatasetError(f"{path}: cannot be read ({error})") from error
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            found = LINE.match(line)
            if found is None:
                raise DatasetError(
                    f'{path}, line {number}: a line is: sequence object "text"; there is {line!r}'
                )
            queries.setdefault(found[1], []).append((found[3], [found[2]]))
    return queries


def _objects(folder: Path, options: Options) -> list[tuple[str, list[str]]]:
    """The objects of a sequence are those of its first label picture, as in the benchmark."""
    first = min(folder.glob("*.png"), default=None)
    if first is None:
        raise DatasetError(f"{folder}: no label picture (*.png)")
    try:
        values = [int(value) for value in np.unique(read_labels(first)) if value not in (0, VOID)]
    except ValueError as error:
        raise DatasetError(str(error)) from error
    if values and max(values) > 64:
        raise DatasetError(
            f"{first}: pixel values up to {max(values)}; a label picture counts objects from 1"
        )
    return [
        (options.text(label=f"object {value}", id=str(value), video=folder.name), [str(value)])
        for value in values
    ]
