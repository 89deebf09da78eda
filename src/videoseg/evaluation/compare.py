"""Evaluation: two reports of one benchmark against each other, with paired bootstrap intervals.

Both runs are averaged over the same draws of videos (or items), so what makes a video hard for both
cancels out of the difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from videoseg.errors import UsageError
from videoseg.evaluation.bootstrap import (
    COLUMNS,
    DRAWS,
    SEED,
    FloatArray,
    Over,
    counted,
    draws,
    groups_of,
    interval,
    percentages,
)
from videoseg.evaluation.protocols import Protocol, protocol

FORMAT, VERSION = "videoseg-comparison", 1
SAME = ("benchmark", "protocol", "family", "split")
CHANGED = 12
Report = Mapping[str, Any]


def require_same(first: Report, second: Report) -> None:
    """Raises `UsageError` where two reports are not of the same items under the same rules."""
    for field in SAME:
        if first[field] != second[field]:
            raise UsageError(
                f"the reports differ in {field}: {first[field]} and {second[field]}; only scores of one "
                "benchmark, split and protocol can be compared"
            )
    alone = [sorted(set(a["items"]) - set(b["items"])) for a, b in ((first, second), (second, first))]
    if any(alone):
        names = ", ".join((alone[0] or alone[1])[:3])
        raise UsageError(
            f"the reports are of different items: {len(alone[0]):,} only in the first, {len(alone[1]):,} "
            f"only in the second (such as {names}); score both on the same data"
        )


def compare(
    first: Report,
    second: Report,
    *,
    over: Over = "videos",
    names: Sequence[str] = ("A", "B"),
    count: int = DRAWS,
) -> dict[str, Any]:
    """The comparison from `count` draws, JSON-ready: second minus first, percent.

    Raises `UsageError` as `require_same` does.
    """
    require_same(first, second)
    table = protocol(first["benchmark"], first["protocol"])
    items = counted(table, first["items"])
    values = [percentages(table, report["items"], items) for report in (first, second)]
    groups = {
        group: [place for place, name in enumerate(items) if first["items"][name]["group"] == group]
        for group in groups_of(table)
    }
    parts = {group: rows for group, rows in groups.items() if rows} if len(groups) > 1 else {}
    picked = {**parts, "overall": list(range(len(items)))}
    return {
        "format": FORMAT,
        "version": VERSION,
        **{field: first[field] for field in SAME},
        "names": list(names),
        "provenance": [dict(report["provenance"]) for report in (first, second)],
        "over": over,
        "draws": count,
        "seed": SEED,
        "n": len(items),
        "scores": {
            label: difference(table, first["items"], [items[row] for row in rows], values, rows, over, count)
            for label, rows in picked.items()
        },
        **changes(first["items"], items, values[0][:, 2], values[1][:, 2]),
    }


def difference(
    table: Protocol,
    items: Mapping[str, Any],
    names: Sequence[str],
    values: Sequence[FloatArray],
    rows: Sequence[int],
    over: Over,
    count: int,
) -> dict[str, Any]:
    """Both scores by metric, their difference, its 95 % interval, and the share of draws above 0."""
    both = np.concatenate([one[list(rows)] for one in values], axis=1)
    found, means = draws(table, items, names, both, over=over, count=count), whole(table, items, names, both)
    width = len(COLUMNS)
    return {
        name: {
            "a": float(means[place]),
            "b": float(means[width + place]),
            "difference": float(means[width + place] - means[place]),
            "ci95": interval(found[:, width + place] - found[:, place]),
            "share_above_0": float(np.mean(found[:, width + place] > found[:, place])),
        }
        for place, name in enumerate(COLUMNS)
    }


def whole(table: Protocol, items: Mapping[str, Any], names: Sequence[str], columns: FloatArray) -> FloatArray:
    """The overall of `columns` over all items, averaged as the protocol does."""
    if table.overall != "groups" and table.family != "labelmap":
        return np.asarray(columns.mean(axis=0))
    label = np.array([items[name]["group"] for name in names])
    return np.asarray(np.mean([columns[label == one].mean(axis=0) for one in dict.fromkeys(label)], axis=0))


def changes(items: Mapping[str, Any], names: Sequence[str], a: FloatArray, b: FloatArray) -> dict[str, Any]:
    """How many items became better and worse, the J&F of all, and those that changed the most."""
    gain = b - a
    order = np.argsort(-np.abs(gain), kind="stable")
    return {
        "items": {
            "better": int((gain > 0).sum()),
            "equal": int((gain == 0).sum()),
            "worse": int((gain < 0).sum()),
        },
        "pairs": [[round(float(x), 3), round(float(y), 3)] for x, y in zip(a, b, strict=True)],
        "changed": [
            {"name": names[row], "text": items[names[row]]["text"], "a": float(a[row]), "b": float(b[row])}
            for row in order[:CHANGED].tolist()
            if gain[row] != 0
        ],
    }
