"""How a reward of stage III is declared, called and logged (O3 specification §12.6); no torch import.

A reward is a function with a name, a weight and a range. It takes one `Outcome` and returns a number, or it
takes all of them in TRL's signature `(completions, **kwargs) -> list[float]`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from videoseg.errors import RewardError

Completions = Literal["turns", "text", "messages"]
"""What `completions` holds per rollout: a list of turn texts, one text, or a list of chat messages."""
_SLACK = 1e-6
"""How far rounding may carry a value out of its range."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a finished rollout is judged by.

    `replies` are the texts of the assistant turns; `presence` tells per frame of the video whether the target
    is in it. Per turn, `mask_ious` are the IoUs on the high-resolution frames of turn 0 and `keyframe_ious`
    the IoU on the keyframe that was pending (§8.1), all in 0..1, and 0 if the turn has no [SEG]. `columns`
    is what else the sample knows (`query`, …), for functions of the user. Raises RewardError if the turns do
    not agree or an IoU is out of range.
    """

    replies: tuple[str, ...]
    presence: tuple[bool, ...]
    mask_ious: tuple[tuple[float, ...], ...]
    keyframe_ious: tuple[float, ...]
    columns: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        turns = len(self.replies)
        if not turns or len(self.mask_ious) != turns or len(self.keyframe_ious) != turns:
            raise RewardError(
                f"a rollout needs at least one turn and the IoUs of each, got {turns} replies, "
                f"{len(self.mask_ious)} mask_ious and {len(self.keyframe_ious)} keyframe_ious"
            )
        for turn, ious in enumerate(self.mask_ious):
            if not ious or not all(0 <= iou <= 1 for iou in (*ious, self.keyframe_ious[turn])):
                raise RewardError(
                    f"turn {turn}: expected IoUs in 0..1 on one or more frames and on the keyframe, "
                    f"got {list(ious)} and {self.keyframe_ious[turn]}"
                )


@dataclass(frozen=True, slots=True)
class Reward:
    """A reward function with its name, its range and its weight in the sum; made by `reward`."""

    name: str
    function: Callable[..., Any]
    low: float = -math.inf
    high: float = math.inf
    weight: float = 1.0
    completions: Completions = "turns"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function itself, as it was written."""
        return self.function(*args, **kwargs)

    def values(self, outcomes: Sequence[Outcome]) -> np.ndarray:
        """One unweighted value per outcome, float64 `[N]`; NaN where the function returned None.

        Raises RewardError unless it returned one finite number (or None) per outcome, within its range.
        """
        if is_trl_style(self.function):
            given = list(self.function(**_columns(outcomes, self.completions)))
        else:
            given = [self.function(outcome) for outcome in outcomes]
        if len(given) != len(outcomes):
            raise RewardError(
                f"reward {self.name!r} returned {len(given)} values for {len(outcomes)} rollouts"
            )
        return np.array([self._checked(index, value) for index, value in enumerate(given)], dtype=np.float64)

    def _checked(self, index: int, value: Any) -> float:
        if value is None:
            return math.nan
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            raise RewardError(f"reward {self.name!r}, rollout {index}: {value!r} is no number") from error
        if not math.isfinite(number) or not self.low - _SLACK <= number <= self.high + _SLACK:
            raise RewardError(
                f"reward {self.name!r}, rollout {index}: {number} is not within {self.low}..{self.high}; "
                "correct the function or the range it declares"
            )
        return number


def reward(
    name: str,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    weight: float = 1.0,
    completions: Completions = "turns",
) -> Callable[[Callable[..., Any]], Reward]:
    """Declare the decorated function a reward with values in `low`..`high`.

    It takes an `Outcome` and returns a number, or None where it does not apply. If it has a parameter named
    `completions`, it is called once for all rollouts in TRL's way, with keyword arguments that are lists of
    one entry per rollout: `completions` (in the form that this decorator's argument of that name says),
    `prompts`, `mask_existence`, `per_round_maskious`, `per_round_keyframe_ious` and each of `columns`.
    """
    return lambda function: Reward(name, function, low, high, weight, completions)


def is_trl_style(function: Callable[..., Any]) -> bool:
    """Whether `function` takes all rollouts at once, as TRL's reward functions do."""
    return "completions" in inspect.signature(function).parameters


def _columns(outcomes: Sequence[Outcome], form: Completions) -> dict[str, list[Any]]:
    names = sorted({name for outcome in outcomes for name in outcome.columns})
    columns = {name: [outcome.columns.get(name) for outcome in outcomes] for name in names}
    return columns | {
        "prompts": [outcome.columns.get("query", "") for outcome in outcomes],
        "completions": [_completion(outcome.replies, form) for outcome in outcomes],
        "mask_existence": [[int(present) for present in outcome.presence] for outcome in outcomes],
        "per_round_maskious": [[list(ious) for ious in outcome.mask_ious] for outcome in outcomes],
        "per_round_keyframe_ious": [list(outcome.keyframe_ious) for outcome in outcomes],
    }


def _completion(replies: Sequence[str], form: Completions) -> Any:
    if form == "text":
        return "\n".join(replies)
    if form == "messages":
        return [{"role": "assistant", "content": text} for text in replies]
    return list(replies)


@dataclass(frozen=True, eq=False, slots=True)
class Scores:
    """R rewards of N rollouts: `values` float64 `[R, N]` (NaN: does not apply), `weights` float64 `[R]`."""

    names: tuple[str, ...]
    weights: np.ndarray
    values: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """The weighted sum per rollout, float64 `[N]`; what does not apply counts nothing."""
        return self.weights @ np.nan_to_num(self.values, nan=0.0)

    def metrics(self) -> dict[str, float]:
        """Mean and spread (unbiased std, 0 for a single value) of each reward, unweighted, and of the sum.

        A reward that applied to no rollout is left out.
        """
        rows = dict(zip(self.names, self.values, strict=True))
        logged: dict[str, float] = {}
        for name, row in [(f"reward/{name}", row) for name, row in rows.items()] + [("reward", self.total)]:
            known = row[~np.isnan(row)]
            if known.size:
                logged[f"{name}/mean"] = float(known.mean())
                logged[f"{name}/std"] = float(known.std(ddof=1)) if known.size > 1 else 0.0
        return logged


def score(rewards: Sequence[Reward], outcomes: Sequence[Outcome]) -> Scores:
    """Judge every outcome by every reward. Raises RewardError as `Reward.values` does."""
    values = np.array([item.values(outcomes) for item in rewards], dtype=np.float64)
    weights = np.array([item.weight for item in rewards], dtype=np.float64)
    return Scores(tuple(item.name for item in rewards), weights, values.reshape(len(rewards), len(outcomes)))
