"""Budgets by difficulty, and the rater: asked once per sample, whatever the backend does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from r1_builders import ScriptedReasoner
from videoseg.errors import DatasetError, RemoteUnavailableError, UsageError
from videoseg.training.difficulty import AXES, parse_rating, question, rate, read_ratings
from videoseg.training.length import LengthControl, quantile_budgets, thresholds
from videoseg.training.prompts import Prompt

RATING = json.dumps({axis: 2 + number for number, axis in enumerate(AXES)})


@pytest.mark.parametrize(
    ("difficulty", "budget", "pixelthink"),
    [(1.0, 40, 96), (3.49, 40, 96), (3.5, 65, None), (4.9, 65, None), (5.0, 120, 256), (10.0, 120, 256)],
)
def test_the_bands(difficulty: float, budget: float, pixelthink: float | None) -> None:
    assert LengthControl().budget_of(difficulty) == budget
    assert LengthControl(budget="pixelthink").budget_of(difficulty) == pixelthink


def test_the_factor() -> None:
    control = LengthControl()
    assert control.factor("x", 40, 1) == 1
    assert control.factor("x", 90, 1) == pytest.approx(0.9)
    assert control.factor("x", 10**6, 1) == 0
    words = "a b " * 100
    assert LengthControl(budget="pixelthink").factor(words, 0, 1) == pytest.approx(1 - 0.002 * (200 - 96))
    assert LengthControl(budget="pixelthink").factor(words * 99, 0, 4) == 1


def test_budgets_and_bounds_from_what_was_seen() -> None:
    assert quantile_budgets(range(101)) == (25, 50, 90)
    assert thresholds([2.0] * 3 + [4.0] * 3 + [8.0] * 3) == (3.5, 5.0)
    low, high = thresholds(np.linspace(6, 9, 30).tolist())
    assert 6.9 < low < 7.1
    assert 7.9 < high < 8.1


@pytest.mark.parametrize("fields", [{"easy": 6.0}, {"beta": -1.0}, {"tokens": (-1.0, 2.0, 3.0)}])
def test_bad_settings_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        LengthControl(**fields)


@pytest.mark.parametrize(
    ("text", "mean"),
    [
        (RATING, 4.0),
        (f"```json\n{RATING}\n```", 4.0),
        (RATING.replace("2", "99"), None),
        ('{"scene_complexity": 3}', None),
        ("hard", None),
        ("{scene: 3}", None),
    ],
)
def test_ratings_are_read_and_cut(text: str, mean: float | None) -> None:
    found = parse_rating(text)
    if mean is None and found is not None:
        assert found[AXES[0]] == 10
    else:
        assert (None if found is None else sum(found.values()) / 5) == mean


def prompt(name: str) -> Prompt:
    frames = np.zeros((12, 8, 8, 3), np.uint8)
    mask = np.zeros((8, 8), bool)
    mask[2:5, 2:5] = True
    return Prompt(name, "the red one", frames, (8, 8), (True,) * 12, lambda index: mask)


def test_a_sample_is_rated_once(tmp_path: Path) -> None:
    path = tmp_path / "ratings.jsonl"
    first = ScriptedReasoner([[RATING], ["no"]])
    assert rate([prompt("a"), prompt("b")], first, path) == {"a": 4.0, "b": 3.0}
    again = ScriptedReasoner([[RATING.replace("2", "7")]])
    assert rate([prompt("a"), prompt("b")], again, path) == {"a": 4.0, "b": 5.0}
    assert len(again.asked) == 1
    assert read_ratings(path) == {"a": 4.0, "b": 5.0}
    observation, draw = first.asked[0]
    assert (len(observation.images), draw.temperature) == (10, 0)
    assert all(axis in question(prompt("a")).parts[0].text for axis in AXES)


def test_the_rater_sees_the_masks(tmp_path: Path) -> None:
    seen = []

    class Looking(ScriptedReasoner):
        def look(self, frames: Any, frame_size: tuple[int, int], preset: Any) -> ScriptedReasoner:
            seen.append(frames[0])
            return self

    rate([prompt("a")], Looking([[RATING]]), tmp_path / "r.jsonl")
    assert seen[0][3, 3].any()
    assert not seen[0][7, 7].any()


def test_an_endpoint_that_fails_leaves_the_sample_for_the_next_run(tmp_path: Path) -> None:
    class Failing(ScriptedReasoner):
        def ask(self, observation: Any, draw: Any) -> Any:
            raise RemoteUnavailableError("down")

    path = tmp_path / "r.jsonl"
    assert rate([prompt("a")], Failing([]), path) == {"a": 3.0}
    assert not path.exists()


def test_a_torn_last_line_is_left_out_and_another_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    good = json.dumps({"key": "a", **dict.fromkeys(AXES, 6)})
    path.write_text(good + '\n{"key": "b"')
    assert read_ratings(path) == {"a": 6.0}
    path.write_text('{"key": "b"\n' + good)
    with pytest.raises(DatasetError, match="line 1"):
        read_ratings(path)
