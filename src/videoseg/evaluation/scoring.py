"""Evaluation engine: scores predictions by a protocol's table; nothing is skipped (benchmarks §5.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from videoseg.errors import DatasetError, InputError, UsageError
from videoseg.evaluation.counts import IntArray, frame_counts
from videoseg.evaluation.facts import item_facts
from videoseg.evaluation.metrics import (
    FloatArray,
    appearance,
    contours,
    regions,
    robustness,
    summed_errors,
    temporal_iou,
    video_iou,
)
from videoseg.evaluation.parallel import in_order
from videoseg.evaluation.protocols import Protocol
from videoseg.evaluation.truth import Item
from videoseg.masks import Rle, union
from videoseg.types import Trace


@dataclass(frozen=True, slots=True)
class Prediction:
    """Masks by frame name, None for an empty one; a frame that is not there is missing.

    `sampled` and `keyframes` are positions in the item's frames that the model saw and decoded (O3's files).
    `turns` is 0 where nothing is known of the dialogue.
    """

    masks: Mapping[str, Rle | None]
    sampled: tuple[int, ...] = ()
    keyframes: tuple[int, ...] = ()
    turns: int = 0
    trace: Trace | None = None

    @property
    def rounds(self) -> int:
        """Turns of the dialogue, of the trace where there is one."""
        return len(self.trace.turns) if self.trace else self.turns


Predictions = Callable[[Item], Prediction | None]
"""The prediction for an item, None where there is none; picklable, and reads in the worker.

Raises `InputError` or ValueError where it cannot be read.
"""


@dataclass(frozen=True, slots=True)
class Score:
    """One item: fractions by metric name (a problem or nothing predicted: all 0), and what was missing.

    `frames` is the number of evaluated frames, `text` the query; `facts` are those of `facts.item_facts`.
    """

    key: tuple[str, ...]
    group: str
    values: dict[str, float]
    missing: bool = False
    missing_frames: tuple[str, ...] = ()
    problem: str = ""
    text: str = ""
    frames: int = 0
    turns: int = 0
    facts: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """The key as one text."""
        return "/".join(self.key)

    def to_json(self) -> dict[str, Any]:
        """Values, video, group, number of frames, query and (where known) turns."""
        known = {"video": self.key[0], "group": self.group, "frames": self.frames, "text": self.text}
        entry = {**self.values, **known}
        return {**entry, "turns": self.turns} if self.turns else entry


@dataclass(frozen=True, slots=True)
class Report:
    """Percentages by group (and `overall`, last) and metric, with the scores they are means of."""

    benchmark: str
    protocol: str
    family: str
    table: dict[str, dict[str, float]]
    scores: tuple[Score, ...]
    remark: str = ""
    mismatch: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """JSON-ready: counts, the ids of what is missing or malformed, the table, all items; no NaN."""
        missing = [score.name for score in self.scores if score.missing]
        problems = {score.name: score.problem for score in self.scores if score.problem}
        return {
            "benchmark": self.benchmark,
            "protocol": self.protocol,
            "family": self.family,
            "n_expected": len(self.scores),
            "n_scored": len(self.scores) - len(missing) - len(problems),
            "n_missing": len(missing),
            "missing": missing,
            "malformed": problems,
            "missing_frames": {s.name: list(s.missing_frames) for s in self.scores if s.missing_frames},
            "counts_mismatch": list(self.mismatch),
            "remark": self.remark,
            "scores": self.table,
            "items": {score.name: score.to_json() for score in self.scores},
            "facts": {score.name: score.facts for score in self.scores if score.facts},
        }


@dataclass(frozen=True, slots=True)
class Measured:
    """What the metrics of one item are computed from; `absent[t]`: frame t counts 0."""

    item: Item
    truth: list[list[Rle]]
    guess: list[Rle | None]
    counts: IntArray
    size: tuple[int, int]
    absent: np.ndarray
    prediction: Prediction

    def mean(self, values: FloatArray) -> float:
        """Over the frames, missing ones as 0."""
        return float(np.mean(np.where(self.absent, 0.0, values)))

    def at(self, frames: Sequence[int]) -> float:
        """J over some frames; 0 where none is given (O3's extra columns)."""
        values = np.where(self.absent, 0.0, regions(self.counts))
        return float(np.mean(values[list(frames)])) if frames else 0.0

    def errors(self) -> tuple[IntArray, IntArray]:
        """Of `summed_errors`."""
        return summed_errors(self.truth, self.guess, self.counts)

    def foreground(self) -> IntArray:
        """Pixels of any annotated object of the video on each frame."""
        return np.array([union(codes).area if codes else 0 for codes in self.item.others()], dtype=np.int64)


METRICS: dict[str, Callable[[Measured], float]] = {
    "J": lambda m: m.mean(regions(m.counts)),
    "F": lambda m: m.mean(contours(m.counts)),
    "A": lambda m: m.mean(appearance(m.counts, m.size, m.errors())),
    "A_or": lambda m: m.mean(appearance(m.counts, m.size)),
    "R": lambda m: m.mean(robustness(m.counts, m.foreground(), m.errors())),
    "R_or": lambda m: m.mean(robustness(m.counts, m.foreground())),
    "tIoU": lambda m: temporal_iou(m.counts),
    "vIoU": lambda m: video_iou(m.counts),
    "J_sampled": lambda m: m.at(m.prediction.sampled),
    "J_key": lambda m: m.at(m.prediction.keyframes),
}


def score(
    table: Protocol,
    items: Sequence[Item],
    predictions: Predictions,
    *,
    processes: int = 1,
    lenient: bool = False,
    split: str | None = None,
    allow_counts: bool = False,
) -> Report:
    """Score every item; what was not predicted counts 0.

    A malformed prediction raises `DatasetError` naming the item, or with `lenient` counts 0 and is listed.
    With `split` the published numbers of videos and expressions must be met; `allow_counts` only lists
    where they are not. The result is the same for any number of `processes`.
    """
    if table.family == "labelmap":
        raise UsageError(f"{table.benchmark} {table.name} is scored by labelmap.score_labelmaps")
    kept = [item for item in items if item.key[0] not in table.excluded]
    if not kept:
        raise DatasetError(f"{table.benchmark}: there is no expression to score")
    require_unique(kept)
    differing = counts_mismatch(table, items, split, allow_counts)
    work = partial(score_item, table, predictions, lenient)
    scores = tuple(in_order(work, kept, processes, weight=lambda item: len(item.frames)))
    means = summary(table, scores)
    return Report(table.benchmark, table.name, table.family, means, scores, table.remark, differing)


def require_unique(items: Sequence[Item]) -> None:
    """Raises `DatasetError` where two expressions have one key."""
    seen: set[tuple[str, ...]] = set()
    for item in items:
        if item.key in seen:
            raise item.origin.error("key", "two expressions have this key")
        seen.add(item.key)


def counts_mismatch(
    table: Protocol, items: Sequence[Item], split: str | None, allow_counts: bool
) -> tuple[str, ...]:
    """Where there are not as many videos and expressions as were published; unless allowed an error."""
    found = {"videos": len({item.key[0] for item in items}), "expressions": len(items)}
    wanted = zip(found, table.expected.get(split or "", (None, None)), strict=True)
    differing = tuple(
        f"{table.benchmark} {split}: {found[what]} {what}, {number} were published"
        for what, number in wanted
        if number is not None and number != found[what]
    )
    if differing and not allow_counts:
        raise DatasetError(f"{'; '.join(differing)}. Complete the data, or allow other counts")
    return differing


def score_item(table: Protocol, predictions: Predictions, lenient: bool, item: Item) -> Score:
    """One item; raises `DatasetError` where the truth is damaged, or the prediction is and not `lenient`."""
    nothing = dict.fromkeys(table.metrics, 0.0)
    blank = Score(item.key, item.group, nothing, text=item.text, frames=len(item.frames))
    truth = item.truth()
    sizes = {(code.height, code.width) for codes in truth for code in codes}
    sizes |= {item.size} if item.size else set()
    if len(sizes) > 1:
        raise item.origin.error("masks", f"true masks of several sizes (height, width): {sorted(sizes)}")
    try:
        prediction = predictions(item)
        if prediction is None:
            return replace(blank, missing=True)
        measured = measure(item, truth, prediction, table.empty_frames)
    except (InputError, ValueError) as error:
        if not lenient:
            raise item.origin.error("prediction", error) from error
        return replace(blank, problem=str(error))
    values = {name: METRICS[name](measured) for name in table.metrics}
    lost = tuple(dict.fromkeys(name for name in item.frames if name not in prediction.masks))
    facts = item_facts(item, truth, prediction.trace)
    return replace(blank, values=values, missing_frames=lost, facts=facts, turns=prediction.rounds)


def measure(item: Item, truth: list[list[Rle]], prediction: Prediction, empty_frames: bool) -> Measured:
    """Align by frame name and count; raises ValueError where sizes differ or frames are not the item's."""
    unknown = [
        place for place in (*prediction.sampled, *prediction.keyframes) if not 0 <= place < len(item.frames)
    ]
    if unknown:
        raise ValueError(f"frame {unknown[0]} is outside the {len(item.frames)} frames")
    guess = [prediction.masks.get(name) for name in item.frames]
    size = item.size or size_of([*(code for codes in truth for code in codes), *prediction.masks.values()])
    counts = frame_counts(truth, guess, size)
    absent = np.array([name not in prediction.masks and not empty_frames for name in item.frames])
    return Measured(item, truth, guess, counts, size, absent, prediction)


def size_of(masks: Sequence[Rle | None]) -> tuple[int, int]:
    """(height, width) of the first mask that is there; any will do where none is."""
    return next(((mask.height, mask.width) for mask in masks if mask is not None), (1, 1))


def summary(table: Protocol, scores: Sequence[Score]) -> dict[str, dict[str, float]]:
    """Percentages by group and overall, in the order of the table; groups without an item are left out."""
    groups = {name: [one for one in scores if one.group == name] for name in table.groups}
    means = {name: averages(table, found) for name, found in groups.items() if found}
    counted = [one for one in scores if not table.groups or one.group in table.groups]
    if not counted:
        raise DatasetError(f"{table.benchmark}: no expression belongs to {', '.join(table.groups)}")
    plain = averages(table, counted)
    extra = {"plain_mean": plain} if table.plain_mean else {}
    if table.overall == "items":
        return {**means, **extra, "overall": plain}
    names = [name for name in plain if name != "JF"]
    macro = {name: float(np.mean([one[name] for one in means.values()])) for name in names}
    return {**means, **extra, "overall": with_jf(macro)}


def averages(table: Protocol, scores: Sequence[Score]) -> dict[str, float]:
    """Mean percentages over items, each rounded first where the table says so (§1.7)."""
    columns = {name: np.array([one.values[name] for one in scores]) for name in table.metrics}
    if table.decimals is not None:
        columns = {name: np.round(100 * column, table.decimals) for name, column in columns.items()}
        return with_jf({name: float(np.mean(column)) for name, column in columns.items()})
    return with_jf({name: 100 * float(np.mean(column)) for name, column in columns.items()})


def with_jf(means: dict[str, float]) -> dict[str, float]:
    """J&F = (mean J + mean F) / 2 beside the others (§1.6)."""
    return {**means, "JF": (means["J"] + means["F"]) / 2}


def load_items(
    table: Protocol, folder: Path | str, split: str | None = None, *, masks: bool = True
) -> list[Item]:
    """All expressions of a split; raises `DatasetError` where the folder has another layout.

    With `masks` the true masks must be published as well.
    """
    items = list(table.items(Path(folder), split or table.split))
    if masks:
        for item in items:
            item.published()
    return items
