"""Evaluation: the label-map family of Ref-DAVIS17, where the objects of a video compete (benchmarks §3.3).

Each of the four text sources is a run of its own: one label map per frame, scored as DAVIS scores
unsupervised results. Only `family="labelmap"` of the protocol table does this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from videoseg.data.tracks import read_labels
from videoseg.errors import DatasetError, InputError
from videoseg.evaluation.counts import frame_counts
from videoseg.evaluation.facts import item_facts
from videoseg.evaluation.metrics import FloatArray, contours, regions
from videoseg.evaluation.parallel import in_order
from videoseg.evaluation.protocols import Protocol
from videoseg.evaluation.scoring import (
    Prediction,
    Predictions,
    Report,
    Score,
    averages,
    counts_mismatch,
    require_unique,
)
from videoseg.evaluation.truth import Item
from videoseg.masks import Rle

SOURCES = 4
"""Expression 4 o + a is text source a of object o (0-based)."""
VOID = 255
MOST = 20
"""Most objects that may be predicted."""


def score_labelmaps(
    table: Protocol,
    items: Sequence[Item],
    folder: Path,
    predictions: Predictions,
    *,
    processes: int = 1,
    lenient: bool = False,
    split: str | None = None,
    allow_counts: bool = False,
) -> Report:
    """Scores per true object and text source; overall is the mean of the four sources' means.

    `folder` holds the label pictures `<video>/<frame>.png`. A missing expression, or a missing frame of
    one, counts 0 for the object that it is assigned to. Raises `DatasetError` as `scoring.score` does.
    """
    require_unique(items)
    differing = counts_mismatch(table, items, split, allow_counts)
    runs: dict[tuple[str, int], list[Item]] = {}
    for item in items:
        if not item.key[1].isdecimal():
            raise item.origin.error("expression", f"{item.key[1]!r} is no number 4 * object + source")
        runs.setdefault((item.key[0], int(item.key[1]) % SOURCES), []).append(item)
    ordered = [sorted(run, key=lambda item: int(item.key[1])) for _, run in sorted(runs.items())]
    work = partial(score_run, folder, predictions, lenient)
    scores = tuple(one for found in in_order(work, ordered, processes) for one in found)
    groups = {name: [s for s in scores if s.group == name] for name in (f"anno_{a}" for a in range(SOURCES))}
    means = {name: averages(table, found) for name, found in groups.items() if found}
    overall = {name: float(np.mean([one[name] for one in means.values()])) for name in ("J", "F", "JF")}
    rows = {**means, "overall": overall}
    return Report(table.benchmark, table.name, table.family, rows, scores, table.remark, differing)


def score_run(folder: Path, predictions: Predictions, lenient: bool, run: Sequence[Item]) -> list[Score]:
    """One video and text source: a score per true object, in the order of assignment."""
    video, frames = run[0].key[0], run[0].frames
    truth = [read_labels(folder / video / f"{name}.png").astype(np.uint8) for name in frames]
    objects: dict[int, Prediction | None] = {}
    problems: dict[int, str] = {}
    for item in run:
        number = int(item.key[1]) // SOURCES
        if number >= MOST:
            raise item.origin.error("expression", f"object {number}; DAVIS allows {MOST}")
        try:
            objects[number] = checked(predictions(item), truth[0].shape)
        except (InputError, ValueError) as error:
            if not lenient:
                raise item.origin.error("prediction", error) from error
            objects[number], problems[number] = None, str(error)
    group = f"anno_{int(run[0].key[1]) % SOURCES}"
    values = matched(truth, compete(objects, frames, truth[0].shape), lost(objects, frames))
    named = dict(zip(objects, run, strict=True))
    return [
        replace(
            described(named.get(row), objects.get(row)),
            key=(video, group, str(place + 1)),
            group=group,
            values={"J": j, "F": f},
            missing=row in objects and objects[row] is None and row not in problems,
            missing_frames=missing_frames(objects.get(row), frames),
            problem=problems.get(row, ""),
            frames=len(frames),
        )
        for place, (row, j, f) in enumerate(values)
    ]


def described(item: Item | None, prediction: Prediction | None) -> Score:
    """A score that says what is known of the expression; nothing for an object without a text."""
    if item is None or prediction is None:
        return Score((), "", {}, text=item.text if item else "")
    facts = item_facts(item, item.truth(), prediction.trace) if prediction.trace else None
    return Score((), "", {}, text=item.text, turns=prediction.rounds, facts=facts)


def missing_frames(prediction: Prediction | None, frames: Sequence[str]) -> tuple[str, ...]:
    """Frames that a prediction does not have."""
    return tuple(name for name in frames if prediction and name not in prediction.masks)


def checked(prediction: Prediction | None, size: tuple[int, ...]) -> Prediction | None:
    """The prediction; raises ValueError where a mask is not of the truth's size."""
    for name, mask in prediction.masks.items() if prediction else ():
        if mask is not None and (mask.height, mask.width) != size:
            raise ValueError(
                f"frame {name}: mask of {mask.height}x{mask.width}, {size[0]}x{size[1]} is needed"
            )
    return prediction


def compete(
    objects: dict[int, Prediction | None], frames: Sequence[str], size: tuple[int, ...]
) -> list[np.ndarray]:
    """Label maps uint8 [H, W]: each pixel belongs to the lowest object that claims it, 0 to none."""
    maps = []
    for name in frames:
        labels = np.zeros(size, dtype=np.uint8)
        for number, prediction in sorted(objects.items(), reverse=True):
            mask = prediction.masks.get(name) if prediction else None
            if mask is not None:
                labels[mask.decode()] = number + 1
        maps.append(labels)
    return maps


def lost(objects: dict[int, Prediction | None], frames: Sequence[str]) -> np.ndarray:
    """bool [objects, T]: no prediction for this object and frame; objects without a text are not lost."""
    table = np.zeros((max(objects) + 1, len(frames)), dtype=bool)
    for number, prediction in objects.items():
        table[number] = [prediction is None or name not in prediction.masks for name in frames]
    return table


def matched(
    truth: Sequence[np.ndarray], guess: Sequence[np.ndarray], absent: np.ndarray
) -> list[tuple[int, float, float]]:
    """Which prediction each true object was assigned to, and their mean J and F, in order of prediction.

    Void pixels are cleared from both. Objects are 1 to the highest number of the first true frame (255 is
    void); predictions are padded with empty ones to as many. The assignment has the highest sum of J&F.
    """
    void = [labels == VOID for labels in truth]
    count = int(np.where(void[0], 0, truth[0]).max())
    if not count:
        raise DatasetError("the first true label map holds no object")
    rows = max(count, len(absent))
    size = (truth[0].shape[0], truth[0].shape[1])
    planes = [[Rle.encode(labels == number + 1) for labels in truth] for number in range(count)]
    others = [
        [Rle.encode((labels == number + 1) & ~out) for labels, out in zip(guess, void, strict=True)]
        for number in range(rows)
    ]
    scores = np.zeros((2, rows, count, len(truth)))
    for row, other in enumerate(others):
        for column, plane in enumerate(planes):
            counts = frame_counts(plane, other, size)
            scores[:, row, column] = regions(counts), contours(counts)
    scores[:, : len(absent)] *= ~absent[None, :, None]
    return assign(scores)


def assign(scores: FloatArray) -> list[tuple[int, float, float]]:
    """Number, mean J and mean F of the assigned predictions, of `[2, predictions, objects, T]`."""
    means = scores.mean(axis=3)
    chosen = zip(*linear_sum_assignment(-(means[0] + means[1]) / 2), strict=True)
    return [(int(row), float(means[0, row, column]), float(means[1, row, column])) for row, column in chosen]
