"""Data converter: COCO instance annotations of images (polygons, codes, crowds)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from videoseg.data.convert.common import Options, mask_of, need, relative
from videoseg.data.lazy import LazyDict, Span, find_path, members, read_span
from videoseg.errors import DatasetError

TEXT_FIELDS = ("query", "expression", "caption")


def coco_rows(source: Path, home: Path, options: Options) -> Iterator[dict[str, Any]]:
    """One row per image and query: the objects of a category together, objects with a text by text.

    `options.media` is the folder of the images (else the folder of the file, or `images` in it).
    """
    spans = LazyDict(source).spans
    for name in ("images", "annotations", "categories"):
        if name not in spans:
            raise DatasetError(f"{source}: {name} is missing; it is no COCO instance file")
    labels = {
        need(category, "id", f"{source}: categories"): str(need(category, "name", f"{source}: categories"))
        for category in read_span(source, spans["categories"])
    }
    by_image: dict[Any, list[Span]] = {}
    for number, span in members(source, spans["annotations"]):
        entry = read_span(source, span)
        by_image.setdefault(need(entry, "image_id", f"{source}: annotations[{number}]"), []).append(span)
    root = options.media or find_path("the images", source.parent / "images", source.parent)
    for image in read_span(source, spans["images"]):
        annotations = [read_span(source, span) for span in by_image.get(need(image, "id", str(source)), [])]
        yield from _image_rows(source, image, annotations, labels, root, home, options)


def _image_rows(
    source: Path,
    image: Any,
    annotations: list[Any],
    labels: dict[Any, str],
    root: Path,
    home: Path,
    options: Options,
) -> Iterator[dict[str, Any]]:
    where = f"{source}: image {image['id']}"
    file = root / str(need(image, "file_name", where))
    if not file.is_file():
        raise DatasetError(f"{where}: {file} is missing; give the folder of the images with --media")
    size = int(need(image, "height", where)), int(need(image, "width", where))
    rows: dict[str, list[dict[str, Any]]] = {}
    for annotation in annotations:
        at = f"{source}: annotation {annotation.get('id')}"
        category = need(annotation, "category_id", at)
        if category not in labels:
            raise DatasetError(f"{at}: category {category} is not among the categories")
        own = next((annotation[name] for name in TEXT_FIELDS if annotation.get(name)), None)
        name = str(annotation.get("id", len(rows)))
        text = own or options.text(label=labels[category], id=name, video=Path(file).stem)
        code = mask_of(need(annotation, "segmentation", at), *size, at)
        rows.setdefault(str(text), []).append({"id": name, "rle": {"0": code}})
    for text, objects in rows.items():
        yield {"image": relative(file, home), "query": text, "objects": objects}
