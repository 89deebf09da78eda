"""Generated world: one clip in dataset layouts: JPEG frames, palette PNGs, a record of the truth."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from videoseg.data.world.draw import Stage
from videoseg.data.world.plan import Plan
from videoseg.data.world.records import record
from videoseg.data.world.sampler import Sample, draw_sample
from videoseg.masks import Rle

QUALITY = 95
MEVIS_SPLITS = {"train": "train", "valid": "valid_u", "test": "test"}
"""MeViS publishes masks for `valid_u`, not for `valid`; generated splits always have masks."""


@dataclass(frozen=True)
class ClipWork:
    """Writes the clip of a seed below `root` and its record into `parts`; picklable, for worker processes."""

    root: Path
    parts: Path
    plan: Plan

    def __call__(self, seed: int) -> None:
        """Does nothing if the record is there: it is written last, so the clip's files are complete."""
        part = self.parts / f"{seed}.json"
        if part.is_file():
            return
        sample = draw_sample(seed, self.plan.spec, self.plan.family)
        masks = self._frames(sample)
        text = json.dumps(record(sample, masks, self.plan.shown), separators=(",", ":"))
        replace_file(part, text + "\n")

    def _frames(self, sample: Sample) -> list[list[dict[str, Any] | None]]:
        """Write frames and label pictures; the codes of every thing on every frame."""
        name, plan = video_name(sample.scene.seed), self.plan
        homes = [home / "JPEGImages" / name for home in image_homes(self.root, plan)]
        labels = None
        if "ref-ytvos" in plan.layouts and len(sample.question.targets) == 1:
            labels = ytvos_home(self.root, plan) / "Annotations" / name
        elif "ref-ytvos" in plan.layouts:
            homes = homes[:-1]
        for folder in (*homes, *([labels] if labels else [])):
            folder.mkdir(parents=True, exist_ok=True)
        stage = Stage(sample.scene)
        codes: list[list[dict[str, Any] | None]] = [[] for _ in sample.scene.things]
        for index in range(sample.scene.num_frames):
            frame, masks = stage.frame(index)
            for column, mask in zip(codes, masks, strict=True):
                column.append(Rle.encode(mask).to_coco() if mask.any() else None)
            if homes:
                write_jpeg(frame, [folder / f"{index:05d}.jpg" for folder in homes])
            if labels:
                write_labels(masks, labels / f"{index:05d}.png")
        return codes


def video_name(seed: int) -> str:
    """Name of a clip in the meta files; sorted as text, names are in the order of the seeds."""
    return f"world{seed:010d}"


def image_homes(root: Path, plan: Plan) -> list[Path]:
    """Folders of the split, one per video set that needs frames; Ref-YouTube-VOS last."""
    homes = [mevis_home(root, plan)] if plan.mevis else []
    return homes + ([ytvos_home(root, plan)] if "ref-ytvos" in plan.layouts else [])


def mevis_home(root: Path, plan: Plan) -> Path:
    """`video_datas/mevis/<split>`."""
    return root / "video_datas" / "mevis" / MEVIS_SPLITS[plan.split]


def ytvos_home(root: Path, plan: Plan) -> Path:
    """`video_datas/rvos/<split>`."""
    return root / "video_datas" / "rvos" / plan.split


def write_jpeg(frame: NDArray[np.uint8], paths: list[Path]) -> None:
    """One picture under several names; colours at full resolution, so that small marks keep theirs."""
    first, *others = paths
    Image.fromarray(frame).save(first, quality=QUALITY, subsampling=0)
    for path in others:
        try:
            os.link(first, path)
        except OSError:  # there from an interrupted run, or a file system without links
            path.unlink(missing_ok=True)
            shutil.copyfile(first, path)


def write_labels(masks: NDArray[np.bool_], path: Path) -> None:
    """A palette PNG: thing number n (from 0) has the value n + 1, background 0; masks do not overlap."""
    labels = np.zeros(masks.shape[1:], dtype=np.uint8)
    for number, mask in enumerate(masks, 1):
        labels[mask] = number
    picture = Image.fromarray(labels, mode="P")
    picture.putpalette(_palette())
    picture.save(path)


@lru_cache(maxsize=1)
def _palette() -> list[int]:
    """The colours of PASCAL VOC, which DAVIS and YouTube-VOS use: bits of the value spread over channels."""
    values = np.arange(256)
    channels = [
        sum(((values >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(3)) for channel in range(3)
    ]
    return [int(value) for value in np.stack(channels, axis=1).ravel()]


def replace_file(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)
