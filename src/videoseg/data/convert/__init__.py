"""Data converters: exports of other tools to the JSONL schema of `videoseg.data.own`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from videoseg.data.convert.common import Options
from videoseg.data.own import write_rows
from videoseg.errors import DatasetError, UsageError

FORMATS = {
    "coco": "coco:coco_rows",
    "yt-vis": "yt_vis:yt_vis_rows",
    "yt-vos": "yt_vos:yt_vos_rows",
    "davis": "davis:davis_rows",
    "cvat": "cvat:cvat_rows",
    "label-studio": "label_studio:label_studio_rows",
}


def convert(form: str, source: Path | str, target: Path | str, options: Options | None = None) -> int:
    """Convert an export to a JSONL file; returns how many lines were written.

    Paths in the file are relative to its folder. Raises `UsageError` for an unknown format, `DatasetError`
    for an export that cannot be read or holds nothing, `OutputError` where `target` cannot be written.
    """
    if form not in FORMATS:
        raise UsageError(f"unknown format {form!r}; there are {', '.join(FORMATS)}")
    module, _, name = FORMATS[form].partition(":")
    rows: Callable[[Path, Path, Options], Iterator[dict[str, Any]]]
    rows = getattr(import_module(f"videoseg.data.convert.{module}"), name)
    path, home = Path(source), Path(target).parent
    if not path.exists():
        raise DatasetError(f"{path}: no such file or folder; give the export of {form}")
    return write_rows(_some(rows(path, home, options or Options()), path), target)


def _some(rows: Iterator[dict[str, Any]], source: Path) -> Iterator[dict[str, Any]]:
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise DatasetError(
            f"{source}: it holds no mask that could be converted; check that it is the right export"
        )
