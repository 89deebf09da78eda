"""Evaluation: a report as files: JSON with provenance (design contract 8), and the page made from it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from videoseg.errors import InputError, OutputError
from videoseg.evaluation.bootstrap import intervals
from videoseg.evaluation.facts import dialogue_summary
from videoseg.evaluation.page import report_page
from videoseg.evaluation.pictures import worst_pictures
from videoseg.evaluation.protocols import protocol
from videoseg.evaluation.published import beside
from videoseg.evaluation.scoring import Predictions, Report, Score
from videoseg.evaluation.truth import Item
from videoseg.machine import versions

FORMAT, VERSION = "videoseg-report", 1
PACKAGES = ("numpy", "scipy", "pycocotools", "pillow")
WORST, PER_VIDEO = 12, 2
LENGTHS = 4
"""Most stretches of length in the breakdown."""


@dataclass(frozen=True, slots=True)
class Run:
    """What was scored: where predictions and data are, and what is known of how the predictions were made."""

    split: str
    data: str = ""
    predictions: str = ""
    layout: str = ""
    unexpected: tuple[str, ...] = ()
    limit: int | None = None
    failures: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)


def to_json(report: Report, run: Run) -> dict[str, Any]:
    """The whole report, JSON-ready. Nothing outside `provenance` depends on how the work was divided."""
    body = report.to_json()
    table = protocol(report.benchmark, report.protocol)
    return {
        "format": FORMAT,
        "version": VERSION,
        "split": run.split,
        **body,
        "ci95": intervals(table, body["items"]),
        "breakdown": breakdown(report.scores),
        "worst": [score.name for score in worst(report.scores)],
        "dialogue": dialogue_summary(score.facts for score in report.scores),
        "limit": run.limit,
        "failures": dict(run.failures),
        "layout": run.layout,
        "unexpected": list(run.unexpected),
        "published": beside(report.benchmark, report.protocol, report.family, run.split),
        "provenance": {
            **versions(PACKAGES),
            "data": run.data,
            "predictions": run.predictions,
            **run.provenance,
        },
    }


def breakdown(scores: Sequence[Score]) -> dict[str, dict[str, dict[str, float]]]:
    """Number of items and mean J, F, J&F (percent) by group, by length in frames, and by turns."""
    parts: dict[str, dict[str, list[Score]]] = {
        "group": split_by(scores, lambda score: score.group),
        "length": by_length(scores),
        "turns": split_by([one for one in scores if one.turns], lambda score: str(score.turns)),
    }
    return {name: {label: means(found) for label, found in part.items()} for name, part in parts.items()}


def split_by(scores: Iterable[Score], label: Callable[[Score], str]) -> dict[str, list[Score]]:
    """Scores by label, labels sorted; nothing where there is but the empty label."""
    found: dict[str, list[Score]] = {}
    for score in scores:
        found.setdefault(label(score), []).append(score)
    return {} if set(found) <= {""} else dict(sorted(found.items()))


def by_length(scores: Sequence[Score]) -> dict[str, list[Score]]:
    """About equally many items in each stretch of lengths; nothing where all lengths are equal."""
    lengths = np.array([score.frames for score in scores])
    if len(set(lengths.tolist())) < 2:
        return {}
    shares = np.arange(1, LENGTHS) / LENGTHS
    edges = np.unique([lengths.min(), *np.quantile(lengths, shares, method="higher"), lengths.max() + 1])
    found = {}
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        inside = [score for score in scores if low <= score.frames < high]
        label = f"{low} frames" if high == low + 1 else f"{low} to {high - 1} frames"
        found[label] = inside
    return {label: inside for label, inside in found.items() if inside}


def means(scores: Sequence[Score]) -> dict[str, float]:
    """`n` and the mean J, F and J&F in percent."""
    j, f = (100 * float(np.mean([score.values[name] for score in scores])) for name in ("J", "F"))
    return {"n": len(scores), "J": j, "F": f, "JF": (j + f) / 2}


def worst(scores: Sequence[Score], count: int = WORST) -> list[Score]:
    """Lowest J&F among what was predicted, not more than two of a video."""
    taken: dict[str, int] = {}
    chosen: list[Score] = []
    readable = [score for score in scores if not score.missing and not score.problem]
    for score in sorted(readable, key=lambda one: (one.values["J"] + one.values["F"], one.name)):
        taken[score.key[0]] = taken.get(score.key[0], 0) + 1
        if taken[score.key[0]] <= PER_VIDEO and len(chosen) < count:
            chosen.append(score)
    return chosen


def write_report(
    out: Path | str, report: Report, items: Sequence[Item], predictions: Predictions, run: Run
) -> dict[str, Any]:
    """Write `report.json` and `report.html`; returns what the JSON holds. Raises `OutputError`."""
    folder, data = Path(out), to_json(report, run)
    shots = worst_pictures(worst(report.scores), items, predictions)
    write_files(folder, {"report.json": as_text(data), "report.html": report_page(data, shots)})
    return data


def as_text(data: Any) -> str:
    """JSON with one item a line, so that two reports can be compared by any tool; NaN is refused."""
    inner = {"items", "facts", "scores", "published", "failures", "malformed", "missing_frames"}
    parts = []
    for name, value in data.items():
        if name in inner and value:
            pairs = value.items() if isinstance(value, dict) else ((None, one) for one in value)
            lines = [(f"{json.dumps(key)}: " if key is not None else "") + _line(one) for key, one in pairs]
            ends = "{}" if isinstance(value, dict) else "[]"
            text = ends[0] + "\n  " + ",\n  ".join(lines) + "\n" + ends[1]
        else:
            text = _line(value)
        parts.append(f"{json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def write_files(folder: Path, texts: Mapping[str, str]) -> None:
    """Write files that appear whole; raises `OutputError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            partial = folder / f".{name}.partial"
            partial.write_text(text, encoding="utf-8")
            partial.replace(folder / name)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error}); check the folder") from error


def read_report(path: Path | str) -> dict[str, Any]:
    """A report from its file or folder (`.json` or `.json.gz`); raises `InputError` naming what is wrong."""
    source = Path(path)
    source = source / "report.json" if source.is_dir() else source
    try:
        raw = source.read_bytes()
        data = json.loads(gzip.decompress(raw) if source.suffix == ".gz" else raw)
    except FileNotFoundError as error:
        raise InputError(f"{source}: no such file; give a report of `videoseg eval` or `score`") from error
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{source}: cannot be read as a report ({error}); make it again") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT or data.get("version") != VERSION:
        raise InputError(f"{source}: not a report of this version; give report.json of `eval` or `score`")
    return data
