"""Data converter: YouTube-VOS folders: `JPEGImages`, palette PNGs in `Annotations`, `meta.json`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from videoseg.data.convert.common import Options, need, relative
from videoseg.data.lazy import read_json
from videoseg.errors import DatasetError
from videoseg.video.sources import images_in


def yt_vos_rows(source: Path, home: Path, options: Options) -> Iterator[dict[str, Any]]:
    """One row per video and category; with an expression file (`options.texts`), one per expression.

    PNG files are not copied: rows name the folder and the pixel value.
    """
    meta = read_json(source / "meta.json", "the objects of all videos")
    videos = need(meta, "videos", f"{source / 'meta.json'}")
    texts = _expressions(options)
    for video, entry in videos.items():
        where = f"{source / 'meta.json'}: video {video}"
        yield from palette_rows(
            source / "JPEGImages" / video,
            source / "Annotations" / video,
            _queries(video, need(entry, "objects", where), texts, options, where),
            home,
        )


def _expressions(options: Options) -> dict[str, Any]:
    videos: dict[str, Any] = {}
    for path in options.texts:
        videos |= need(read_json(path, "expressions"), "videos", str(path))
    return videos


def _queries(
    video: str, objects: Any, texts: dict[str, Any], options: Options, where: str
) -> list[tuple[str, list[str]]]:
    """Queries of a video with the pixel values they mean."""
    if options.texts:
        expressions = texts.get(video, {}).get("expressions", {})
        return [(str(need(e, "exp", where)), [str(need(e, "obj_id", where))]) for e in expressions.values()]
    grouped: dict[str, list[str]] = {}
    for name, entry in objects.items():
        label = str(need(entry, "category", f"{where}, object {name}"))
        grouped.setdefault(options.text(label=label, id=name, video=video), []).append(name)
    return list(grouped.items())


def palette_rows(
    frames: Path, labels: Path, queries: list[tuple[str, list[str]]], home: Path
) -> Iterator[dict[str, Any]]:
    """Rows of one video whose masks are label pictures; frames without a picture are not annotated.

    Raises `DatasetError` where a folder is missing or a pixel value is none.
    """
    for folder in (frames, labels):
        if not folder.is_dir():
            raise DatasetError(
                f"{folder}: no such folder; frames and label pictures of a video go by its name"
            )
    stems = [path.stem for path in images_in(frames)]
    there = {path.stem for path in labels.glob("*.png")}
    annotated = [index for index, stem in enumerate(stems) if stem in there]
    if not annotated:
        raise DatasetError(f"{labels}: no label picture has the name of a frame in {frames}")
    for text, values in queries:
        if not all(value.isdecimal() and 1 <= int(value) <= 255 for value in values):
            raise DatasetError(f"{labels}: object {values} of {text!r} is no pixel value (1 to 255)")
        objects = [{"id": value, "png": relative(labels, home), "value": int(value)} for value in values]
        row: dict[str, Any] = {"video": relative(frames, home), "query": text, "objects": objects}
        yield row if len(annotated) == len(stems) else {**row, "annotated": annotated}
