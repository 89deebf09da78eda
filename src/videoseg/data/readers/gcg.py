"""Data readers: GCG, image captions with grounded phrases, four sources of GLaMM (benchmarks §4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from videoseg.data.frames import image_size
from videoseg.data.lazy import LazyDict, LazyList, Span, find_path, members, read_span
from videoseg.data.readers.base import Reader, field, text_field
from videoseg.data.sample import GcgSample, Origin, Phrase
from videoseg.data.tracks import coco_mask, merged, rle_of, short
from videoseg.errors import DatasetError, VideoError
from videoseg.masks import Rle

SMALLEST = 32


@dataclass(frozen=True, slots=True)
class PhraseTrack:
    """What a phrase shows: a list of codes (their union) or COCO polygons, in the image's size."""

    image: Path
    codes: Any
    polygons: bool = False

    def read(self, frames: Sequence[int]) -> list[Rle | None]:
        """The mask once per frame asked for; raises ValueError."""
        if self.polygons:
            try:
                height, width = image_size(self.image)
            except VideoError as error:
                raise ValueError(str(error)) from error
            mask: Rle | None = coco_mask(self.codes, height, width)
        else:
            parts = [rle_of(code) for code in (self.codes if isinstance(self.codes, list) else [self.codes])]
            mask = merged(parts, (0, 0)) if parts else None
        return [mask] * len(frames)


class GcgReader(Reader[GcgSample]):
    """`glamm_data/{annotations/*.json, images/…}`: `{file_name, caption, groundings: {phrase: …}}`.

    A grounding is `{token_positives: [start, end], rle_masks: [code]}`, or null where it was not found.
    Overlapping phrases are cut where the next one begins; a phrase without a character left is dropped,
    as is a phrase without any mask.
    """

    dataset = "gcg-grandf"
    file: ClassVar[str] = "GranDf_HA_GCG_{split}.json"
    images: ClassVar[tuple[str, ...]] = ("images/grandf/{split}", "GranDf_HA_images/{split}")

    def __init__(self, folder: Path | str, split: str = "train") -> None:
        super().__init__(folder, split)
        name = self.file.format(split=split)
        homes = (self.folder / "annotations", self.folder / "annotations" / split, self.folder)
        self.meta = find_path("captions with grounded phrases", *(home / name for home in homes))
        places = [self.folder / place.format(split=split) for place in self.images]
        self.image_root = find_path("the images", *places)
        self._items = self.entries()

    def entries(self) -> Sequence[Any]:
        """The annotation file's samples."""
        return LazyList(self.meta)

    def __len__(self) -> int:
        return len(self._items)

    def sample(self, index: int) -> GcgSample:
        """Caption number `index`."""
        origin = self.origin(self.meta, str(index))
        return self.parse(self._items[index], origin)

    def parse(self, item: Any, origin: Origin) -> GcgSample:
        """The sample of one entry."""
        image = self.image_root / text_field(item, "file_name", origin)
        caption = text_field(item, "caption", origin).strip('"').strip()
        phrases = []
        for name, grounding in field(item, "groundings", dict, origin).items():
            if grounding is None:
                continue
            at = f"groundings.{name}"
            start, end = span_of(field(grounding, "token_positives", list, origin, at), caption, origin, at)
            codes = field(grounding, "rle_masks", list, origin, at)
            if codes:
                phrases.append(Phrase(start, end, PhraseTrack(image, codes)))
        return grounded(origin, image, caption, phrases)

    def counts(self) -> dict[str, int]:
        """Captions."""
        return {"images": len(self)}


def span_of(positions: Any, caption: str, origin: Origin, at: str) -> tuple[int, int]:
    """`[start, end]` as characters of the caption, the end excluded."""
    good = len(positions) == 2 and all(isinstance(value, int) for value in positions)
    if not good or not 0 <= positions[0] < positions[1] <= len(caption):
        raise origin.error(
            f"{at}.token_positives",
            f"{short(positions)} is no [start, end] in a caption of {len(caption)} characters",
        )
    return positions[0], positions[1]


def grounded(origin: Origin, image: Path, caption: str, phrases: Sequence[Phrase]) -> GcgSample:
    """The sample with its phrases in order, cut so that none overlaps the next.

    A phrase inside a longer one that begins at the same place is kept whole and the longer one dropped.
    """
    ordered = sorted(phrases, key=lambda phrase: (phrase.start, -phrase.end))
    kept: list[Phrase] = []
    for position, phrase in enumerate(ordered):
        following = ordered[position + 1].start if position + 1 < len(ordered) else len(caption)
        end = min(phrase.end, following)
        while end > phrase.start and caption[end - 1].isspace():
            end -= 1
        if end > phrase.start:
            kept.append(Phrase(phrase.start, end, phrase.track))
    if not kept:
        raise origin.error("groundings", "no phrase of the caption has a place and a mask")
    return GcgSample(origin, image, caption, tuple(kept))


class OpenPsgReader(GcgReader):
    """OpenPSG: COCO 2017 images, `file_name` with its own folder."""

    dataset = "gcg-openpsg"
    file = "OpenPsgGCG_{split}.json"
    images = ("images/coco2017", "images/coco_2017", "coco_2017")


class RefCocogGcgReader(GcgReader):
    """RefCOCOg: `[{id: {img_file_name, caption, refs: [{sentence, segmentation}]}}]`, polygons.

    A sentence is looked for in the caption without regard to case, and its first place counts; a second
    sentence of the same words takes the next place. Sentences that are not in the caption are dropped.
    The release writes the captions in lower case; so do we.
    """

    dataset = "gcg-refcocog"
    file = "RefCOCOg_GCG_{split}.json"
    images = ("images/coco2014/{split}2014", "images/coco_2014/{split}2014", "coco_2014/{split}2014")

    def parse(self, item: Any, origin: Origin) -> GcgSample:
        """The sample of one entry."""
        if not isinstance(item, dict) or len(item) != 1:
            raise origin.error("entry", f"an object with one member, the id, is expected, not {short(item)}")
        ((name, inner),) = item.items()
        origin = self.origin(origin.file, f"{origin.key} (id {name})")
        image = self.image_root / text_field(inner, "img_file_name", origin)
        caption = text_field(inner, "caption", origin).strip('"').strip().lower()
        phrases: list[Phrase] = []
        for number, ref in enumerate(field(inner, "refs", list, origin)):
            at = f"refs[{number}]"
            words = text_field(ref, "sentence", origin, at).lower()
            taken = [phrase.end for phrase in phrases if caption[phrase.start : phrase.end] == words]
            start = caption.find(words, max(taken, default=0))
            if start >= 0:
                shapes = field(ref, "segmentation", (list, dict), origin, at)
                phrases.append(Phrase(start, start + len(words), PhraseTrack(image, shapes, polygons=True)))
        return grounded(origin, image, caption, phrases)


class FlickrReader(GcgReader):
    """Flickr30k: a COCO file whose images have a caption, annotations `tokens_positive` and `sam_mask`.

    Images with a caption of fewer than three words or a side below 32 pixels are left out, as are
    annotations marked `ignore`, boxes outside the image, and boxes below one pixel.
    """

    dataset = "gcg-flickr30k"
    file = "flickr_mergedGT_GCG_{split}.json"
    images = ("images/flickr30k/Flickr30K", "images/flickr30k", "flikcr_30k/{split}", "flickr_30k/{split}")

    def entries(self) -> Sequence[Any]:
        """The images that are kept; annotations stay in the file."""
        parts = LazyDict(self.meta).spans
        if not {"images", "annotations"} <= set(parts):
            raise DatasetError(f"{self.meta}: images or annotations is missing; it is no COCO file")
        self._spans: dict[Any, list[Span]] = {}
        for _, span in members(self.meta, parts["annotations"]):
            self._spans.setdefault(read_span(self.meta, span).get("image_id"), []).append(span)
        images = read_span(self.meta, parts["images"])
        return [image for image in images if self._usable(image)]

    def _usable(self, image: Any) -> bool:
        origin = self.origin(self.meta, f"image {short(image.get('id'))}")
        sides = [int(field(image, name, (int, float), origin)) for name in ("width", "height")]
        return min(sides) >= SMALLEST and len(text_field(image, "caption", origin).split(" ")) >= 3

    def parse(self, item: Any, origin: Origin) -> GcgSample:
        """The sample of one image."""
        origin = self.origin(self.meta, f"image {item['id']}")
        image = self.image_root / text_field(item, "file_name", origin)
        caption = item["caption"]
        phrases = []
        for span in self._spans.get(item["id"], []):
            annotation = read_span(self.meta, span)
            at = f"annotation {annotation.get('id')}"
            if annotation.get("ignore") or not inside(annotation, item, origin, at):
                continue
            places = field(annotation, "tokens_positive", list, origin, at)
            if not places or not isinstance(places[0], list):
                raise origin.error(f"{at}.tokens_positive", f"{short(places)} is no list of [start, end]")
            start, end = span_of(places[0], caption, origin, at)
            mask = field(annotation, "sam_mask", dict, origin, at)
            phrases.append(Phrase(start, end, PhraseTrack(image, mask)))
        return grounded(origin, image, caption, phrases)


def inside(annotation: Any, image: Any, origin: Origin, at: str) -> bool:
    """Whether a box lies at least partly in the image and is at least one pixel wide and high."""
    box = field(annotation, "bbox", list, origin, at)
    if len(box) != 4:
        raise origin.error(f"{at}.bbox", f"{short(box)} is no [x, y, width, height]")
    x, y, width, height = box
    across = min(x + width, image["width"]) - max(x, 0)
    down = min(y + height, image["height"]) - max(y, 0)
    return bool(across > 0 and down > 0 and width >= 1 and height >= 1 and annotation.get("area", 1) > 0)
