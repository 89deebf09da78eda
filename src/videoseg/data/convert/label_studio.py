"""Data converter: Label Studio JSON exports of image tasks: brush and polygon labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

import numpy as np

from videoseg.data.convert.common import Options, box_mask, need, need_media, refuse_box, relative
from videoseg.data.lazy import LazyList
from videoseg.data.tracks import polygons_rle, short
from videoseg.errors import DatasetError
from videoseg.masks import Rle, union

CHANNELS = 4
UPLOAD_PREFIX = 9
"""Uploads are stored as eight hexadecimal digits, a dash and the name."""


def label_studio_rows(source: Path, home: Path, options: Options) -> Iterator[dict[str, Any]]:
    """One row per image and query; of several annotations the ground truth counts, else the first.

    The query of a region is the text area attached to it, else its label. Regions with one label are the
    objects of one query. `options.media` is the folder of the images. Boxes of videos are refused.
    """
    root = need_media(options, "the folder of the images")
    tasks = LazyList(source)
    for number in range(len(tasks)):
        task = tasks[number]
        where = f"{source}: task {task.get('id', number) if isinstance(task, dict) else number}"
        results = _results(task, where)
        file: Path | None = None
        rows: dict[str, dict[str, list[Rle]]] = {}
        for place, region in enumerate(results):
            mask = _mask(region, f"{where}, region {place}", options)
            if mask is None:
                continue
            file = file or _file(need(task, "data", where), root, where)
            text = _query(region, results, file.stem, options)
            rows.setdefault(text, {}).setdefault(str(region.get("id", place)), []).append(mask)
        for text, objects in rows.items():
            listed = [{"id": name, "rle": {"0": union(masks).to_coco()}} for name, masks in objects.items()]
            yield {"image": relative(file or root, home), "query": text, "objects": listed}


def _results(task: Any, where: str) -> list[dict[str, Any]]:
    annotations = need(task, "annotations", where)
    done = [one for one in annotations if not one.get("was_cancelled")]
    chosen = next((one for one in done if one.get("ground_truth")), done[0] if done else {"result": []})
    results: list[dict[str, Any]] = need(chosen, "result", f"{where}, annotations")
    return results


def _file(data: Any, root: Path, where: str) -> Path:
    """The image of a task: its address names a file that is looked for under `root`."""
    address = next((value for value in data.values() if isinstance(value, str) and "." in value), "")
    parts = urlparse(address)
    stated = PurePosixPath(unquote(parse_qs(parts.query).get("d", [parts.path])[0]).lstrip("/"))
    names = [str(stated), stated.name, stated.name[UPLOAD_PREFIX:]]
    for name in names:
        if name and (root / name).is_file():
            return root / name
    raise DatasetError(
        f"{where}: {short(address)} is not under {root}; looked for {', '.join(filter(None, names))}"
    )


def _query(region: dict[str, Any], results: list[dict[str, Any]], stem: str, options: Options) -> str:
    for other in results:
        if other.get("type") == "textarea" and other.get("id") == region.get("id"):
            text = " ".join(other.get("value", {}).get("text", [])).strip()
            if text:
                return text
    value = region["value"]
    label = next((str(value[key][0]) for key in value if key.endswith("labels") and value[key]), "object")
    return options.text(label=label, id=str(region.get("id", "")), video=stem)


def _mask(region: dict[str, Any], where: str, options: Options) -> Rle | None:
    """The pixels of a region; None for what is no region of an image, or a box that is to be left out."""
    kind = region.get("type", "")
    if kind in ("videorectangle", "rectanglelabels", "ellipselabels"):
        if options.boxes == "skip":
            return None
        if options.boxes == "error" or kind != "rectanglelabels":
            raise refuse_box(where)
    elif kind not in ("brushlabels", "polygonlabels", "brush", "polygon"):
        return None
    width, height = (int(need(region, f"original_{side}", where)) for side in ("width", "height"))
    value = need(region, "value", where)
    try:
        if kind.startswith("brush"):
            return brush(need(value, "rle", where), height, width)
        if kind.startswith("polygon"):
            points = [
                c * s / 100 for x, y in need(value, "points", where) for c, s in ((x, width), (y, height))
            ]
            return polygons_rle([points], height, width)
        left, top = value["x"] * width / 100, value["y"] * height / 100
        right, bottom = left + value["width"] * width / 100, top + value["height"] * height / 100
        return box_mask((left, top, right, bottom), height, width)
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{where}: {error}") from error


class _Bits:
    """Numbers of a few bits each, most significant first."""

    def __init__(self, data: bytes) -> None:
        self._text = "".join(f"{byte:08b}" for byte in data)
        self._place = 0

    def take(self, count: int) -> int:
        """The next `count` bits; raises ValueError at the end."""
        piece = self._text[self._place : self._place + count]
        if len(piece) < count:
            raise ValueError("the brush code is cut off")
        self._place += count
        return int(piece, 2)


def brush(code: Any, height: int, width: int) -> Rle:
    """A brush region: a packed picture of four channels, of which the last (opacity) is the mask.

    The packing: 32 bits for the number of values, 5 for the bits of a value less one, four times 4 for the
    bits of a run length less one; then runs: one bit (one repeated value, or a value each), two bits for
    the kind of the length, the length less one, the values.
    """
    if not isinstance(code, list) or not all(isinstance(v, int) and 0 <= v <= 255 for v in code):
        raise ValueError("rle is no list of bytes")
    bits = _Bits(bytes(code))
    count = bits.take(32)
    if count != height * width * CHANNELS:
        raise ValueError(
            f"the brush code holds {count} values, a picture of {width}x{height} has {height * width * 4}"
        )
    word = bits.take(5) + 1
    lengths = [bits.take(4) + 1 for _ in range(4)]
    flat = np.zeros(count, dtype=np.uint32)
    place = 0
    while place < count:
        repeated = bits.take(1)
        end = place + 1 + bits.take(lengths[bits.take(2)])
        if end > count:
            raise ValueError("the brush code holds more pixels than the picture")
        flat[place:end] = bits.take(word) if repeated else [bits.take(word) for _ in range(end - place)]
        place = end
    return Rle.encode(flat.reshape(height, width, CHANNELS)[..., 3] > 0)
