"""VTS-CoT builder: what was accepted, what was rejected and why, as numbers with examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

EXAMPLES = 3
Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Report:
    """The report's JSON; the same journal always gives the same report."""

    data: dict[str, Any]

    @property
    def accepted(self) -> int:
        """Samples with a dialogue."""
        return int(self.data["accepted"])

    @property
    def failed(self) -> int:
        """Samples that could not be asked."""
        return len(self.data["failed"])


def report(
    head: Record,
    numbers: range,
    records: Mapping[int, Record],
    failed: Mapping[int, str],
) -> Report:
    """Count the records of `numbers`; `head` says what the run is about.

    `reasons` counts the first finding of every rejected try; `rejected_after_all_tries` those of the last try
    of samples without a dialogue.
    """
    found = [records[number] for number in numbers if number in records]
    accepted = [record for record in found if record["written"]]
    lost = [record for record in found if record["tries"] and not record["written"]]
    return Report(
        {
            "run": head,
            "samples": len(numbers),
            "accepted": len(accepted),
            "accepted_by_try": _counts(len(record["tries"]) for record in accepted),
            "accepted_by_turns": _counts(record["tries"][-1]["requests"] for record in accepted),
            "rejected": len(lost),
            "rejected_after_all_tries": _counts(_first_reason(record["tries"][-1]) for record in lost),
            "reasons": _reasons(found),
            "skipped": _skips(found),
            "failed": {str(number): failed[number] for number in sorted(failed)},
            "cost": {
                name: _total(found, name) for name in ("requests", "prompt_tokens", "completion_tokens")
            },
        }
    )


def _first_reason(attempt: Record) -> str:
    return str(attempt["rejections"][0][0])


def _reasons(records: Iterable[Record]) -> dict[str, Any]:
    """Per reason: how many tries it ended, and a few examples."""
    found: dict[str, list[str]] = {}
    for record in records:
        for attempt in record["tries"]:
            if not attempt["accepted"]:
                reason, turn, detail = attempt["rejections"][0]
                found.setdefault(reason, []).append(f"{record['name']}, turn {turn}: {detail}")
    order = sorted(found, key=lambda reason: (-len(found[reason]), reason))
    return {reason: {"count": len(found[reason]), "examples": found[reason][:EXAMPLES]} for reason in order}


def _skips(records: Iterable[Record]) -> dict[str, Any]:
    found: dict[str, list[str]] = {}
    for record in records:
        if record["skipped"]:
            found.setdefault(record["skipped"], []).append(record["name"])
    return {
        reason: {"count": len(names), "examples": names[:EXAMPLES]} for reason, names in sorted(found.items())
    }


def _counts(values: Iterable[Any]) -> dict[str, int]:
    return {str(value): count for value, count in sorted(Counter(values).items())}


def _total(records: Iterable[Record], name: str) -> int:
    return sum(attempt[name] for record in records for attempt in record["tries"])
