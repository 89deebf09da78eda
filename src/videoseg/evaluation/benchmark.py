"""Evaluation: one call from items and predictions to a report, whatever the protocol (benchmarks §5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from videoseg.evaluation.labelmap import score_labelmaps
from videoseg.evaluation.protocols import Protocol
from videoseg.evaluation.scoring import Predictions, Report, score
from videoseg.evaluation.truth import Item


def evaluate(
    table: Protocol,
    items: Sequence[Item],
    predictions: Predictions,
    *,
    folder: Path | str,
    split: str | None = None,
    processes: int = 1,
    lenient: bool = False,
    allow_counts: bool = False,
) -> Report:
    """Score `items` of the dataset in `folder` by the protocol's table.

    `split` None is the protocol's own; the published counts of videos and expressions are checked. Raises
    as `scoring.score` does.
    """
    chosen = split or table.split
    if table.family == "labelmap":
        pictures = Path(folder) / chosen / "Annotations"
        run: Callable[..., Report] = partial(score_labelmaps, table, items, pictures, predictions)
    else:
        run = partial(score, table, items, predictions)
    return run(processes=processes, lenient=lenient, split=chosen, allow_counts=allow_counts)
