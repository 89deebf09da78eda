"""Draws the logged numbers of training runs, one after the other, into one picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from videoseg.errors import InputError, UsageError


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`; of a step that was logged twice (a resumed run) the later one counts.

    Raises InputError naming the line that is not JSON, or a file that cannot be read.
    """
    found: dict[int, dict[str, Any]] = {}
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            found[int(record["step"])] = record
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}, line {number}: no record of a training step ({error})") from error
    return [found[step] for step in sorted(found)]


def plot_runs(runs: Sequence[tuple[str, Path]], names: Sequence[str], out: Path) -> Path:
    """One panel per number in `names`; the runs, given as (label, metrics.jsonl), follow each other.

    Needs matplotlib (the extra `train`); raises UsageError without it.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("curves need matplotlib; pip install 'videoseg[train]'") from error
    figure = Figure(figsize=(4 * len(names), 3), layout="constrained")
    for panel, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        start = 0
        for label, path in runs:
            records = read_records(path)
            steps = [start + record["step"] for record in records if name in record]
            panel.plot(
                steps, [record[name] for record in records if name in record], label=label, linewidth=0.8
            )
            start += records[-1]["step"] + 1 if records else 0
        panel.set_title(name)
        panel.set_xlabel("step")
        panel.grid(alpha=0.3)
    panel.legend(fontsize="small")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=100)
    return out
