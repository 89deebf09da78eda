"""Data reader: RefCOCO, RefCOCO+ and RefCOCOg, phrases for objects of COCO images (benchmarks §4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videoseg.data.lazy import LazyDict, Span, find_path, members, read_pickle, read_span
from videoseg.data.readers.base import Reader, field, text_field
from videoseg.data.sample import ImageTarget, Origin, RefImageSample
from videoseg.data.tracks import coco_mask
from videoseg.errors import DatasetError
from videoseg.masks import Rle

IMAGES = ("coco2014/train2014", "train2014", "images/train2014", "../coco2014/train2014")


@dataclass(frozen=True, slots=True)
class CocoTrack:
    """The mask of a COCO annotation: polygons (their union) or a code."""

    path: Path
    span: Span
    height: int
    width: int

    def read(self, frames: Sequence[int]) -> list[Rle | None]:
        """The mask once per frame asked for."""
        annotation = read_span(self.path, self.span)
        mask = coco_mask(annotation.get("segmentation"), self.height, self.width)
        return [mask] * len(frames)


class RefCocoReader(Reader[RefImageSample]):
    """`refcoco{,+,g}/{instances.json, refs(unc).p | refs(umd).p, coco2014/train2014/*.jpg}`.

    `folder` is the one of the dataset. A sample is an image with all its referred objects, each with all
    its sentences; training draws five. Images and annotations of other splits are left out.
    """

    dataset = "refcoco"
    refs_file = "refs(unc).p"

    def __init__(self, folder: Path | str, split: str = "train") -> None:
        super().__init__(folder, split)
        self.refs_path = self.folder / self.refs_file
        refs = read_pickle(self.refs_path, "the phrases")
        if not isinstance(refs, list):
            raise DatasetError(
                f"{self.refs_path}: a list of phrases is expected, not a {type(refs).__name__}"
            )
        self._refs = [ref for ref in refs if isinstance(ref, dict) and ref.get("split") == split]
        if not self._refs:
            splits = sorted({str(ref.get("split")) for ref in refs if isinstance(ref, dict)})
            raise DatasetError(
                f"{self.refs_path}: no phrase of split {split!r}; there are {', '.join(splits)}"
            )
        self.instances = self.folder / "instances.json"
        self._annotations, self._images = self._index()
        self.image_root = find_path("the COCO 2014 images", *(self.folder / name for name in IMAGES))
        self._by_image: dict[int, list[dict[str, Any]]] = {}
        for ref in self._refs:
            self._by_image.setdefault(ref.get("image_id", -1), []).append(ref)
        self._order = list(self._by_image)

    def _index(self) -> tuple[dict[int, Span], dict[int, dict[str, Any]]]:
        """Where the annotations are that the phrases name, and the images' entries."""
        parts = LazyDict(find_path("the COCO annotations", self.instances)).spans
        if not {"images", "annotations"} <= set(parts):
            raise DatasetError(f"{self.instances}: images or annotations is missing; it is no COCO file")
        wanted = {ref.get("ann_id") for ref in self._refs}
        pictures = {ref.get("image_id") for ref in self._refs}
        annotations = {}
        for _, span in members(self.instances, parts["annotations"]):
            number = read_span(self.instances, span).get("id")
            if number in wanted:
                annotations[number] = span
        images = {
            image["id"]: image
            for image in read_span(self.instances, parts["images"])
            if image["id"] in pictures
        }
        return annotations, images

    def __len__(self) -> int:
        return len(self._order)

    def sample(self, index: int) -> RefImageSample:
        """Image number `index`."""
        number = self._order[index]
        origin = self.origin(self.refs_path, f"image {number}")
        if number not in self._images:
            raise origin.error("image_id", f"{number} is not among the images of {self.instances}")
        image = self._images[number]
        targets = tuple(self._target(ref, image, origin) for ref in self._by_image[number])
        return RefImageSample(origin, self.image_root / text_field(image, "file_name", origin), targets)

    def _target(self, ref: dict[str, Any], image: dict[str, Any], origin: Origin) -> ImageTarget:
        at = f"ref {ref.get('ref_id')}"
        number = field(ref, "ann_id", int, origin, at)
        if number not in self._annotations:
            raise origin.error(f"{at}.ann_id", f"{number} is not among the annotations of {self.instances}")
        texts = tuple(
            text_field(sentence, "sent", origin, f"{at}.sentences")
            for sentence in field(ref, "sentences", list, origin, at)
        )
        if not texts:
            raise origin.error(f"{at}.sentences", "the list is empty")
        size = (field(image, "height", int, origin, "image"), field(image, "width", int, origin, "image"))
        return ImageTarget(str(number), texts, CocoTrack(self.instances, self._annotations[number], *size))

    def counts(self) -> dict[str, int]:
        """Images, referred objects and sentences."""
        sentences = sum(len(ref.get("sentences", ())) for ref in self._refs)
        return {"images": len(self._order), "objects": len(self._refs), "expressions": sentences}


class RefCocoPlusReader(RefCocoReader):
    """RefCOCO+."""

    dataset = "refcoco+"


class RefCocogReader(RefCocoReader):
    """RefCOCOg, in the partition of UMD."""

    dataset = "refcocog"
    refs_file = "refs(umd).p"
