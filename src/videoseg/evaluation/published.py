"""Evaluation: numbers that others published, with their sources, and where they cannot be compared (§7).

`published.json` holds one row per system, benchmark and group. Null for split, protocol or family: the
source does not state it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
FAMILIES = {"labelmap": "with label maps", "per_expression": "expression by expression"}


@lru_cache(maxsize=1)
def rows() -> tuple[Row, ...]:
    """All rows: system, benchmark, split, protocol, family, group, some of JF, J, F (percent), source."""
    return tuple(json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8")))


def beside(
    benchmark: str, protocol: str, family: str, split: str, *, ablations: bool = False
) -> list[dict[str, Any]]:
    """Rows of a benchmark, comparable ones first, each with `differs`: why not, "" where they can be."""
    chosen = [row for row in rows() if row["benchmark"] == benchmark]
    marked = [
        {**row, "differs": difference(row, protocol, family, split)}
        for row in chosen
        if ablations or not row.get("ablation")
    ]
    return sorted(marked, key=lambda row: (bool(row["differs"]), row["group"] != "overall", -row["JF"]))


def difference(row: Row, protocol: str, family: str, split: str) -> str:
    """What keeps a published row from being compared with a score, in words."""
    reasons = []
    if row["family"] != family:
        other = row["family"]
        reasons.append(f"scored {FAMILIES[other]}" if other else "way of scoring not stated")
    if row["split"] != split:
        reasons.append(f"split {row['split']}" if row["split"] else "split not stated")
    if row["benchmark"] == "long-rvos" and row["protocol"] != protocol:
        reasons.append(f"protocol {row['protocol']}")
    if row["benchmark"] == "reasonvos" and row["protocol"] != protocol:
        reasons.append(f"protocol {row['protocol']}: other frames")
    return "; ".join(reasons)
