"""Generated world: what a set of clips holds, counted from the scene graph: queries, targets, true traces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from videoseg.data.world.draw import Stage
from videoseg.data.world.parallel import Progress, map_seeds
from videoseg.data.world.plan import SHOWN
from videoseg.data.world.queries import FAMILIES
from videoseg.data.world.sampler import Sample, WorldSpec, draw_sample
from videoseg.data.world.trace import true_trace
from videoseg.dialogue.preset import Preset
from videoseg.video.sampling import sample_video

GLIMPSE = 80
"""Height at which targets are measured: shares of the frame hardly depend on it."""


@dataclass(frozen=True, slots=True)
class Facts:
    """One sample in numbers; shares are in [0, 1], those of the target None where there is none.

    `area` is the target's mean share of the frame where it shows, `seen` the share of frames in which it
    does; `start`, `interval` and `keyframe` are begin and length of the interval and place of the keyframe
    that the true trace answers with, as shares of the clip.
    """

    seed: int
    family: str
    query: str
    num_frames: int
    things: int
    motions: tuple[str, ...]
    targets: int
    target_motion: str | None
    area: float | None
    seen: float | None
    turns: int
    think_words: int
    start: float | None
    interval: float | None
    keyframe: float | None

    @property
    def words(self) -> int:
        """Length of the query."""
        return len(self.query.split())


def facts_of(sample: Sample, shown: Preset = SHOWN) -> Facts:
    """Measure one sample; `shown` says how many frames its true trace begins with."""
    scene, question = sample.scene, sample.question
    targets = list(question.targets)
    trace = true_trace(sample, sample_video(scene.num_frames, shown.budget.low_frames))
    last = trace.replies[-1]
    area, seen = _visibility(sample)
    return Facts(
        seed=scene.seed,
        family=question.family,
        query=question.text,
        num_frames=scene.num_frames,
        things=len(scene.things),
        motions=tuple(thing.motion for thing in scene.things),
        targets=len(targets),
        target_motion=scene.things[targets[0]].motion if targets else None,
        area=area,
        seen=seen,
        turns=len(trace.replies),
        think_words=sum(len(reply.think.split()) for reply in trace.replies),
        start=last.interval.start / scene.num_frames if targets else None,
        interval=len(last.interval) / scene.num_frames if targets else None,
        keyframe=last.keyframe / max(1, scene.num_frames - 1) if targets else None,
    )


def _visibility(sample: Sample) -> tuple[float | None, float | None]:
    """Mean area where the targets show, and the share of frames in which they do."""
    scene, targets = sample.scene, list(sample.question.targets)
    if not targets:
        return None, None
    stage = Stage(scene, GLIMPSE, round(GLIMPSE * scene.width / scene.height))
    areas = np.array([stage.masks(frame)[targets].any(axis=0).mean() for frame in range(scene.num_frames)])
    return float(areas[areas > 0].mean()) if areas.any() else 0.0, float((areas > 0).mean())


def _facts_of_seed(seed: int, spec: WorldSpec, family: str | None, shown: Preset) -> Facts:
    return facts_of(draw_sample(seed, spec, family), shown)


def collect(
    seeds: Sequence[int],
    spec: WorldSpec | None = None,
    family: str | None = None,
    *,
    shown: Preset = SHOWN,
    workers: int = 1,
    progress: Progress | None = None,
) -> list[Facts]:
    """The facts of every seed, in order."""
    work = partial(_facts_of_seed, spec=spec or WorldSpec(), family=family, shown=shown)
    return list(map_seeds(work, seeds, workers=workers, stage="statistics", progress=progress))


def families_of(facts: Sequence[Facts]) -> list[str]:
    """Families that occur, in the order of `FAMILIES`."""
    there = {item.family for item in facts}
    return [name for name in FAMILIES if name in there] + sorted(there - set(FAMILIES))


def summarise(facts: Sequence[Facts]) -> dict[str, Any]:
    """Counts and medians, over all samples and per family; raises ValueError without any sample."""
    if not facts:
        raise ValueError("there is no sample to count")
    queries = Counter(item.query for item in facts)
    return {
        "clips": len(facts),
        "seeds": [min(item.seed for item in facts), max(item.seed for item in facts)],
        "distinct_queries": len(queries),
        "all": _row(facts),
        "families": {
            name: _row([item for item in facts if item.family == name]) for name in families_of(facts)
        },
        "motions": dict(Counter(motion for item in facts for motion in item.motions).most_common()),
    }


def _row(facts: Sequence[Facts]) -> dict[str, Any]:
    """Medians of a group; None where nothing in it has the value."""
    return {
        "clips": len(facts),
        "words": median(item.words for item in facts),
        "things": median(item.things for item in facts),
        "frames": median(item.num_frames for item in facts),
        "turns": median(item.turns for item in facts),
        "think_words": median(item.think_words for item in facts),
        **{name: _median_share(facts, name) for name in ("area", "seen", "interval", "keyframe")},
    }


def _median_share(facts: Sequence[Facts], name: str) -> float | None:
    values = [value for item in facts if (value := getattr(item, name)) is not None]
    return round(median(values), 4) if values else None
