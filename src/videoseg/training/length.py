"""R1's length control: a budget of thinking tokens by difficulty, and its price (R1 spec §5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from videoseg.errors import UsageError

MISSING = 3.0
"""Difficulty of what nobody rated."""
LEAST_BAND = 0.15
PIXELTHINK = (96.0, None, 256.0)
"""PixelThink's budgets of the three bands; its term for uncertainty is left out."""


@dataclass(frozen=True)
class LengthControl:
    """Budgets of the bands easy (difficulty below `easy`), medium, and hard (from `hard` on).

    `budget` is `quantile` (`tokens` inside of the thought) or `pixelthink` (its literal budgets, in words of
    the whole reply). A token too many costs `beta` of the reward. `on_correct_only` spares replies without
    any accuracy; a thought of fewer than `min_think_tokens` counts as none. Raises UsageError.
    """

    budget: Literal["quantile", "pixelthink"] = "quantile"
    tokens: tuple[float, float, float] = (40.0, 65.0, 120.0)
    easy: float = 3.5
    hard: float = 5.0
    beta: float = 0.002
    on_correct_only: bool = False
    min_think_tokens: int = 0

    def __post_init__(self) -> None:
        if not self.easy <= self.hard or self.beta < 0 or min(self.tokens) < 0:
            raise UsageError("length: easy <= hard, and beta and tokens of at least 0 are needed")

    def budget_of(self, difficulty: float) -> float | None:
        """L(D); None: no limit."""
        band = 0 if difficulty < self.easy else 1 if difficulty < self.hard else 2
        return (PIXELTHINK if self.budget == "pixelthink" else self.tokens)[band]

    def factor(self, text: str, think_tokens: int, difficulty: float) -> float:
        """s of Eq. 7 for a reply, cut to [0, 1]."""
        used = len(text.split()) if self.budget == "pixelthink" else think_tokens
        budget = self.budget_of(difficulty)
        over = 0.0 if budget is None else max(0.0, used - budget)
        return max(0.0, 1.0 - self.beta * over)


def quantile_budgets(lengths: Sequence[int]) -> tuple[float, float, float]:
    """Budgets from the thoughts of a checkpoint trained without the term: their 25, 50 and 90 % quantiles."""
    if not lengths:
        raise UsageError("budgets need the lengths of some thoughts")
    easy, medium, hard = (float(value) for value in np.quantile(np.array(lengths), (0.25, 0.5, 0.9)))
    return easy, medium, hard


def thresholds(ratings: Sequence[float], easy: float = 3.5, hard: float = 5.0) -> tuple[float, float]:
    """Bounds of the bands: those given, or terciles where a band would hold less than 15 % (§9 no. 15)."""
    values = np.array(ratings, dtype=float)
    shares = [(values < easy).mean(), ((values >= easy) & (values < hard)).mean(), (values >= hard).mean()]
    if min(shares) >= LEAST_BAND:
        return easy, hard
    low, high = (float(value) for value in np.quantile(values, (1 / 3, 2 / 3)))
    return low, high
