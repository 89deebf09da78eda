"""R1's rewards against VisionReasoner's: equal wherever its listed faults do not apply (R1 spec §4)."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

from videoseg.dialogue.cues import numbers
from videoseg.dialogue.grammar import thought
from videoseg.training.rewards import r1
from videoseg.training.rewards.r1 import SceneTruth

pytestmark = pytest.mark.parity
ANCESTOR_KEYS = ("bbox_2d", "point_2d")


@pytest.fixture(scope="module")
def cases(golden: Any) -> list[dict[str, Any]]:
    text = (golden("vision_reasoner_rewards") / "cases.json").read_text()
    found: list[dict[str, Any]] = json.loads(text)["cases"]
    return found


def truth_of(text: str) -> SceneTruth | None:
    """The ground truth of a case; None where it is broken, which our readers refuse."""
    try:
        items = json.loads(text)
        boxes = np.array([item["bbox_2d"] for item in items], dtype=float).reshape(-1, 4)
        return SceneTruth(boxes, np.array([item["point_2d"] for item in items], dtype=float).reshape(-1, 2))
    except (ValueError, TypeError, KeyError):
        return None


def test_format(cases: list[dict[str, Any]]) -> None:
    for case in cases:
        text = case["prediction"]
        value = r1.think_format(text) + r1.seg_format(text, ANCESTOR_KEYS)
        assert value == pytest.approx(case["format"], abs=1e-9), case["id"]


def test_accuracy(cases: list[dict[str, Any]]) -> None:
    compared = 0
    for case in cases:
        truth = truth_of(case["ground_truth"])
        if truth is None:
            assert case["accuracy"] == 0, case["id"]
            continue
        items = r1._items(case["prediction"])
        value = r1.accuracy(case["prediction"], truth)
        if all(numbers(item, "bbox_2d", 4) and numbers(item, "point_2d", 2) for item in items):
            assert value == pytest.approx(case["accuracy"], abs=1e-9), case["id"]
            compared += 1
        else:  # the fault: one incomplete object zeroes all
            assert case["accuracy"] == 0, case["id"]
            assert value >= 0
    assert compared > len(cases) / 2


def test_non_repeat(cases: list[dict[str, Any]]) -> None:
    """The fault there: all pieces between dots are sentences, those of the answer's coordinates too."""
    compared = 0
    for case in cases:
        text = case["prediction"]
        pieces, think = text.split("."), thought(text) or ""
        assert (r1.repeats(pieces) < 2) == bool(case["non_repeat"]), case["id"]  # the same counting
        only_plain_dots = re.search(r"\.(?![\s.]|$)|[!?]", think) is None
        if only_plain_dots and r1.repeats(think.split(".")) == r1.repeats(pieces):
            assert r1.non_repeat(text) == case["non_repeat"], case["id"]
            compared += 1
    assert compared > len(cases) / 4
