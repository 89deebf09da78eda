"""Data: reading a whole dataset once, to find what is missing or damaged before training does (issue 3).

Every sample is made, every listed frame looked for, and masks are decoded on some frames (or all).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from videoseg.data.frames import ImageFrames, image_size
from videoseg.data.manifest import UNKNOWN, info
from videoseg.data.readers.base import Reader
from videoseg.data.sample import (
    ChatSample,
    GcgSample,
    GroundingSample,
    RefImageSample,
    RefVideoSample,
    RlSample,
    Sample,
    TraceSample,
)
from videoseg.errors import DatasetError, VideoError
from videoseg.masks import Rle

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class CountRow:
    """A number of this copy beside the one the specification states (None: not stated)."""

    name: str
    found: int
    expected: int | None
    doubtful: bool = False

    @property
    def differs(self) -> bool:
        """Whether both are known and unequal."""
        return self.expected is not None and self.found != self.expected


@dataclass(slots=True)
class Statistics:
    """Values gathered for the page: one entry per video, query or mask."""

    video_frames: list[int] = field(default_factory=list)
    query_words: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    area_share: list[float] = field(default_factory=list)
    masks_read: int = 0
    masks_empty: int = 0
    turns: list[int] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Report:
    """What a check found; `findings` are the first messages, `bad` counts all samples with one."""

    dataset: str
    split: str
    folder: str
    counts: list[CountRow]
    notes: list[str]
    total: int
    checked: int = 0
    bad: int = 0
    missing_frames: int = 0
    findings: list[str] = field(default_factory=list)
    statistics: Statistics = field(default_factory=Statistics)

    @property
    def ok(self) -> bool:
        """Whether no sample is bad; a part of a dataset can be good too."""
        return not self.bad

    @property
    def complete(self) -> bool:
        """Whether no confirmed count differs."""
        return not any(row.differs and not row.doubtful for row in self.counts)

    def summary(self) -> dict[str, Any]:
        """The report as JSON, statistics as means and counters."""
        stats = self.statistics
        numbers = {
            "videos": len(stats.video_frames),
            "frames_mean": mean(stats.video_frames),
            "words_mean": mean(stats.query_words),
            "targets_mean": mean(stats.targets),
            "masks_read": stats.masks_read,
            "masks_empty": stats.masks_empty,
            "area_share_mean": mean(stats.area_share),
            "kinds": dict(stats.kinds),
            "sizes": dict(stats.sizes.most_common(10)),
        }
        rows = [
            {"name": r.name, "found": r.found, "expected": r.expected, "doubtful": r.doubtful}
            for r in self.counts
        ]
        return {
            "dataset": self.dataset,
            "split": self.split,
            "folder": self.folder,
            "ok": self.ok,
            "complete": self.complete,
            "counts": rows,
            "samples": self.total,
            "checked": self.checked,
            "bad": self.bad,
            "missing_frames": self.missing_frames,
            "findings": self.findings,
            "notes": self.notes,
            "licence": info(self.dataset).licence,
            "statistics": numbers,
        }


def mean(values: Sequence[float]) -> float | None:
    """The mean, or None of nothing."""
    return round(float(np.mean(values)), 4) if values else None


def check(
    reader: Reader[Any],
    *,
    limit: int | None = None,
    masks_per_sample: int | None = 3,
    max_findings: int = 20,
    progress: Progress | None = None,
) -> Report:
    """Read the samples of a reader (evenly spread ones if `limit` is set) and say what is wrong.

    `masks_per_sample` masks of every query are decoded, all if None. Bad samples do not stop the check.
    """
    expected = info(reader.dataset)
    stated = expected.expected(reader.split)
    doubtful = reader.split in expected.doubtful
    counts = [CountRow(name, found, stated.get(name), doubtful) for name, found in reader.counts().items()]
    report = Report(reader.dataset, reader.split, str(reader.folder), counts, reader.notes(), len(reader))
    inspector = _Inspector(report, masks_per_sample)
    chosen = spread(len(reader), limit)
    for done, index in enumerate(chosen, 1):
        try:
            inspector.look(reader[index])
        except DatasetError as error:
            report.bad += 1
            if len(report.findings) < max_findings:
                report.findings.append(str(error))
        report.checked += 1
        if progress is not None:
            progress("samples", done, len(chosen))
    return report


def spread(total: int, limit: int | None) -> list[int]:
    """All of `total` positions, or `limit` evenly spread ones."""
    if limit is None or limit >= total:
        return list(range(total))
    return [int(i) for i in np.linspace(0, total - 1, max(1, limit), dtype=int)]


class _Inspector:
    """Looks at samples one by one and adds to the report."""

    def __init__(self, report: Report, masks_per_sample: int | None) -> None:
        self.report = report
        self.per_sample = masks_per_sample
        self._seen: dict[str, list[Path]] = {}

    def look(self, sample: Sample) -> None:
        """Raises `DatasetError` for the first thing that is wrong with a sample."""
        if isinstance(sample, RefImageSample | GcgSample):
            self._image(sample)
            return
        self._frames(sample)
        stats = self.report.statistics
        if isinstance(sample, GroundingSample):
            stats.query_words += [len(event.query.split()) for event in sample.events]
            stats.targets.append(len(sample.events))
        elif isinstance(sample, ChatSample):
            stats.query_words += [len(turn.question.split()) for turn in sample.turns]
            stats.turns.append(len(sample.turns))
        else:
            self._query(sample)

    def _query(self, sample: RefVideoSample | TraceSample | RlSample) -> None:
        stats = self.report.statistics
        stats.query_words.append(len(sample.query.split()))
        if isinstance(sample, TraceSample):
            stats.turns.append(len(sample.replies))
        if isinstance(sample, RefVideoSample) and sample.kind:
            stats.kinds[sample.kind] += 1
        if sample.targets is None:
            return
        stats.targets.append(len(sample.targets))
        frames = self._choose(sample)
        masks = sample.masks(frames)
        self._count(masks)
        if isinstance(sample, RlSample):
            self._existence(sample, frames, masks)

    def _choose(self, sample: RefVideoSample | TraceSample | RlSample) -> list[int]:
        known: Sequence[int] = range(len(sample.frames))
        if isinstance(sample, TraceSample):
            known = sample.mask_frames()
        elif isinstance(sample, RefVideoSample) and sample.annotated is not None:
            known = sample.annotated
        return [known[i] for i in spread(len(known), self.per_sample)]

    def _existence(self, sample: RlSample, frames: Sequence[int], masks: Sequence[Rle]) -> None:
        for frame, mask in zip(frames, masks, strict=True):
            if sample.existence[frame] != (mask.area > 0):
                raise sample.origin.error(
                    "mask_existence",
                    f"frame {frame}: stated {int(sample.existence[frame])}, the mask has {mask.area} pixels",
                )

    def _count(self, masks: Sequence[Rle]) -> None:
        stats = self.report.statistics
        stats.masks_read += len(masks)
        for mask in masks:
            area = mask.area
            stats.masks_empty += area == 0
            if area:
                stats.area_share.append(area / (mask.height * mask.width))

    def _frames(self, sample: RefVideoSample | TraceSample | RlSample | GroundingSample | ChatSample) -> None:
        """Files of a video are looked for once; its samples are all bad where one is missing."""
        source = sample.frames
        label = source.label
        if label not in self._seen:
            self._seen[label] = source.missing()
            self.report.missing_frames += len(self._seen[label])
            if not self._seen[label]:
                self._open(sample)
        if self._seen[label]:
            missing = self._seen[label]
            raise sample.origin.error("frames", f"{missing[0]} is missing" + _more(len(missing) - 1))

    def _open(self, sample: RefVideoSample | TraceSample | RlSample | GroundingSample | ChatSample) -> None:
        stats = self.report.statistics
        try:
            height, width = sample.frames.size(0)
            stats.video_frames.append(len(sample.frames))
            if isinstance(sample.frames, ImageFrames):
                sample.frames.read([len(sample.frames) - 1])
        except VideoError as error:
            self._seen.pop(sample.frames.label)
            raise sample.origin.error("frames", error) from error
        stats.sizes[f"{width}x{height}"] += 1

    def _image(self, sample: RefImageSample | GcgSample) -> None:
        stats = self.report.statistics
        with sample.origin.naming("image"):
            height, width = image_size(sample.image)
        stats.sizes[f"{width}x{height}"] += 1
        if isinstance(sample, GcgSample):
            stats.query_words.append(len(sample.caption.split()))
            stats.targets.append(len(sample.phrases))
            self._count(sample.masks())
            return
        stats.targets.append(len(sample.targets))
        stats.query_words += [len(text.split()) for target in sample.targets for text in target.texts]
        self._count([sample.mask(target) for target in sample.targets])


def _more(count: int) -> str:
    return f" and {count} more of this video" if count else ""


def licence_line(dataset: str) -> str:
    """Where a dataset comes from and under what licence, in one line."""
    entry = info(dataset)
    licence = "licence not stated in our sources" if entry.licence == UNKNOWN else entry.licence
    return f"{entry.title}: {', '.join(entry.sources)}; {licence}"
