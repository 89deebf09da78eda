"""One update, from rollouts to the gradient: rewards from its own masks, parts that add up, calibration."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from grpo_builders import SMALL_BUDGET, Scripted
from videoseg.data.world.sampler import WorldSpec
from videoseg.errors import GroupError
from videoseg.models.o3 import O3Model
from videoseg.training.calibration import Calibration, mask_log_likelihood
from videoseg.training.grpo import Objective
from videoseg.training.grpo_update import Method, Part, Totals, make_part, step
from videoseg.training.policy import Policy, PolicyOutput, Reference
from videoseg.training.prompts import Prompt, WorldPrompts
from videoseg.training.rewards.base import Outcome, reward
from videoseg.training.rewards.registry import choose
from videoseg.training.task import O3Task

GROUP = 3


@reward("long")
def long(outcome: Outcome) -> float:
    """Tells the rollouts of a group apart."""
    return len(outcome.replies) ** 2


REWARDS = (*choose(), long)


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    source = WorldPrompts(20, WorldSpec(families={"appearance": 1.0}))
    return [source[0], source[1]]


@pytest.fixture
def task(small_model: O3Model) -> O3Task:
    return O3Task(small_model, small_model.text.preset.override(**SMALL_BUDGET), Scripted())


def method(**changes: object) -> Method:
    return replace(Method(Objective(beta=0.0), None, 0.0, GROUP), **changes)


def part_of(task: O3Task, prompts: list[Prompt], which: slice = slice(None)) -> Part:
    rollouts = task.rollouts(prompts, GROUP, 0)[which]
    asked = [prompt for prompt in prompts for _ in range(GROUP)][which]
    return make_part(task, rollouts, asked, task.model.seg_id, task.model.end_id)


def totals(part: Part) -> Totals:
    return Totals(len(part.rollouts), sum(rollout.num_tokens for rollout in part.rollouts))


def fake_output(part: Part, seed: int = 0, side: int = 16) -> PolicyOutput:
    """Random log-probabilities and masks that can be differentiated."""
    generator = torch.Generator().manual_seed(seed)
    log_probs = -torch.rand(len(part.rows), generator=generator)
    masks = torch.randn(len(part.batch.masks), side, side, generator=generator)
    return PolicyOutput(
        log_probs.requires_grad_(), torch.zeros(len(part.rows)), masks.requires_grad_(), torch.zeros(())
    )


def test_tokens_are_numbered_as_the_batch_orders_them(task: O3Task, prompts: list[Prompt]) -> None:
    part = part_of(task, prompts)
    assert part.batch.loss_mask.sum() == len(part.rows) == len(part.turns)
    assert part.rows.tolist() == part.batch.loss_mask.nonzero()[:, 0].tolist()
    trained = part.batch.ids[part.batch.loss_mask]
    assert trained[part.is_seg].tolist() == [task.model.seg_id] * int(part.is_seg.sum())
    assert int(part.is_seg.sum()) == sum(len(rollout.turns) for rollout in part.rollouts) == 12
    # Every [SEG] is asked for the high-resolution frames and for its turn's keyframe; rows of a group share.
    assert len(part.batch.masks) == 12 * 3
    assert len(part.batch.frames) < len(part.batch.masks)
    assert len(part.batch.patches) < sum(len(row) for row in part.batch.images)


def test_the_update_is_the_one_computed_by_hand(task: O3Task, prompts: list[Prompt]) -> None:
    """dL/d log p of token t of rollout i is −A_i / (N |C_i|): ragged turns, sampled tokens only."""
    part = part_of(task, prompts)
    output = fake_output(part)
    made = step(part, output, task, REWARDS, method(), totals(part))
    made.loss.backward()
    scores = made.memory.scores.total.reshape(2, GROUP)
    by_hand = (scores - scores.mean(1, keepdims=True)) / (scores.std(1, ddof=1, keepdims=True) + 1e-4)
    assert np.abs(by_hand).min() > 0.01
    lengths = [rollout.num_tokens for rollout in part.rollouts]
    assert len(set(lengths)) > 2, "the rollouts must be ragged"
    expected = np.concatenate(
        [np.full(n, -a / (len(lengths) * n)) for a, n in zip(by_hand.ravel(), lengths, strict=True)]
    )
    assert output.log_probs.grad is not None
    np.testing.assert_allclose(output.log_probs.grad.numpy(), expected, rtol=1e-4, atol=1e-7)
    assert made.outputs.ratio == 1


def test_calibration_leaves_the_loss_and_adds_its_gradient(task: O3Task, prompts: list[Prompt]) -> None:
    part = part_of(task, prompts)
    calibration = Calibration(weight=0.7)
    plain, with_m = (
        step(part, output := fake_output(part), task, REWARDS, method(calibration=given), totals(part))
        for given in (None, calibration)
    )
    assert float(with_m.loss.detach()) == pytest.approx(float(plain.loss.detach()), abs=1e-6)
    output = fake_output(part)
    made = step(part, output, task, REWARDS, method(calibration=calibration), totals(part))
    (gradient,) = torch.autograd.grad(made.loss, output.mask_logits)
    again = fake_output(part)
    by_hand = torch.zeros(())
    advantages = made.memory.advantages.values
    for number, query in enumerate(part.batch.masks):
        if query.kind == "keyframe":
            mask = again.mask_logits[number : number + 1]
            m = calibration.weight * mask_log_likelihood(mask, mask, calibration)[0]
            tokens = part.rollouts[query.row].num_tokens
            by_hand = by_hand - advantages[query.row] / (len(part.rollouts) * tokens) * m
    (expected,) = torch.autograd.grad(by_hand, again.mask_logits)
    assert float(expected.abs().max()) > 0
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-9)


def test_parts_add_up_to_the_whole(task: O3Task, small_model: O3Model, prompts: list[Prompt]) -> None:
    """The gradient of two passes of one group is that of one pass of both, masks and KL included."""
    policy = Policy(small_model)
    reference = Reference(small_model.vlm)
    with torch.no_grad():
        small_model.vlm.model.lm_head.weight.mul_(1.1)
    full = Method(Objective(beta=0.1, normalisation="token"), Calibration(), 0.2, GROUP)
    whole = part_of(task, prompts)
    everything = totals(whole)
    gradients = []
    for parts in ([whole], [part_of(task, prompts, slice(0, 3)), part_of(task, prompts, slice(3, 6))]):
        policy.zero_grad()
        for part in parts:
            made = step(part, policy(part.batch), task, REWARDS, full, everything, reference=reference)
            made.loss.backward()
            assert made.outputs.kl > 0
        gradients.append([p.grad.clone() for p in policy.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 50
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=2e-3, atol=2e-6)


def test_masks_are_judged_frame_by_frame(task: O3Task, prompts: list[Prompt]) -> None:
    """The truth itself as mask gives IoU 1 everywhere, its opposite 0, and nothing on a keyframe gives 0."""
    part = part_of(task, prompts[:1])
    row, rollout, prompt = part.dialogue_rows[2], part.rollouts[2], prompts[0]
    frames = sorted({*rollout.high_frames, *(turn.keyframe for turn in rollout.turns)})
    truth = torch.stack([torch.from_numpy(prompt.mask(frames[q.frame])) for q in row.masks]).float()
    right = task.judge(rollout, prompt, row, truth * 20 - 10)
    assert right.outcome.mask_ious == ((1.0, 1.0),) * 3
    assert right.outcome.keyframe_ious == (1.0,) * 3
    wrong = task.judge(rollout, prompt, row, 10 - truth * 20)
    assert max(max(ious) for ious in wrong.outcome.mask_ious) == 0
    assert float(right.mask_loss) < 0.01 < float(wrong.mask_loss)
    absent = replace(prompt, key="elsewhere", mask=lambda frame: np.zeros(prompt.frame_size, dtype=bool))
    nothing = task.judge(rollout, absent, row, torch.full_like(truth, -10.0))
    assert nothing.outcome.mask_ious[0] == (1.0, 1.0)
    assert nothing.outcome.keyframe_ious == (0.0,) * 3


def test_a_turn_without_seg_has_no_mask_and_no_iou(task: O3Task, prompts: list[Prompt]) -> None:
    generator = Scripted()
    generator.silent = (prompts[0].query,)
    silent = O3Task(task.model, task.preset, generator)
    part = part_of(silent, prompts[:1])
    assert not part.batch.masks
    output = fake_output(part)
    made = step(
        part, output, silent, REWARDS, method(calibration=Calibration(), mask_weight=0.2), totals(part)
    )
    assert made.mask_loss == 0
    assert all(max(o.keyframe_ious) == 0 for o in made.memory.outcomes)


def test_groups_must_be_of_one_prompt(task: O3Task, prompts: list[Prompt]) -> None:
    part = part_of(task, prompts)
    mixed = replace(part, rollouts=tuple(replace(r, group=0) for r in part.rollouts[:2]) + part.rollouts[2:])
    first = replace(mixed.rollouts[0], prompt="another")
    with pytest.raises(GroupError, match="mixes prompts"):
        step(
            replace(mixed, rollouts=(first, *mixed.rollouts[1:])),
            fake_output(part),
            task,
            REWARDS,
            method(),
            totals(part),
        )


def test_later_updates_keep_rewards_and_compare_with_the_first(task: O3Task, prompts: list[Prompt]) -> None:
    part = part_of(task, prompts)
    settings = method(objective=Objective(beta=0.0, clip=(0.2, 0.2)), calibration=Calibration())
    first = step(part, fake_output(part), task, REWARDS, settings, totals(part))
    moved = fake_output(part, seed=1)
    second = step(part, moved, task, REWARDS, settings, totals(part), memory=first.memory)
    assert second.memory is first.memory
    assert second.outputs.ratio != 1
    assert second.outputs.clipped > 0
    assert first.without_graph().outputs.loss.grad_fn is None


def test_the_reference_stays_what_it_was(small_model: O3Model, task: O3Task, prompts: list[Prompt]) -> None:
    from videoseg.models.vision_speed import speed_up_vision

    speed_up_vision(small_model.vlm.model.model.visual)  # its replaced methods must not be shared
    reference = Reference(small_model.vlm)
    batch = part_of(task, prompts[:1]).batch
    before = reference(batch)
    torch.testing.assert_close(before, Policy(small_model)(batch).log_probs.detach(), rtol=0, atol=1e-4)
    with torch.no_grad():
        for parameter in small_model.vlm.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    torch.testing.assert_close(reference(batch), before)


class Table(torch.nn.Module):
    """The smallest policy: one logit per word."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.zeros(4))


def test_a_toy_reward_rises() -> None:
    """Sampling, advantages and updates together: the word that is rewarded becomes the likely one."""
    from videoseg.training.advantages import group_advantages
    from videoseg.training.grpo import LossInputs, grpo_loss

    policy, generator = Table(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.2)
    means = []
    for _ in range(30):
        words = torch.multinomial(policy.logits.softmax(0), 16, replacement=True, generator=generator)
        rewards = (words == 2).float()
        means.append(float(rewards.mean()))
        advantages = group_advantages(rewards, [n // 8 for n in range(16)], [n // 8 for n in range(16)], 8)
        log_probs: Tensor = policy.logits.log_softmax(0)[words]
        loss = grpo_loss(LossInputs(log_probs, torch.arange(16), advantages.values), Objective(beta=0.0)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert np.mean(means[-5:]) > 0.9 > 0.5 > means[0]
