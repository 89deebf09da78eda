"""Scores a system on held-out clips of the generated world: J, F and what the dialogues did, per family."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np

from videoseg.data.world.clip import write_clip
from videoseg.data.world.draw import Stage
from videoseg.data.world.queries import FAMILIES
from videoseg.data.world.sampler import TEST_SEEDS, Sample, WorldSpec, draw_sample
from videoseg.evaluation.metrics import jf, region
from videoseg.types import Result, StopReason


class Segments(Protocol):
    """A system that answers a query about a video file."""

    def segment(self, source: Any, query: str) -> Result:
        """The answer to one query."""
        ...


@dataclass(frozen=True, slots=True)
class WorldScore:
    """How one query went.

    `right`: the masks overlap the target more than any other thing (for "no such object": all are empty).
    `parsed`: every reply followed the grammar and the last one answered.
    """

    seed: int
    family: str
    text: str
    J: float
    F: float
    right: bool
    parsed: bool
    turns: int

    @property
    def JF(self) -> float:
        """Mean of J and F."""
        return (self.J + self.F) / 2


def score_world(
    system: Segments, seeds: Iterable[int], family: str, spec: WorldSpec | None = None
) -> Iterator[WorldScore]:
    """Write each seed's clip as an H.264 file, ask the system, and compare with the exact masks."""
    chosen = spec or WorldSpec()
    with TemporaryDirectory() as folder:
        for seed in seeds:
            sample = draw_sample(seed, chosen, family)
            path = write_clip(sample, folder, "clip")
            yield score_result(sample, system.segment(path, sample.question.text))
            Path(path).unlink()


def score_result(sample: Sample, result: Result) -> WorldScore:
    """Compare a result with the truth on every frame."""
    stage = Stage(sample.scene)
    targets = list(sample.question.targets)
    frames = range(sample.scene.num_frames)
    masks = [stage.masks(frame) for frame in frames]
    guess = [result.masklets.union(frame) for frame in frames]
    truth = [np.logical_or.reduce(mask[targets], axis=0) for mask in masks]
    mean_j, mean_f = jf(truth, guess)
    replies = [turn.reply for turn in result.trace.turns]
    parsed = all(reply is not None for reply in replies) and result.trace.stop is StopReason.ANSWER
    return WorldScore(
        sample.scene.seed,
        sample.question.family,
        sample.question.text,
        mean_j,
        mean_f,
        _meant(masks, guess) == targets,
        parsed,
        len(replies),
    )


def _meant(masks: Sequence[np.ndarray], guess: Sequence[np.ndarray]) -> list[int]:
    """The thing that the masks overlap best over the clip; none if they are all empty."""
    if not any(mask.any() for mask in guess):
        return []
    flat = np.concatenate([mask.ravel() for mask in guess])[None]
    overlaps = [
        region(np.concatenate([mask[thing].ravel() for mask in masks])[None], flat)
        for thing in range(masks[0].shape[0])
    ]
    return [int(np.argmax(overlaps))]


def summarise(scores: Sequence[WorldScore]) -> dict[str, Any]:
    """Means over queries, in percent; `ci95` is the half width of the 95 % interval of J&F."""
    if not scores:
        raise ValueError("there is no score to summarise")
    both = np.array([score.JF for score in scores])
    spread = 1.96 * both.std(ddof=1) / math.sqrt(len(both)) if len(both) > 1 else 0.0

    def percent(values: Iterable[float]) -> float:
        return round(100 * float(np.mean(list(values))), 2)

    return {
        "clips": len(scores),
        "J": percent(score.J for score in scores),
        "F": percent(score.F for score in scores),
        "JF": percent(both),
        "ci95": round(float(100 * spread), 2),
        "right": percent(score.right for score in scores),
        "parsed": percent(score.parsed for score in scores),
        "turns": round(float(np.mean([score.turns for score in scores])), 2),
    }


def score_families(
    system: Segments,
    count: int,
    *,
    first_seed: int = TEST_SEEDS.start,
    families: Sequence[str] = FAMILIES,
    spec: WorldSpec | None = None,
    report: Callable[[WorldScore], None] | None = None,
) -> dict[str, Any]:
    """Score `count` held-out clips of every family; `overall` weighs the families equally.

    Returns `{"overall": {...}, "per_family": {family: summary}}`; `report` hears of every clip.
    """
    found: dict[str, list[WorldScore]] = {family: [] for family in families}
    for family in families:
        for score in score_world(system, range(first_seed, first_seed + count), family, spec):
            found[family].append(score)
            if report:
                report(score)
    everything = [score for scores in found.values() for score in scores]
    return {
        "overall": summarise(everything),
        "per_family": {family: summarise(scores) for family, scores in found.items()},
    }
