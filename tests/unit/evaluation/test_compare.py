"""Comparison of two reports: differences, paired intervals, refusals, page."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from videoseg.errors import UsageError
from videoseg.evaluation.compare import compare
from videoseg.evaluation.page import comparison_page

GROUPS = ("long", "short")


def report(seed: int, shift: float = 0.0, count: int = 200, **more: Any) -> dict[str, Any]:
    """Items whose difficulty is the same in all reports of one seed."""
    hard = np.random.default_rng(seed).random(count)
    items = {
        f"v{n // 2}/{n % 2}": {
            "J": float(np.clip(hard[n] + shift, 0, 1)),
            "F": float(hard[n]),
            "group": GROUPS[n % 2],
            "video": f"v{n // 2}",
            "text": f"<b>query {n}</b>",
        }
        for n in range(count)
    }
    head = {"benchmark": "ref-sav", "protocol": "official", "family": "per_expression", "split": "valid"}
    return {**head, "items": items, "provenance": {"model": "x", "seed": seed}, **more}


def test_pairing_finds_a_small_gain_that_single_intervals_would_drown() -> None:
    found = compare(report(0), report(0, shift=0.02))
    overall = found["scores"]["overall"]
    assert overall["J"]["difference"] == pytest.approx(2, abs=0.1)
    low, high = overall["J"]["ci95"]
    assert 1.8 < low < overall["J"]["difference"] < high < 2.1
    assert overall["J"]["share_above_0"] == 1.0
    assert overall["F"] == {
        "a": overall["F"]["a"], "b": overall["F"]["a"], "difference": 0, "ci95": [0, 0], "share_above_0": 0
    }  # fmt: skip
    assert overall["JF"]["difference"] == pytest.approx(overall["J"]["difference"] / 2)
    assert set(found["scores"]) == {"long", "short", "overall"}


def test_unrelated_runs_differ_by_chance_only() -> None:
    """Of 40 pairs about two intervals should miss 0."""
    outside = 0
    for seed in range(40):
        low, high = compare(report(seed), report(seed + 1000), count=400)["scores"]["overall"]["JF"]["ci95"]
        outside += not low <= 0 <= high
    assert outside <= 6


def test_whole_videos_are_drawn_unless_asked_otherwise() -> None:
    """Items of a video go together here, so drawing items makes the interval too narrow."""
    first, second = report(0), report(0)
    gain = np.random.default_rng(5).normal(0, 0.2, 100)
    for n, item in enumerate(second["items"].values()):
        item["F"] = float(np.clip(item["F"] + gain[n // 2], 0, 1))
    width = {}
    for over in ("videos", "items"):
        low, high = compare(first, second, over=over, count=2000)["scores"]["overall"]["F"]["ci95"]
        width[over] = high - low
    assert 1.25 < width["videos"] / width["items"] < 1.6, "about the square root of 2"


def test_the_same_reports_give_the_same_comparison() -> None:
    assert compare(report(0), report(3), count=50) == compare(report(0), report(3), count=50)


def test_changes_are_listed_largest_first() -> None:
    first, second = report(0, count=4), report(0, count=4)
    second["items"]["v1/0"]["J"] = 1 - first["items"]["v1/0"]["J"]
    found = compare(first, second)
    assert [row["name"] for row in found["changed"]] == ["v1/0"]
    assert sorted(found["items"].values()) == [0, 1, 3]
    assert len(found["pairs"]) == 4


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (report(0, protocol="o3"), "differ in protocol: official and o3"),
        (report(0, split="test"), "differ in split: valid and test"),
        (report(0, benchmark="revos"), "differ in benchmark"),
        (report(0, count=198), r"different items: 2 only in the first, 0 only in the second \(such as v99/0"),
    ],
)
def test_what_cannot_be_compared(second: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compare(report(0), second)


def test_the_page_shows_every_group_and_escapes_queries() -> None:
    page = comparison_page(compare(report(0), report(1), names=("before", "after")))
    for text in ("Ref-SAV", "after", "before", "long", "short", "overall", "&lt;b&gt;query"):
        assert text in page, text
    assert "<b>query" not in page
    assert page.count("<circle") == 200
