"""Advantages of a group of rollouts, and how much each token counts in the loss (O3 specification §12.3)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from videoseg.errors import GroupError, UsageError

Normalisation = Literal["sequence", "token", "constant"]
EPSILON = 1e-4
"""Added to the spread of a group's rewards (O3's; R1's is 1e-6)."""
_EQUAL = 1e-8
"""Rewards of a group that differ by less say nothing; rounding is smaller."""


@dataclass(frozen=True, eq=False, slots=True)
class Advantages:
    """`values` float32 `[N]`; how many `groups` there were, and how many of them had equal rewards."""

    values: Tensor
    groups: int
    zero_variance: int


def group_advantages(
    rewards: Sequence[float] | np.ndarray | Tensor,
    groups: Sequence[int],
    prompts: Sequence[Hashable],
    size: int,
    least_spread: float = 0.0,
    epsilon: float = EPSILON,
) -> Advantages:
    """(R − mean) / (std + epsilon) within each group, unbiased std (§12.3); 0 in groups of equal rewards.

    `least_spread` is what a smaller std counts as. With 0, as published, rewards that differ by a hair weigh
    as much as right and wrong; with continuous rewards that is noise once a policy is sure of itself.

    Rollout i belongs to group `groups[i]` and answers `prompts[i]` (whatever identifies video and query);
    the order is free. Raises UsageError if `size` < 2, and GroupError unless every group holds `size`
    rollouts of one prompt with finite rewards.
    """
    if size < 2:
        raise UsageError(f"a group needs at least 2 rollouts to compare, got {size}")
    numbers = torch.as_tensor(rewards, dtype=torch.float64)
    if not len(numbers) == len(groups) == len(prompts):
        raise GroupError(f"{len(numbers)} rewards, {len(groups)} group ids and {len(prompts)} prompts")
    members = _members(groups)
    values = torch.zeros_like(numbers)
    zero_variance = 0
    for group, rows in members.items():
        _check_group(group, rows, prompts, numbers, size)
        inside = numbers[rows]
        if inside.max() - inside.min() < _EQUAL:
            zero_variance += 1
        else:
            spread = inside.std().clamp_min(least_spread)
            values[rows] = (inside - inside.mean()) / (spread + epsilon)
    return Advantages(values.float(), len(members), zero_variance)


def _members(groups: Sequence[int]) -> dict[int, list[int]]:
    members: dict[int, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(int(group), []).append(row)
    return members


def _check_group(
    group: int, rows: list[int], prompts: Sequence[Hashable], rewards: Tensor, size: int
) -> None:
    if len(rows) != size:
        raise GroupError(f"group {group} holds {len(rows)} rollouts instead of {size}")
    for row in rows:
        if prompts[row] != prompts[rows[0]]:
            raise GroupError(
                f"group {group} mixes prompts: rollout {rows[0]} answers {prompts[rows[0]]!r}, "
                f"rollout {row} answers {prompts[row]!r}; rollouts of one group must share one prompt"
            )
        if not torch.isfinite(rewards[row]):
            raise GroupError(f"group {group}, rollout {row}: the reward is {float(rewards[row])}")


def token_weights(
    rows: Tensor,
    rollouts: int,
    mode: Normalisation = "sequence",
    *,
    constant: float | None = None,
    total_rollouts: int | None = None,
    total_tokens: int | None = None,
) -> Tensor:
    """What each trained token counts in the loss, float32 `[P]`, so that the loss is a weighted sum.

    `rows` int64 `[P]` names the rollout (0..`rollouts` − 1) of each token. `sequence` (the default, as in
    the release): mean over the tokens of a rollout, then over rollouts. `token`: mean over all tokens.
    `constant`: sum over tokens divided by `constant` (say, the token limit), then mean over rollouts. When
    this is a part of a larger batch, the totals are those of the whole batch, so that parts add up.
    Raises UsageError on `constant` mode without a positive `constant`.
    """
    ones = torch.ones(len(rows), device=rows.device)
    count = total_rollouts or rollouts
    if mode == "sequence":
        lengths = torch.zeros(rollouts, device=rows.device).index_add(0, rows, ones)
        return ones / (lengths[rows] * count)
    if mode == "token":
        return ones / (total_tokens or max(1, len(rows)))
    if constant is None or constant <= 0:
        raise UsageError("normalisation `constant` needs a positive `constant`, such as the token limit")
    return ones / (constant * count)
