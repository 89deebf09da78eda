"""Evaluation: bootstrap intervals of a protocol's overall scores, single and paired, over videos or items.

A draw takes as many videos (or items) as there are, with replacement, and averages as the protocol does:
rounding of items, groups, mean of groups. Queries of one video are not independent, so videos are drawn
unless asked otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from videoseg.evaluation.protocols import Protocol

Over = Literal["videos", "items"]
Items = Mapping[str, Mapping[str, Any]]
FloatArray = NDArray[np.float64]
COLUMNS = ("J", "F", "JF")
DRAWS, BLOCK, SEED = 10_000, 500, 0


def counted(table: Protocol, items: Items) -> list[str]:
    """Names of the items that enter the overall mean."""
    groups = groups_of(table)
    return [name for name, item in items.items() if not groups or item["group"] in groups]


def groups_of(table: Protocol) -> tuple[str, ...]:
    """The groups that items belong to; for label maps the four text sources."""
    return tuple(f"anno_{source}" for source in range(4)) if table.family == "labelmap" else table.groups


def percentages(table: Protocol, items: Items, names: Sequence[str]) -> FloatArray:
    """J, F and J&F of items, float64 [N, 3] in percent, rounded where the protocol does."""
    values = 100 * np.array([[items[name]["J"], items[name]["F"]] for name in names], dtype=np.float64)
    if table.decimals is not None:
        values = np.round(values, table.decimals)
    return np.column_stack([values, values.mean(axis=1)])


def draws(
    table: Protocol,
    items: Items,
    names: Sequence[str],
    columns: FloatArray,
    *,
    over: Over = "videos",
    count: int = DRAWS,
    seed: int = SEED,
) -> FloatArray:
    """The overall of `columns` [N, M] in every draw, float64 [count, M]; the same seed draws the same."""
    unit = _numbers([items[name]["video"] if over == "videos" else name for name in names])
    macro = table.overall == "groups" or table.family == "labelmap"
    group = _numbers([items[name]["group"] if macro else "" for name in names])
    units, groups, width = unit.max() + 1, group.max() + 1, columns.shape[1]
    sums, sizes = np.zeros((units, groups, width)), np.zeros((units, groups))
    np.add.at(sums, (unit, group), columns)
    np.add.at(sizes, (unit, group), 1.0)
    generator, means = np.random.default_rng(seed), []
    for start in range(0, count, BLOCK):
        rows = min(BLOCK, count - start)
        picked = generator.integers(0, units, (rows, units)) + units * np.arange(rows)[:, None]
        weights = np.bincount(picked.ravel(), minlength=rows * units).reshape(rows, units).astype(np.float64)
        total = (weights @ sums.reshape(units, -1)).reshape(-1, groups, width)
        number = (weights @ sizes)[..., None]
        mean = np.divide(total, number, out=np.zeros_like(total), where=number > 0)
        # A group that a draw misses takes no part in that draw's mean.
        means.append(mean.sum(axis=1) / np.maximum(1, (number > 0).sum(axis=1)))
    return np.concatenate(means)


def _numbers(texts: Sequence[str]) -> NDArray[np.int64]:
    order = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    return np.array([order[text] for text in texts], dtype=np.int64)


def interval(values: FloatArray, level: float = 0.95) -> list[float]:
    """Ends of the central interval of drawn values."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return [float(low), float(high)]


def intervals(table: Protocol, items: Items, over: Over = "videos") -> dict[str, list[float]]:
    """95 % interval of the overall J, F and J&F; empty where there is but one video (or item) to draw."""
    names = counted(table, items)
    if len({items[name]["video"] if over == "videos" else name for name in names}) < 2:
        return {}
    found = draws(table, items, names, percentages(table, items, names), over=over)
    return {name: interval(found[:, place]) for place, name in enumerate(COLUMNS)}
