"""Learning rates over time."""

from __future__ import annotations

import math


def schedule(step: int, steps: int, warmup: int, final: float) -> float:
    """Share of the top rate: linear warm-up over `warmup` steps, on a cosine from 1 to `final` at `steps`."""
    rise = min(1.0, (step + 1) / max(1, warmup))
    return rise * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))))


def linear(step: int, steps: int, warmup: int = 0) -> float:
    """Share of the top rate: linear warm-up over `warmup` steps, on a line from 1 to 0 at `steps`."""
    return min(1.0, (step + 1) / max(1, warmup)) * max(0.0, 1 - step / steps)
