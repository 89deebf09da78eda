"""Evaluation runner, in the workers: the questions on one video go to the system, masks come back as text.

The text has the layout of VideoSEG-O3's result file with one video in it (docs/evaluation.md, "Files").
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from videoseg.errors import DatasetError
from videoseg.evaluation.queue import Work
from videoseg.evaluation.truth import Footage, Item
from videoseg.masks import Masklets, Rle, union
from videoseg.trace_json import trace_to_json
from videoseg.types import Query, Result, Role
from videoseg.video.reader import Video


class System(Protocol):
    """What answers questions about a video."""

    def segment(self, source: Video, query: Sequence[Query]) -> list[Result]:
        """One result per query, in order."""
        ...


@dataclass(frozen=True, slots=True)
class Group:
    """All questions on one video: one task, because they share the features of its frames."""

    video: str
    footage: Footage
    questions: tuple[tuple[tuple[str, ...], str], ...]

    @property
    def weight(self) -> int:
        """Masks to make: what the time is in proportion to."""
        return len(self.footage.files) * len(self.questions)


def grouped(items: Iterable[Item]) -> list[Group]:
    """Items by video, in the order in which videos first appear; true masks stay behind."""
    found: dict[str, list[Item]] = {}
    for item in items:
        if item.video is None:
            raise DatasetError(f"{item.origin.file}: sample {item.name} has no frames to look at")
        found.setdefault(item.key[0], []).append(item)
    return [
        Group(video, several[0].video, tuple((item.key, item.text) for item in several))
        for video, several in found.items()
        if several[0].video is not None
    ]


@dataclass(frozen=True, slots=True)
class Answering:
    """Prepares a worker: loads the system with `options` of `systems.load`, on a device of its own.

    `workers` processes of one machine share its cores and GPUs; 0 leaves both to the cluster.
    """

    options: Mapping[str, Any]
    workers: int = 1

    def __call__(self, number: int) -> Work:
        """A function from `Group` to text."""
        import torch

        from videoseg.systems import choose_device, load

        device = choose_device(self.options.get("device", "auto"))
        if self.workers > 1 and device == "cuda":
            device = f"cuda:{number % torch.cuda.device_count()}"
        elif self.workers > 1 and device == "cpu":
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // self.workers))
        return partial(answer, load(**{**self.options, "device": device}))


def answer(system: System, group: Group) -> str:
    """The prediction file of one video."""
    queries = [Query(text, "/".join(key)) for key, text in group.questions]
    with group.footage.open() as video:
        results = system.segment(video, queries)
    names = [Path(file).stem for file in group.footage.files]
    document: dict[str, Any] = {}
    for (key, _), result in zip(group.questions, results, strict=True):
        place = document
        for part in key[:-1]:
            place = place.setdefault(part, {})
        place[key[-1]] = entry(result, names)
    return json.dumps(document, separators=(",", ":"), allow_nan=False)


def entry(result: Result, names: Sequence[str]) -> dict[str, Any]:
    """One expression; raises ValueError where the video is not as long as the dataset says."""
    if len(names) != result.masklets.num_frames:
        raise ValueError(f"{result.masklets.num_frames} frames were read, the dataset lists {len(names)}")
    turns = result.trace.turns
    shown = turns[0].shown if turns else ()
    masks = (visible(result.masklets, frame) for frame in range(len(names)))
    return {
        "exp": result.query.text,
        "frames": list(names),
        "prediction_masks": [None if mask is None else mask.to_coco() for mask in masks],
        "text_prediction": [turn.text for turn in turns],
        "num_rounds": len(turns),
        "sample_index": [one.frame for one in shown if one.role is Role.LOW],
        "keyframe_index": [result.trace.keyframe],
        "trace": trace_to_json(result.trace),
        "provenance": result.provenance,
    }


def visible(masklets: Masklets, frame: int) -> Rle | None:
    """The union of all objects on a frame, None where nothing is visible."""
    codes = [masklet.rles[frame] for masklet in masklets]
    mask = union(codes) if codes else None
    return mask if mask is not None and mask.area else None
