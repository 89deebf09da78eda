"""Formats: the folder of one result, `masks.json`, PNG masks, `overlay.mp4` and the trace.

The folder is written under a hidden name beside its destination and renamed when complete.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from videoseg.errors import InputError, OutputError
from videoseg.export.trace_html import write_trace_html
from videoseg.masks import Masklet, Masklets, Rle
from videoseg.trace_json import query_from_json, trace_from_json, trace_to_json, video_from_json
from videoseg.types import Result
from videoseg.video.reader import Video
from videoseg.video.writer import require_match, write_overlay

FORMAT = "videoseg-result"
VERSION = 1
OWN_NAMES = frozenset({"masks.json", "masks", "overlay.mp4", "trace.json", "trace.html"})


def save(
    result: Result,
    folder: Path | str,
    *,
    video: Video | Path | str | None = None,
    overwrite: bool = False,
    png: bool = True,
    overlay: bool = True,
) -> Path:
    """Write `result` to `folder`; returns its path.

    `masks.json` holds per object and frame the COCO run-length code, presence and score, with the
    query, the video and the provenance; `masks/<object>/<frame>.png` are 0 and 255 (`png`);
    `overlay.mp4` and the pictures of `trace.html` need `video`. With `overwrite` the files of an
    earlier result are replaced and files of other names are kept. Raises `OutputError` where the
    folder holds something already or cannot be written, `UsageError` where `video` is another one.
    """
    target = Path(folder)
    _require_free(target, overwrite)
    with _opened(video) as frames, _folder_in_place(target) as partial:
        if frames is not None:
            require_match(frames, result.masklets)
        _write_masks(result, partial / "masks.json")
        _write_trace(result, partial / "trace.json")
        if png:
            _write_pngs(result.masklets, partial / "masks")
        if overlay and frames is not None:
            write_overlay(partial / "overlay.mp4", frames, result.masklets)
        write_trace_html(result, partial / "trace.html", video=frames)
    return target


def load(folder: Path | str) -> Result:
    """Read a result back from `masks.json` and `trace.json`.

    Raises `InputError` that names the file where one is missing, damaged or of another format.
    """
    masks_path, trace_path = Path(folder) / "masks.json", Path(folder) / "trace.json"
    masks, trace = _read(masks_path), _read(trace_path)
    with _naming(masks_path):
        query, video = query_from_json(masks["query"]), video_from_json(masks["video"])
        objects = tuple(_masklet_from_json(entry) for entry in masks["objects"])
        masklets = Masklets(video.num_frames, video.height, video.width, objects)
        provenance = dict(masks["provenance"])
    with _naming(trace_path):
        return Result(query, video, masklets, trace_from_json(trace["trace"]), provenance)


def _head(result: Result) -> dict[str, Any]:
    video = result.video
    return {
        "format": FORMAT,
        "version": VERSION,
        "query": {"id": result.query.id, "text": result.query.text},
        "video": {name: getattr(video, name) for name in ("source", "num_frames", "height", "width", "fps")},
        "provenance": result.provenance,
    }


def _json(value: Any, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain, **options)


def _plain(value: Any) -> Any:
    """JSON form of numpy numbers and arrays; paths and versions become text."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else str(value)


def _write_masks(result: Result, path: Path) -> None:
    """One line per frame and object, written as it is made."""
    with path.open("w", encoding="utf-8") as file:
        file.write(_json(_head(result))[:-1] + ', "objects": [')
        for position, masklet in enumerate(result.masklets):
            file.write("," if position else "")
            file.write(f'\n{{"id": {masklet.object_id}, "frames": [')
            for index, line in enumerate(_frame_lines(masklet)):
                file.write((",\n" if index else "\n") + line)
            file.write("\n]}")
        file.write("\n]}\n")


def _frame_lines(masklet: Masklet) -> Iterator[str]:
    for rle, presence, score in zip(masklet.rles, masklet.presence, masklet.scores, strict=True):
        yield _json({"presence": presence, "score": score, "rle": rle.to_coco()}, separators=(",", ":"))


def _masklet_from_json(entry: dict[str, Any]) -> Masklet:
    frames = entry["frames"]
    return Masklet(
        int(entry["id"]),
        tuple(Rle.from_coco(frame["rle"]) for frame in frames),
        tuple(float(frame["presence"]) for frame in frames),
        tuple(float(frame["score"]) for frame in frames),
    )


def _write_trace(result: Result, path: Path) -> None:
    document = _head(result) | {"trace": trace_to_json(result.trace)}
    path.write_text(_json(document, indent=2) + "\n", encoding="utf-8")


def _write_pngs(masklets: Masklets, folder: Path) -> None:
    digits = max(5, len(str(masklets.num_frames - 1)))
    for masklet in masklets:
        place = folder / str(masklet.object_id)
        place.mkdir(parents=True)
        for index, rle in enumerate(masklet.rles):
            picture = Image.fromarray(rle.decode().astype(np.uint8) * 255)
            picture.save(place / f"{index:0{digits}d}.png", compress_level=3)


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; name the folder that `videoseg segment` wrote") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({error}); write the result again") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InputError(
            f"{path}: the field 'format' is not '{FORMAT}'; this file was not written by videoseg"
        )
    if document.get("version") != VERSION:
        raise InputError(
            f"{path}: version {document.get('version')!r}, this videoseg reads {VERSION}; use a matching one"
        )
    return document


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn a missing or ill-typed field into an error that names the file and the field."""
    try:
        yield
    except KeyError as error:
        raise InputError(
            f"{path}: the field {error} is missing or unknown; write the result again"
        ) from error
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {error}; write the result again") from error


def _opened(video: Video | Path | str | None) -> Any:
    """A context of the open video; one that the caller opened stays open."""
    return nullcontext(video) if video is None or isinstance(video, Video) else Video(video)


def _require_free(target: Path, overwrite: bool) -> None:
    if target.exists() and not target.is_dir():
        raise OutputError(f"{target}: this is a file; name a folder for the result")
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise OutputError(f"{target}: the folder is not empty; name another one or allow overwriting")


@contextmanager
def _folder_in_place(target: Path) -> Iterator[Path]:
    """A new folder that becomes `target` when the block ends well and vanishes otherwise."""
    final = target.absolute()
    partial = final.with_name(f".{final.name}.partial-{uuid.uuid4().hex[:8]}")
    try:
        partial.mkdir(parents=True)
        yield partial
        _move(partial, final)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error}); check rights and free space") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _move(partial: Path, final: Path) -> None:
    if not final.exists():
        partial.rename(final)
        return
    old = final.with_name(f".{final.name}.old-{uuid.uuid4().hex[:8]}")
    final.rename(old)
    try:
        for entry in old.iterdir():
            if entry.name not in OWN_NAMES:
                os.rename(entry, partial / entry.name)
        partial.rename(final)
    except OSError:
        old.rename(final)
        raise
    shutil.rmtree(old, ignore_errors=True)
