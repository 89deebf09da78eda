"""Losses of the supervised stages (O3 specification §10, §11): assistant tokens, masks by BCE and Dice."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def token_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Cross-entropy `[N]` of `logits` `[N, V]` for the tokens `ids` `[N]` that they predict, in float32."""
    return F.cross_entropy(logits.float(), ids, reduction="none")


def group_means(values: Tensor, groups: Tensor, size: int) -> Tensor:
    """Mean of `values` `[N]` in each of `size` groups, `[size]`; 0 where a group is empty."""
    sums = values.new_zeros(size).index_add(0, groups, values)
    return sums / groups.bincount(minlength=size).clamp(min=1)


def per_dialogue(values: Tensor, segs: Tensor, seg_rows: Tensor, rows: int) -> Tensor:
    """Loss of masks: mean over dialogues of the mean over their [SEG]s of the mean over their frames (§11).

    `values` `[M]` belong to the [SEG]s `segs` `[M]`, these to the dialogues `seg_rows` `[N]` of `rows`. A
    dialogue without masks counts as 0, so that parts of a batch (micro-batches, processes) add up to it.
    """
    each = group_means(values, segs, len(seg_rows))
    used = segs.unique()
    return group_means(each[used], seg_rows[used], rows).mean()


def dice_loss(logits: Tensor, target: Tensor, smooth: float = 1.0) -> Tensor:
    """Dice loss per mask, `[N]`, of logits and targets in [0, 1] of shape `[N, ...]`."""
    probability, target = logits.float().sigmoid().flatten(1), target.flatten(1)
    overlap = 2 * (probability * target).sum(1) + smooth
    return 1 - overlap / (probability.sum(1) + target.sum(1) + smooth)


def bce_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy per mask, `[N]`, over all pixels or points of shape `[N, ...]`."""
    loss = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
    return loss.flatten(1).mean(1)


@torch.no_grad()
def uncertain_points(logits: Tensor, count: int, oversample: float = 3.0, importance: float = 0.75) -> Tensor:
    """Points to compare a mask at, `[N, count, 2]` as (x, y) in [0, 1] (O3 specification §10).

    A share `importance` of them are those of `oversample * count` random points where the `logits`
    `[N, h, w]` are nearest to 0; the rest is uniform.
    """
    random = torch.rand(len(logits), int(count * oversample), 2, device=logits.device)
    chosen = int(count * importance)
    doubt = -sample_points(logits, random).abs()
    best = doubt.topk(chosen, dim=1).indices
    picked = torch.gather(random, 1, best[..., None].expand(-1, -1, 2))
    rest = torch.rand(len(logits), count - chosen, 2, device=logits.device)
    return torch.cat([picked, rest], dim=1)


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Values `[N, P]` of maps `[N, h, w]` at points `[N, P, 2]` given as (x, y) in [0, 1], bilinear."""
    grid = (points * 2 - 1)[:, :, None]
    return F.grid_sample(maps[:, None].float(), grid, align_corners=False)[:, 0, :, 0]


def mask_loss(
    logits: Tensor, target: Tensor, *, points: int = 0, bce: float = 2.0, dice: float = 0.5
) -> Tensor:
    """Weighted BCE + Dice per mask, `[N]` (O3 specification §10).

    `logits` `[N, h, w]` are compared with `target` `[N, H, W]` in [0, 1] at the target's size, or at
    `points` uncertainty-sampled points if that is not 0.
    """
    if points:
        where = uncertain_points(logits, points)
        logits, target = sample_points(logits, where), sample_points(target, where)
    elif logits.shape[-2:] != target.shape[-2:]:
        size = (target.shape[-2], target.shape[-1])
        logits = F.interpolate(logits[:, None].float(), size, mode="bilinear", align_corners=False)[:, 0]
    return bce * bce_loss(logits, target) + dice * dice_loss(logits, target)


@torch.no_grad()
def mask_iou(logits: Tensor, target: Tensor) -> Tensor:
    """IoU per mask, `[N]`, of logits > 0 and target > 0.5 at the target's size; 1 where both are empty."""
    if logits.shape[-2:] != target.shape[-2:]:
        size = (target.shape[-2], target.shape[-1])
        logits = F.interpolate(logits[:, None].float(), size, mode="bilinear", align_corners=False)[:, 0]
    guess, truth = (logits > 0).flatten(1), (target > 0.5).flatten(1)
    union = (guess | truth).sum(1).float()
    return torch.where(union > 0, (guess & truth).sum(1) / union.clamp(min=1), torch.ones_like(union))
