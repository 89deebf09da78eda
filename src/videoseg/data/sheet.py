"""Data: pictures of samples: a contact sheet with the masks drawn in, and thumbnails for the page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from videoseg.data.check import spread
from videoseg.data.readers.base import Reader
from videoseg.data.sample import ChatSample, GcgSample, GroundingSample, RefImageSample, Sample
from videoseg.errors import DatasetError, OutputError, VideoError
from videoseg.masks import Rle
from videoseg.video.cache import Frame
from videoseg.video.sources import read_image
from videoseg.video.writer import overlay

WIDTH, GAP, MARGIN = 300, 16, 20
CAPTION_LINES, LINE = 3, 17
DIM, TINT = 0.45, 0.12
PAPER, INK = (250, 250, 249), (29, 33, 38)


@dataclass(frozen=True, eq=False, slots=True)
class Picture:
    """A frame of a sample, masks drawn in, with what was asked."""

    image: Frame
    caption: str
    detail: str


def pictures(reader: Reader[Any], count: int = 12) -> list[Picture]:
    """Pictures of evenly spread samples; samples that cannot be read are left out (the check names them)."""
    shown = []
    for index in spread(len(reader), count):
        try:
            shown.append(picture(reader[index]))
        except (DatasetError, VideoError):
            continue
    return shown


def picture(sample: Sample) -> Picture:
    """One sample: the frame on which most of its target shows, among a few."""
    if isinstance(sample, RefImageSample):
        masks = [sample.mask(target) for target in sample.targets[:6]]
        return drawn(
            read_image(sample.image), masks, " · ".join(t.texts[0] for t in sample.targets[:6]), "image"
        )
    if isinstance(sample, GcgSample):
        return drawn(
            read_image(sample.image), sample.masks(), sample.caption, f"{len(sample.phrases)} phrases"
        )
    count = len(sample.frames)
    if isinstance(sample, GroundingSample):
        frame = _middle(sample)
        return drawn(sample.frames.read([frame])[0], [], sample.events[0].query, f"frame {frame} of {count}")
    if isinstance(sample, ChatSample):
        turn = sample.turns[0]
        return drawn(
            sample.frames.read([count // 2])[0], [], f"{turn.question} — {turn.answer}", f"{count} frames"
        )
    return _best(sample)


def _middle(sample: GroundingSample) -> int:
    start, end = sample.events[0].spans[0]
    return min(len(sample.frames) - 1, int((start + end) / 2 / sample.duration * len(sample.frames)))


def _best(sample: Any) -> Picture:
    known = getattr(sample, "annotated", None) or range(len(sample.frames))
    frames = [known[i] for i in spread(len(known), 7)]
    masks = [] if sample.targets is None else sample.masks(frames)
    areas = [mask.area for mask in masks] or [0]
    best = int(np.argmax(areas)) if any(areas) else len(frames) // 2
    objects = (
        "no masks"
        if sample.targets is None
        else f"{len(sample.targets)} object{'s' * (len(sample.targets) != 1)}"
    )
    detail = f"frame {frames[best]} of {len(sample.frames)}, {objects}"
    return drawn(sample.frames.read([frames[best]])[0], masks[best : best + 1], sample.query, detail)


def drawn(frame: Frame, masks: list[Rle], caption: str, detail: str) -> Picture:
    """The frame at thumbnail width; what is not meant is dimmed, contours are drawn at twice the size."""
    height = max(1, round(frame.shape[0] * WIDTH / frame.shape[1]))
    large = np.asarray(Image.fromarray(frame).resize((2 * WIDTH, 2 * height), Image.Resampling.BICUBIC))
    shown = [mask for mask in masks if mask.area]
    if shown:
        size = (2 * WIDTH, 2 * height)
        dense = np.stack([np.asarray(Image.fromarray(mask.decode()).resize(size)) for mask in shown])
        meant = np.asarray(dense.any(axis=0))[..., None]
        dimmed = np.where(meant, large, (large * DIM).astype(np.uint8))
        large = overlay(dimmed, dense, alpha=TINT)
    small = Image.fromarray(large).resize((WIDTH, height), Image.Resampling.BOX)
    return Picture(np.asarray(small), caption, detail)


def contact_sheet(items: list[Picture], path: Path | str, *, columns: int = 4) -> Path:
    """Write a PNG with all pictures and their captions; raises `OutputError`."""
    target = Path(path)
    if not items:
        raise OutputError(f"{target}: there is no sample that could be drawn")
    rows = [items[start : start + columns] for start in range(0, len(items), columns)]
    heights = [max(item.image.shape[0] + _text_height(item) for item in row) for row in rows]
    width = 2 * MARGIN + min(columns, len(items)) * (WIDTH + GAP) - GAP
    sheet = Image.new("RGB", (width, 2 * MARGIN + sum(heights) + GAP * (len(rows) - 1)), PAPER)
    top = MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, item in enumerate(row):
            _place(sheet, item, MARGIN + column * (WIDTH + GAP), top)
        top += height + GAP
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(target)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error}); check the folder") from error
    return target


def _text_height(item: Picture) -> int:
    return (len(wrapped(item.caption, ImageFont.load_default(13))) + 1) * LINE + 8


def _place(sheet: Image.Image, item: Picture, left: int, top: int) -> None:
    sheet.paste(Image.fromarray(item.image), (left, top))
    draw = ImageDraw.Draw(sheet)
    font, small = ImageFont.load_default(13), ImageFont.load_default(11)
    below = top + item.image.shape[0] + 6
    lines = wrapped(item.caption, font)
    for number, line in enumerate(lines):
        draw.text((left, below + number * LINE), line, fill=INK, font=font)
    draw.text((left, below + len(lines) * LINE), item.detail, fill=(98, 107, 118), font=small)


def wrapped(text: str, font: Any, width: int = WIDTH, lines: int = CAPTION_LINES) -> list[str]:
    """At most `lines` lines that fit `width`; the last ends in … where text is left."""
    rows, current = [], ""
    words = text.split()
    for number, word in enumerate(words):
        longer = f"{current} {word}".strip()
        if current and font.getlength(longer) > width:
            rows.append(current)
            current = word
            if len(rows) == lines - 1 and font.getlength(" ".join(words[number:])) > width:
                return [*rows, _cut(" ".join(words[number:]), font, width)]
        else:
            current = longer
    return [*rows, _cut(current, font, width)][:lines]


def _cut(text: str, font: Any, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
