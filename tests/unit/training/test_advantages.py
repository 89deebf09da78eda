"""Group advantages, refused groups, and the weights of tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from videoseg.errors import GroupError, UsageError
from videoseg.training.advantages import group_advantages, token_weights

PROMPTS = ["a", "a", "b", "b"]


def test_hand_case() -> None:
    found = group_advantages([1.0, 3.0, 2.0, 2.0], [0, 0, 1, 1], PROMPTS, 2)
    assert found.values.tolist() == pytest.approx([-1 / (2**0.5 + 1e-4), 1 / (2**0.5 + 1e-4), 0, 0])
    assert (found.groups, found.zero_variance) == (2, 1)
    assert found.values.dtype == torch.float32


def test_the_order_of_rollouts_is_free() -> None:
    found = group_advantages([1.0, 2.0, 3.0, 5.0], [7, 3, 7, 3], [("v", "a"), ("v", "b")] * 2, 2)
    straight = group_advantages([1.0, 3.0, 2.0, 5.0], [0, 0, 1, 1], PROMPTS, 2)
    assert found.values[[0, 2, 1, 3]].tolist() == straight.values.tolist()


@pytest.mark.parametrize(
    ("rewards", "groups", "prompts", "message"),
    [
        (
            [1, 2, 3, 4],
            [0, 0, 1, 1],
            ["a", "b", "b", "b"],
            "group 0 mixes prompts: rollout 0 .*'a'.* rollout 1",
        ),
        ([1, 2, 3, 4], [0, 1, 0, 1], PROMPTS, "mixes prompts"),
        ([1, 2, 3, 4], [0, 0, 0, 1], ["a"] * 4, "group 0 holds 3 rollouts instead of 2"),
        ([1, 2, 3], [0, 0, 1, 1], PROMPTS, "3 rewards, 4 group ids"),
        ([1, 2, float("nan"), 4], [0, 0, 1, 1], PROMPTS, "group 1, rollout 2: the reward is nan"),
    ],
)
def test_a_group_that_is_not_one_prompt_is_refused(
    rewards: list[float], groups: list[int], prompts: list[str], message: str
) -> None:
    with pytest.raises(GroupError, match=message):
        group_advantages(rewards, groups, prompts, 2)


def test_a_single_rollout_has_nothing_to_compare() -> None:
    with pytest.raises(UsageError, match="at least 2"):
        group_advantages([1.0], [0], ["a"], 1)


@given(st.lists(st.lists(st.floats(-6, 9), min_size=4, max_size=4), min_size=1, max_size=5))
def test_advantages_follow_the_formula(rewards: list[list[float]]) -> None:
    flat = np.array(rewards).reshape(-1)
    groups = [row // 4 for row in range(len(flat))]
    found = group_advantages(flat, groups, [str(group) for group in groups], 4)
    table = np.array(rewards)
    spread = table.std(axis=1, ddof=1, keepdims=True)
    wanted = (table - table.mean(axis=1, keepdims=True)) / (spread + 1e-4)
    assert np.allclose(found.values.reshape(-1, 4), wanted, atol=1e-4)
    assert found.zero_variance == int((np.ptp(table, axis=1) < 1e-8).sum())


ROWS = torch.tensor([0, 0, 0, 2, 2])


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        ("sequence", [1 / 9] * 3 + [1 / 6] * 2),
        ("token", [1 / 5] * 5),
        ("constant", [1 / 30] * 5),
    ],
)
def test_token_weights(mode: str, wanted: list[float]) -> None:
    weights = token_weights(ROWS, 3, mode, constant=10)  # type: ignore[arg-type]
    assert weights.tolist() == pytest.approx(wanted)


@pytest.mark.parametrize("mode", ["sequence", "token", "constant"])
def test_parts_of_a_batch_add_up(mode: str) -> None:
    values = torch.randn(5)
    whole = (token_weights(ROWS, 3, mode, constant=7) * values).sum()  # type: ignore[arg-type]
    totals = {"constant": 7, "total_rollouts": 3, "total_tokens": 5}
    first = (token_weights(ROWS[:3], 1, mode, **totals) * values[:3]).sum()  # type: ignore[arg-type]
    second = (token_weights(ROWS[3:] - 1, 2, mode, **totals) * values[3:]).sum()  # type: ignore[arg-type]
    assert float(first + second) == pytest.approx(float(whole), rel=1e-5)


def test_constant_needs_its_constant() -> None:
    with pytest.raises(UsageError, match="constant"):
        token_weights(ROWS, 3, "constant")


@pytest.mark.parametrize("mode", ["sequence", "token", "constant"])
def test_no_tokens_at_all(mode: str) -> None:
    assert token_weights(ROWS[:0], 3, mode, constant=1).shape == (0,)  # type: ignore[arg-type]


def test_hair_wide_differences_need_not_count_as_much_as_right_and_wrong() -> None:
    rewards = [1.0, 1.001, 0.0, 3.0]
    published, floored = (group_advantages(rewards, [0, 0, 1, 1], "aabb", 2, least) for least in (0.0, 1.0))
    assert published.values[1] == pytest.approx(0.62, abs=0.01)
    assert floored.values[1] == pytest.approx(0.0005, rel=1e-3)
    assert floored.values[2:].tolist() == published.values[2:].tolist(), "a larger spread is not touched"
    assert floored.zero_variance == 0


def test_what_is_added_to_the_spread_is_a_setting() -> None:
    """R1 adds 1e-6 (R1 specification §9 no. 19), so that a group that almost ties counts nearly in full."""
    o3, r1 = (group_advantages([0.0, 2e-5], [0, 0], "aa", 2, epsilon=each) for each in (1e-4, 1e-6))
    spread = 2e-5 / 2**0.5
    assert o3.values[1] == pytest.approx(1e-5 / (spread + 1e-4), rel=1e-4)
    assert r1.values[1] == pytest.approx(1e-5 / (spread + 1e-6), rel=1e-4)
