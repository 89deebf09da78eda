"""Presets and budgets: the published values, overrides, and refusal of what cannot be."""

from __future__ import annotations

import pickle

import pytest

from videoseg.dialogue.preset import COLD_START_BUDGET, DEFAULT, RELEASED, RL_BUDGET, Budget, preset
from videoseg.errors import UsageError
from videoseg.types import O3_ROLES


def test_published_budgets() -> None:
    published = Budget()
    assert (published.low_frames, published.high_frames, published.later_frames) == (20, 8, 5)
    assert [published.max_pixels(role) for role in O3_ROLES] == [25_088, 200_704, 401_408]
    assert (published.min_pixels, published.max_turns, published.max_new_tokens) == (3_136, 3, 1024)
    assert [RL_BUDGET.max_pixels(role) for role in O3_ROLES] == [25_088, 100_352, 200_704]
    assert (RL_BUDGET.low_frames, RL_BUDGET.high_frames, RL_BUDGET.max_new_tokens) == (10, 5, 512)
    assert [COLD_START_BUDGET.max_pixels(role) for role in O3_ROLES] == [25_088, 100_352, 401_408]
    assert DEFAULT.budget == RELEASED.budget == published


def test_overrides_reach_preset_and_budget() -> None:
    chosen = preset("released", index_style="plain", max_turns=1, later_frames=10)
    assert (chosen.index_style, chosen.budget.max_turns, chosen.budget.later_frames) == ("plain", 1, 10)
    assert chosen.resampling == "three_step"
    assert preset("default", budget=RL_BUDGET, max_turns=2).budget.low_frames == 10
    assert preset("default") == DEFAULT
    assert pickle.loads(pickle.dumps(chosen)) == chosen


@pytest.mark.parametrize(
    ("name", "overrides", "named"),
    [
        ("releasd", {}, "default, released"),
        ("default", {"max_turn": 3}, "max_turn;"),
        ("default", {"index_style": "numpy"}, "plain, numpy2"),
        ("default", {"budget": 3}, "budget"),
        ("default", {"question_newlines": 1}, "question_newlines"),
        ("default", {"max_turns": 0}, "max_turns"),
        ("default", {"low_frames": 2.5}, "low_frames"),
        ("default", {"high_pixels": 100}, "high_pixels"),
    ],
)
def test_mistakes_are_named(name: str, overrides: dict[str, object], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        preset(name, **overrides)
