"""Data converter: YouTube-VIS (and its likes: OVIS, UVO): one JSON file, codes or polygons per frame."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from videoseg.data.convert.common import Options, mask_of, need, relative
from videoseg.data.lazy import LazyDict, Span, find_path, members, read_span
from videoseg.errors import DatasetError


def yt_vis_rows(source: Path, home: Path, options: Options) -> Iterator[dict[str, Any]]:
    """One row per video and category; `segmentations` has one code, polygon list or null per frame.

    `options.media` is the folder of the frames (else `JPEGImages` beside the file).
    """
    spans = LazyDict(source).spans
    for name in ("videos", "annotations", "categories"):
        if name not in spans:
            raise DatasetError(f"{source}: {name} is missing; it is no YouTube-VIS file")
    labels = {category["id"]: str(category["name"]) for category in read_span(source, spans["categories"])}
    by_video: dict[Any, list[Span]] = {}
    for number, span in members(source, spans["annotations"]):
        video = need(read_span(source, span), "video_id", f"{source}: annotations[{number}]")
        by_video.setdefault(video, []).append(span)
    beside = (source.parent / "JPEGImages", source.parent)
    root = options.media or find_path("the frames", *beside)
    for video in read_span(source, spans["videos"]):
        where = f"{source}: video {need(video, 'id', str(source))}"
        names = [root / str(name) for name in need(video, "file_names", where)]
        missing = [path for path in names if not path.is_file()]
        if missing or not names:
            raise DatasetError(
                f"{where}: {(missing or [root])[0]} is missing; give the folder of frames with --media"
            )
        rows: dict[str, list[dict[str, Any]]] = {}
        for span in by_video.get(video["id"], []):
            text, item = _object(source, read_span(source, span), video, labels, options)
            rows.setdefault(text, []).append(item)
        files = [relative(path, home) for path in names]
        for text, objects in rows.items():
            yield {"id": str(video["id"]), "frames": files, "query": text, "objects": objects}


def _object(
    source: Path, annotation: Any, video: Any, labels: dict[Any, str], options: Options
) -> tuple[str, dict[str, Any]]:
    at = f"{source}: annotation {annotation.get('id')}"
    listed = need(annotation, "segmentations", at)
    count = len(video["file_names"])
    if not isinstance(listed, list) or len(listed) != count:
        raise DatasetError(f"{at}: segmentations has {len(listed or [])} entries for {count} frames")
    category = need(annotation, "category_id", at)
    if category not in labels:
        raise DatasetError(f"{at}: category {category} is not among the categories")
    size = int(need(video, "height", at)), int(need(video, "width", at))
    codes = [
        None if not entry else mask_of(entry, *size, f"{at}, frame {frame}")
        for frame, entry in enumerate(listed)
    ]
    name = str(annotation.get("id", "1"))
    text = annotation.get("caption") or options.text(label=labels[category], id=name, video=str(video["id"]))
    return str(text), {"id": name, "rle": codes}
