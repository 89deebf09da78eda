"""Calibration: value, alignment by turn, and what it does to loss and gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from videoseg.errors import AlignmentError, UsageError
from videoseg.training.calibration import (
    RELEASED,
    Calibration,
    TurnMasks,
    calibration_term,
    dialogue_values,
    last_seg_of_turn,
    mask_log_likelihood,
)
from videoseg.training.grpo import LossInputs, Objective, grpo_loss

DEFAULT = Calibration()
SEG = torch.tensor([False, True, True, False, True, False])
ROWS = torch.tensor([0, 0, 0, 1, 1, 1])
TURNS = torch.tensor([0, 0, 1, 0, 1, 1])


def masks(count: int = 1, seed: int = 0) -> TurnMasks:
    generator = torch.Generator().manual_seed(seed)
    policy = torch.randn(count, 40, 48, generator=generator).requires_grad_()
    return TurnMasks(count, policy, torch.randn(count, 40, 48, generator=generator))


def test_hand_values() -> None:
    """Constant maps: m is the log-likelihood of one pixel."""
    policy, rollout = torch.full((2, 8, 8), 1.5), torch.stack([torch.ones(8, 8), -torch.ones(8, 8)])
    likely, unlikely = F.logsigmoid(torch.tensor([1.5, -1.5])).tolist()
    assert mask_log_likelihood(policy, rollout, DEFAULT).tolist() == pytest.approx([likely, unlikely])
    summed = mask_log_likelihood(policy, rollout, Calibration(reduction="sum", grid=16))
    assert summed.tolist() == pytest.approx([256 * likely, 256 * unlikely])


def test_the_released_threshold_is_on_logits() -> None:
    policy, rollout = torch.full((1, 4, 4), 2.0), torch.full((1, 4, 4), 0.4)
    inside, outside = F.logsigmoid(torch.tensor([2.0, -2.0])).tolist()
    assert float(mask_log_likelihood(policy, rollout, DEFAULT)) == pytest.approx(inside)
    assert float(mask_log_likelihood(policy, rollout, RELEASED)) == pytest.approx(outside)


def test_half_precision_masks_are_compared_in_float32() -> None:
    turn = masks()
    assert turn.policy is not None
    assert turn.rollout is not None
    assert (
        mask_log_likelihood(turn.policy.bfloat16(), turn.rollout.bfloat16(), DEFAULT).dtype == torch.float32
    )


def test_the_rollout_gets_no_gradient() -> None:
    policy, rollout = torch.randn(1, 8, 8, requires_grad=True), torch.randn(1, 8, 8, requires_grad=True)
    mask_log_likelihood(policy, rollout, DEFAULT).sum().backward()
    assert policy.grad is not None
    assert rollout.grad is None


def test_the_term_lands_on_its_turn() -> None:
    first, second, third = masks(seed=1), masks(seed=2), masks(seed=3)
    settings = Calibration(weight=2.0)
    term = calibration_term(SEG, ROWS, TURNS, [[first, second], [TurnMasks(0), third]], settings)
    wanted = [0.0, *(2 * dialogue_values([turn], DEFAULT).item() for turn in (first, second)), 0.0]
    assert term.tolist() == pytest.approx([*wanted, 2 * dialogue_values([third], DEFAULT).item(), 0.0])


def test_the_order_of_tokens_does_not_matter() -> None:
    dialogue = [[masks(seed=1), masks(seed=2)], [TurnMasks(0), masks(seed=3)]]
    order = torch.tensor([4, 0, 5, 2, 3, 1])
    straight = calibration_term(SEG, ROWS, TURNS, dialogue, DEFAULT)
    shuffled = calibration_term(SEG[order], ROWS[order], TURNS[order], dialogue, DEFAULT)
    assert torch.equal(shuffled, straight[order])


def test_a_missing_mask_gives_zero() -> None:
    term = calibration_term(
        SEG, ROWS, TURNS, [[TurnMasks(1), masks()], [TurnMasks(0), TurnMasks(1)]], DEFAULT
    )
    assert term[[1, 4]].tolist() == [0.0, 0.0]
    assert float(term[2].detach()) < 0


@pytest.mark.parametrize(
    ("dialogues", "message"),
    [
        ([[masks(2), masks()], [TurnMasks(0), masks()]], "rollout 0, turn 0: 1 .* masks for 2"),
        ([[masks(), masks()], [masks(), TurnMasks(0)]], "rollout 1, turn 0: 0 .* masks for 1"),
        ([[masks(), masks()]], "3 .SEG. tokens in all, but masks for 2"),
        (
            [[masks(), TurnMasks(1, masks(2).policy, masks().rollout)], [TurnMasks(0), masks()]],
            "rollout 0, turn 1: 1 .SEG. tokens, but 2 masks",
        ),
    ],
)
def test_disagreement_is_an_error_that_names_the_turn(dialogues: list[list[TurnMasks]], message: str) -> None:
    with pytest.raises(AlignmentError, match=message):
        calibration_term(SEG, ROWS, TURNS, dialogues, DEFAULT)


def test_only_the_last_seg_of_a_turn_counts() -> None:
    seg = torch.tensor([True, True, True, False, True, True])
    assert last_seg_of_turn(seg, ROWS, TURNS).tolist() == [False, True, True, False, False, True]
    assert not last_seg_of_turn(torch.zeros(6, dtype=torch.bool), ROWS, TURNS).any()


def test_no_dialogue_has_no_term() -> None:
    none = torch.zeros(0, dtype=torch.long)
    assert calibration_term(none.bool(), none, none, [], DEFAULT).shape == (0,)
    assert dialogue_values([], DEFAULT).shape == (0,)


def test_missing_masks_follow_the_device_of_the_others() -> None:
    far = torch.zeros(1, 8, 8, device="meta")
    assert dialogue_values([TurnMasks(2), TurnMasks(1, far, far)], DEFAULT).device.type == "meta"


def test_settings_are_checked() -> None:
    with pytest.raises(UsageError):
        Calibration(grid=0)


def loss_of(dialogues: list[list[TurnMasks]] | None, log_probs: Tensor, advantages: Tensor) -> Tensor:
    term = None if dialogues is None else calibration_term(SEG, ROWS, TURNS, dialogues, DEFAULT)
    reference = torch.linspace(-3, -1, 6)
    return grpo_loss(LossInputs(log_probs, ROWS, advantages, reference, term), Objective(beta=0.04)).loss


def test_calibration_changes_the_gradient_and_not_the_loss() -> None:
    """Its gradient is that of −(A/|C|)·m, averaged over rollouts (specification §17, check 6)."""
    dialogues = [[masks(seed=1), masks(seed=2)], [TurnMasks(0), masks(seed=3)]]
    advantages = torch.tensor([0.7, -1.3])
    log_probs = torch.linspace(-2, -0.5, 6).requires_grad_()
    policies = [turn.policy for dialogue in dialogues for turn in dialogue if turn.policy is not None]
    plain, calibrated = (loss_of(given, log_probs, advantages) for given in (None, dialogues))
    assert plain.item() == pytest.approx(calibrated.item(), abs=1e-7)
    found = torch.autograd.grad(calibrated, policies, retain_graph=True)
    direct = sum(
        -(advantages[row] / 3) / 2 * dialogue_values(dialogue, DEFAULT).sum()
        for row, dialogue in enumerate(dialogues)
    )
    wanted = torch.autograd.grad(direct, policies)
    for ours, theirs in zip(found, wanted, strict=True):
        assert theirs.abs().max() > 0
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-9)
    (text_plain,) = torch.autograd.grad(plain, log_probs)
    (text_calibrated,) = torch.autograd.grad(calibrated, log_probs)
    assert torch.allclose(text_plain, text_calibrated, rtol=1e-6)


def test_a_good_rollout_sharpens_its_mask_and_a_bad_one_blurs_it() -> None:
    for advantage, sign in ((1.0, 1), (-1.0, -1)):
        policy = torch.full((1, 8, 8), 0.5).requires_grad_()
        turn = TurnMasks(1, policy, torch.ones(1, 8, 8))
        seg, zero = torch.tensor([True]), torch.tensor([0])
        term = calibration_term(seg, zero, zero, [[turn]], DEFAULT)
        inputs = LossInputs(torch.tensor([-1.0]), zero, torch.tensor([advantage]), calibration=term)
        grpo_loss(inputs, Objective(beta=0)).loss.backward()
        assert policy.grad is not None
        assert (-sign * policy.grad > 0).all()
