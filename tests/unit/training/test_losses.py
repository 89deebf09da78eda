"""Losses on cases that can be computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from videoseg.training.losses import (
    bce_loss,
    dice_loss,
    mask_iou,
    mask_loss,
    sample_points,
    token_loss,
    uncertain_points,
)
from videoseg.training.schedule import schedule


def test_token_loss_of_a_uniform_guess() -> None:
    assert token_loss(torch.zeros(3, 8), torch.tensor([1, 2, 3])).tolist() == pytest.approx([math.log(8)] * 3)


def test_bce_and_dice() -> None:
    target = torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]]])
    assert bce_loss(torch.zeros(2, 1, 2), target).tolist() == pytest.approx([math.log(2)] * 2)
    assert dice_loss(torch.zeros(2, 1, 2), target).tolist() == pytest.approx([1 - 2 / 3, 1 - 1 / 2])
    assert dice_loss(torch.tensor([[[99.0, -99.0]]]), target[:1]).item() == pytest.approx(0)


def test_mask_loss_weights_and_resizes() -> None:
    logits, target = torch.zeros(1, 2, 2), torch.ones(1, 4, 4)
    expected = 2.0 * math.log(2) + 0.5 * (1 - (2 * 8 + 1) / (8 + 16 + 1))
    assert mask_loss(logits, target).item() == pytest.approx(expected)
    assert mask_loss(logits, target, points=64).isfinite().all()


def test_uncertain_points_seek_the_edge() -> None:
    torch.manual_seed(0)
    logits = torch.linspace(-5, 5, 16).expand(2, 16, 16).contiguous()
    points = uncertain_points(logits, 400)
    assert points.shape == (2, 400, 2)
    assert (sample_points(logits, points).abs() < 2).float().mean() > 0.75
    uniform = uncertain_points(logits, 400, importance=0.0)
    assert (sample_points(logits, uniform).abs() < 2).float().mean() < 0.55


def test_mask_iou_of_empty_and_half() -> None:
    target = torch.zeros(3, 2, 2)
    target[1:, 0] = 1
    logits = torch.full((3, 2, 2), -1.0)
    logits[2, 0, 0] = 1
    assert mask_iou(logits, target).tolist() == [1.0, 0.0, 0.5]


def test_schedule_rises_and_falls() -> None:
    rates = [schedule(step, 100, 10, 0.1) for step in range(101)]
    assert rates[0] < 0.11
    assert max(rates) == pytest.approx(rates[9], rel=0.03)
    assert rates[100] == pytest.approx(0.1)
