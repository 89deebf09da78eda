"""SEG-aware calibration of O3: masks enter the policy gradient at the [SEG] tokens (specification §12.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from videoseg.errors import AlignmentError, UsageError


@dataclass(frozen=True, slots=True)
class Calibration:
    """Settings: `weight` of m; `reduction` over the `grid`² pixels; logits above `threshold` count as mask.

    The release uses a threshold of 0.5 (on logits); everywhere else masks are cut at 0, as here.
    """

    weight: float = 1.0
    reduction: Literal["mean", "sum"] = "mean"
    threshold: float = 0.0
    grid: int = 32

    def __post_init__(self) -> None:
        if self.grid < 1 or self.reduction not in ("mean", "sum"):
            raise UsageError(f"calibration needs a grid of at least 1 and reduction mean or sum, got {self}")


RELEASED = Calibration(threshold=0.5)


@dataclass(frozen=True, eq=False, slots=True)
class TurnMasks:
    """The `count` [SEG] of a turn and their keyframe masks as logits `[count, H, W]`; None if missing.

    `policy` carries gradients, `rollout` is what was sampled.
    """

    count: int
    policy: Tensor | None = None
    rollout: Tensor | None = None


def mask_log_likelihood(policy: Tensor, rollout: Tensor, settings: Calibration) -> Tensor:
    """m per mask, float32 `[C]`: how likely the policy's logits `[C, H, W]` make the rollout's own mask.

    The rollout's logits `[C, h, w]` are cut at the threshold and give no gradient.
    """
    target = (_to_grid(rollout.detach(), settings.grid) > settings.threshold).float()
    loss = F.binary_cross_entropy_with_logits(_to_grid(policy, settings.grid), target, reduction="none")
    per_mask = -loss.flatten(1)
    return per_mask.mean(1) if settings.reduction == "mean" else per_mask.sum(1)


def dialogue_values(
    turns: Sequence[TurnMasks],
    settings: Calibration,
    *,
    mismatch: Literal["raise", "zero"] = "raise",
    rollout: int = 0,
) -> Tensor:
    """m of every [SEG] of a dialogue in order, float32 `[sum of counts]`; 0 where a mask is missing.

    A turn with another number of masks than [SEG] raises AlignmentError, naming turn and `rollout`, or with
    `mismatch="zero"` gives 0, as in the release.
    """
    parts = [_turn_values(turn, settings, mismatch, (rollout, index)) for index, turn in enumerate(turns)]
    device = next((turn.policy.device for turn in turns if turn.policy is not None), None)
    return torch.cat([part.to(device) for part in parts]) if parts else torch.zeros(0)


def calibration_term(
    is_seg: Tensor, rows: Tensor, turns: Tensor, masks: Sequence[Sequence[TurnMasks]], settings: Calibration
) -> Tensor:
    """What is added to the log-probabilities of P trained tokens, float32 `[P]`: weight · m at [SEG], else 0.

    Token p lies in rollout `rows[p]` and turn `turns[p]`; `is_seg[p]` marks a [SEG] that counts (see
    `last_seg_of_turn`); `masks[i][t]` belongs to turn t of rollout i. Raises AlignmentError if a turn's
    marked [SEG] and its `count`, or its masks, do not agree.
    """
    device = is_seg.device
    places, values = [torch.zeros(0, dtype=torch.long, device=device)], [torch.zeros(0, device=device)]
    for row, dialogue in enumerate(masks):
        for turn, given in enumerate(dialogue):
            places.append((is_seg & (rows == row) & (turns == turn)).nonzero()[:, 0])
            if len(places[-1]) != given.count:
                raise AlignmentError(
                    f"rollout {row}, turn {turn}: {len(places[-1])} [SEG] tokens, but masks for {given.count}"
                )
        values.append(dialogue_values(dialogue, settings, rollout=row).to(device))
    place, value = torch.cat(places), torch.cat(values)
    if len(place) != int(is_seg.sum()):
        raise AlignmentError(f"{int(is_seg.sum())} [SEG] tokens in all, but masks for {len(place)}")
    return torch.zeros(len(is_seg), device=device).index_put((place,), settings.weight * value)


def last_seg_of_turn(is_seg: Tensor, rows: Tensor, turns: Tensor) -> Tensor:
    """Of the [SEG] tokens bool `[P]` only the last of each turn, whose mask is decoded (§16 no. 15)."""
    kept = torch.zeros_like(is_seg)
    last = {(int(rows[p]), int(turns[p])): p for p in is_seg.nonzero()[:, 0].tolist()}
    kept[list(last.values())] = True
    return kept


def _turn_values(turn: TurnMasks, settings: Calibration, mismatch: str, where: tuple[int, int]) -> Tensor:
    if turn.policy is None or turn.rollout is None:
        return torch.zeros(turn.count)
    if len(turn.policy) == len(turn.rollout) == turn.count:
        return mask_log_likelihood(turn.policy, turn.rollout, settings) if turn.count else torch.zeros(0)
    if mismatch == "zero":
        return torch.zeros(turn.count)
    raise AlignmentError(
        f"rollout {where[0]}, turn {where[1]}: {turn.count} [SEG] tokens, but {len(turn.policy)} masks of "
        f"the policy and {len(turn.rollout)} of the rollout"
    )


def _to_grid(logits: Tensor, grid: int) -> Tensor:
    """Logits `[C, H, W]` resized to `[C, grid, grid]`, bilinear, in float32."""
    return F.interpolate(logits[:, None].float(), (grid, grid), mode="bilinear", align_corners=False)[:, 0]
