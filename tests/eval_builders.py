"""Small evaluation sets in official layouts, and predictions for them.

Masks are `PART` (64 of 768 pixels), nothing or the full frame: J is 1, 0 or 1/12, F is 1 or 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_builders import code, jpegs, palette_png, square, write_json
from videoseg.evaluation.scoring import Prediction
from videoseg.evaluation.truth import Item
from videoseg.masks import Rle

PART, OTHER = square(4, 6, 8), square(20, 6, 8)
FULL, NONE = np.ones_like(PART), np.zeros_like(PART)
STEMS = ["00000", "00001", "00002", "00003"]
Masks = dict[str, np.ndarray | None]


@dataclass(frozen=True)
class Given:
    """Predictions by key; an error is raised in place of a mask that is text."""

    entries: dict[tuple[str, ...], Any] = field(default_factory=dict)
    sampled: tuple[int, ...] = ()
    keyframes: tuple[int, ...] = ()

    def __call__(self, item: Item) -> Prediction | None:
        entry = self.entries.get(item.key)
        if entry is None:
            return None
        if isinstance(entry, str):
            raise ValueError(entry)
        masks = {name: None if mask is None else Rle.encode(mask) for name, mask in entry.items()}
        return Prediction(masks, self.sampled, self.keyframes)


def always(mask: np.ndarray | None, stems: list[str] = STEMS) -> Masks:
    return dict.fromkeys(stems, mask)


def meta(expressions: dict[str, dict[str, Any]], stems: list[str] = STEMS, **more: Any) -> dict[str, Any]:
    described = {name: {"exp": f"query {name}", **entry} for name, entry in expressions.items()}
    return {"frames": stems, "expressions": described, **more}


def codes(*masks: np.ndarray | None) -> list[Any]:
    return [None if mask is None else code(mask) for mask in masks]


def mevis_set(root: Path, split: str = "valid_u") -> Path:
    """Expression 0 means two objects; the frames are listed out of order, and so are the masks."""
    home = root / split
    listed = ["00003", "00000", "00001", "00002"]
    expressions = {"0": {"anno_id": [7, 8]}, "1": {"anno_id": [7]}, "10": {"anno_id": [8]}}
    write_json(home / "meta_expressions.json", {"videos": {"v": meta(expressions, listed)}})
    write_json(
        home / "mask_dict.json", {"7": codes(None, PART, PART, PART), "8": codes(OTHER, OTHER, None, None)}
    )
    jpegs(home / "JPEGImages" / "v", STEMS)
    return root


def revos_set(root: Path, *, stored: bool = True) -> Path:
    """Two overlapping instances; the foreground as a file, or as the union of what expressions mean."""
    expressions = {
        "0": {"anno_id": [1, 2], "obj_id": [1, 2], "type_id": 0},
        "1": {"anno_id": [1], "obj_id": [1], "type_id": 1},
        "2": {"anno_id": [], "obj_id": [], "type_id": 2},
    }
    listed = {"videos": {"TAO/x": meta(expressions, STEMS[:1], height=24, width=32)}}
    write_json(root / "meta_expressions_valid_.json", listed)
    wider = square(4, 6, 10)
    write_json(root / "mask_dict.json", {"1": codes(PART), "2": codes(wider)})
    if stored:
        foreground = {"TAO/x": {"masks_rle": codes(wider), "foreground_ratio": [0.1]}}
        write_json(root / "mask_dict_foreground.json", foreground)
    return root


def davis(root: Path, expressions: dict[str, str], labels: list[np.ndarray]) -> Path:
    listed = {
        "videos": {"fish": meta({n: {"obj_id": o} for n, o in expressions.items()}, STEMS[: len(labels)])}
    }
    write_json(root / "meta_expressions/valid/meta_expressions.json", listed)
    for stem, label in zip(STEMS, labels, strict=False):
        palette_png(root / f"valid/Annotations/fish/{stem}.png", label)
    return root
