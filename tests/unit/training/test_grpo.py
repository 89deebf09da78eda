"""The GRPO objective against a gradient written out by hand, and its parts against their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from videoseg.errors import RenderError, UsageError
from videoseg.training.advantages import group_advantages
from videoseg.training.grpo import (
    LossInputs,
    LossOutputs,
    Objective,
    anchor,
    grpo_loss,
    is_clipped,
    kl_divergence,
    policy_terms,
    selected_log_probs,
    trained_positions,
)

VOCABULARY = 7
OBSERVATIONS = (5, 6)
# Four dialogues of one to three turns; observation tokens are given, not sampled; 6 precedes only them.
DIALOGUES = [
    [6, 5, 0, 1, 5, 2, 3, 4, 6, 5, 1],
    [5, 0, 2, 2],
    [6, 5, 3],
    [5, 1, 5, 1, 0, 6, 5, 2, 4, 4, 0, 3],
]
REWARDS = [1.0, -0.5, 2.0, 2.0]


class Bigram(nn.Module):
    """The smallest policy: the next token depends on the one before. `table` `[V, V]` holds its logits."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = nn.Parameter(torch.randn(VOCABULARY, VOCABULARY, generator=generator).double())

    def forward(self, states: Tensor) -> Tensor:
        """Logits `[p, V]` of one-hot states `[p, V]`."""
        return states @ self.table


def padded() -> tuple[Tensor, Tensor]:
    """Ids `[4, L]` (padded with 0) and which of them are trained."""
    length = max(map(len, DIALOGUES))
    ids = torch.tensor([dialogue + [0] * (length - len(dialogue)) for dialogue in DIALOGUES])
    inside = torch.arange(length) < torch.tensor([len(dialogue) for dialogue in DIALOGUES])[:, None]
    return ids, inside & ~torch.isin(ids, torch.tensor(OBSERVATIONS))


def log_probs_of(policy: Bigram) -> tuple[Tensor, Tensor]:
    ids, mask = padded()
    rows, columns = trained_positions(mask)
    states = F.one_hot(ids, VOCABULARY).double()[rows, columns - 1]
    log_probs, _ = selected_log_probs(states, policy, ids[rows, columns], chunk=4)
    return log_probs, rows


def step(policy: Bigram, reference: Bigram, settings: Objective, old: Tensor | None = None) -> LossOutputs:
    advantages = group_advantages(REWARDS, [0] * 4, ["p"] * 4, 4).values
    log_probs, rows = log_probs_of(policy)
    with torch.no_grad():
        reference_log_probs, _ = log_probs_of(reference)
    return grpo_loss(LossInputs(log_probs, rows, advantages, reference_log_probs, old=old), settings)


def hand_gradient(policy: Bigram, reference: Bigram, beta: float) -> np.ndarray:
    """dL/dtable in numpy: per sampled token (one-hot − softmax) · [−A + beta·(1 − e^(r−l))] / (|C|·N)."""
    table, fixed = policy.table.detach().numpy(), reference.table.detach().numpy()
    spread = np.std(REWARDS, ddof=1) + 1e-4
    gradient = np.zeros_like(table)
    for dialogue, reward in zip(DIALOGUES, REWARDS, strict=True):
        advantage = (reward - np.mean(REWARDS)) / spread
        sampled = [i for i, token in enumerate(dialogue) if token not in OBSERVATIONS]
        for i in sampled:
            before, token = dialogue[i - 1], dialogue[i]
            p = np.exp(table[before]) / np.exp(table[before]).sum()
            q = np.exp(fixed[before]) / np.exp(fixed[before]).sum()
            by_log_prob = -advantage + beta * (1 - q[token] / p[token])
            gradient[before] += (
                by_log_prob * (np.eye(VOCABULARY)[token] - p) / (len(sampled) * len(DIALOGUES))
            )
    return gradient


@pytest.mark.parametrize("beta", [0.0, 0.04, 1.0])
def test_the_update_is_the_one_computed_by_hand(beta: float) -> None:
    policy, reference = Bigram(0), Bigram(1)
    wanted = hand_gradient(policy, reference, beta)
    before = policy.table.detach().clone()
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.5)
    step(policy, reference, Objective(beta=beta)).loss.backward()
    optimizer.step()
    update = (policy.table.detach() - before).numpy()
    assert np.abs(wanted).max() > 0.01
    assert np.allclose(update, -0.5 * wanted, atol=1e-6)


def test_observations_do_not_learn() -> None:
    """Nothing sampled follows token 6, so its row of the table stays; all sampled tokens are trained."""
    policy, reference = Bigram(0), Bigram(1)
    step(policy, reference, Objective()).loss.backward()
    assert policy.table.grad is not None
    assert (policy.table.grad[6] == 0).all()
    assert (policy.table.grad[:6] != 0).any(dim=1).all()
    ids, mask = padded()
    trained = ids[trained_positions(mask)].tolist()
    assert trained == [token for dialogue in DIALOGUES for token in dialogue if token not in OBSERVATIONS]


def test_good_rollouts_become_likelier() -> None:
    policy, reference = Bigram(0), Bigram(1)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.5)
    before, rows = log_probs_of(policy)
    for _ in range(20):
        optimizer.zero_grad()
        step(policy, reference, Objective(beta=0)).loss.backward()
        optimizer.step()
    change = (log_probs_of(policy)[0] - before).detach()
    assert change[rows == 2].mean() > 0 > change[rows == 1].mean()


def test_several_updates_compare_with_the_stored_log_probs() -> None:
    policy, reference = Bigram(0), Bigram(1)
    first = step(policy, reference, Objective(beta=0))
    assert first.ratio == pytest.approx(1)
    with torch.no_grad():
        policy.table += 0.5 * torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(3))
    clip = (0.2, 0.2)
    second = step(policy, reference, Objective(beta=0, clip=clip), first.policy_log_probs)
    ratio = (second.policy_log_probs - first.policy_log_probs).exp()
    _, rows = log_probs_of(policy)
    advantages = group_advantages(REWARDS, [0] * 4, ["p"] * 4, 4).values[rows]
    lengths = torch.bincount(rows)[rows]
    terms = torch.maximum(-ratio * advantages, -ratio.clamp(0.8, 1.2) * advantages)
    assert float(second.loss.detach()) == pytest.approx(float((terms / lengths).sum() / 4), abs=1e-6)
    assert second.ratio == pytest.approx(float(ratio.mean()))
    outside = ((ratio < 0.8) & (advantages < 0)) | ((ratio > 1.2) & (advantages > 0))
    assert 0 < second.clipped == pytest.approx(float(outside.float().mean()))


CLIP = [  # ratio, advantage, term, gradient by the ratio, clipped
    (1.0, 2.0, -2.0, -2.0, False),
    (1.5, 1.0, -1.3, 0.0, True),
    (1.5, -1.0, 1.5, 1.0, False),
    (0.5, 1.0, -0.5, -1.0, False),
    (0.5, -1.0, 0.8, 0.0, True),
]


@pytest.mark.parametrize(("ratio", "advantage", "term", "slope", "clipped"), CLIP)
def test_clipping(ratio: float, advantage: float, term: float, slope: float, clipped: bool) -> None:
    value, side = torch.tensor([ratio], requires_grad=True), torch.tensor([advantage])
    found = policy_terms(value, side, (0.2, 0.3))
    found.sum().backward()
    assert found.tolist() == pytest.approx([term])
    assert value.grad is not None
    assert float(value.grad) == pytest.approx(slope)
    assert bool(is_clipped(value, side, (0.2, 0.3))) is clipped
    assert not is_clipped(value, side, None)


def test_clip_is_checked() -> None:
    with pytest.raises(UsageError, match="clip"):
        Objective(clip=(1.2, 0.2))


@given(st.floats(-20, 0), st.floats(-20, 0))
def test_kl_estimators(log_prob: float, reference: float) -> None:
    d = reference - log_prob
    policy, fixed = (
        torch.tensor([log_prob], dtype=torch.float64),
        torch.tensor([reference], dtype=torch.float64),
    )
    wanted = {"k1": -d, "k2": d * d / 2, "k3": math.exp(d) - d - 1}
    for name, value in wanted.items():
        found = float(kl_divergence(policy, fixed, name))  # type: ignore[arg-type]
        assert found == pytest.approx(value, rel=1e-6, abs=1e-9)
    assert float(kl_divergence(policy, fixed)) >= 0


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_kl_estimators_are_unbiased(estimator: str) -> None:
    p = torch.log_softmax(torch.tensor([0.3, -1.0, 2.0, 0.1]).double(), 0)
    q = torch.log_softmax(torch.tensor([0.0, 0.5, 1.0, -0.7]).double(), 0)
    estimate = (p.exp() * kl_divergence(p, q, estimator)).sum()  # type: ignore[arg-type]
    assert float(estimate) == pytest.approx(float((p.exp() * (p - q)).sum()), abs=1e-12)


def test_the_kl_needs_its_reference() -> None:
    one = torch.zeros(1)
    with pytest.raises(UsageError, match="reference"):
        grpo_loss(LossInputs(one, one.long(), one), Objective(beta=0.1))
    assert grpo_loss(LossInputs(one, one.long(), one), Objective(beta=0)).kl == 0.0


def test_the_kl_does_not_see_the_calibration() -> None:
    log_probs, reference = torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -1.0])
    rows, advantages = torch.tensor([0, 0]), torch.tensor([0.3])
    plain = grpo_loss(LossInputs(log_probs, rows, advantages, reference), Objective())
    calibrated = grpo_loss(
        LossInputs(log_probs, rows, advantages, reference, torch.tensor([-0.9, 0.0])), Objective()
    )
    assert calibrated.kl == plain.kl > 0
    assert float(calibrated.loss) == float(plain.loss)
    assert calibrated.policy_log_probs.tolist() == pytest.approx([-1.9, -2.0])


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.9])
def test_selected_log_probs(chunk: int, temperature: float) -> None:
    torch.manual_seed(0)
    hidden, ids, head = torch.randn(7, 5, requires_grad=True), torch.randint(11, (7,)), nn.Linear(5, 11)
    log_probs, entropy = selected_log_probs(hidden, head, ids, chunk, temperature)
    whole = torch.log_softmax(head(hidden) / temperature, -1)
    wanted = whole[torch.arange(7), ids]
    assert torch.allclose(log_probs, wanted, atol=1e-6)
    assert torch.allclose(entropy, -(whole.exp() * whole).sum(-1), atol=1e-6)
    assert not entropy.requires_grad
    weights = torch.randn(7)
    leaves = [hidden, *head.parameters()]
    found = torch.autograd.grad((log_probs * weights).sum(), leaves)
    for ours, theirs in zip(found, torch.autograd.grad((wanted * weights).sum(), leaves), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_the_softmax_is_in_float32() -> None:
    hidden, head = torch.randn(3, 4).bfloat16(), nn.Linear(4, 50).bfloat16()
    log_probs, entropy = selected_log_probs(hidden, head, torch.tensor([0, 1, 2]))
    assert log_probs.dtype == entropy.dtype == torch.float32
    assert torch.equal(log_probs, torch.log_softmax(head(hidden).float(), -1)[range(3), range(3)])


def test_a_forbidden_token_leaves_the_entropy_finite() -> None:
    logits = torch.tensor([[0.0, 0.0, -math.inf]])
    _, entropy = selected_log_probs(logits, nn.Identity(), torch.tensor([0]))
    assert float(entropy) == pytest.approx(math.log(2))


def test_the_first_token_cannot_be_trained() -> None:
    with pytest.raises(RenderError, match="row 1"):
        trained_positions(torch.tensor([[False, True], [True, False]]))
    assert trained_positions(torch.zeros(2, 0, dtype=torch.bool))[0].shape == (0,)


def test_a_batch_without_any_term_can_still_run_backward() -> None:
    hidden, head = torch.randn(0, 4, requires_grad=True), nn.Linear(4, 9)
    masks = torch.randn(1, 8, 8, requires_grad=True)
    empty = torch.zeros(0, dtype=torch.long)
    log_probs, _ = selected_log_probs(hidden, head, empty)
    inputs = LossInputs(log_probs, empty, torch.zeros(2), torch.zeros(0), anchors=(masks,))
    found = grpo_loss(inputs, Objective())
    found.loss.backward()
    assert float(found.loss.detach()) == found.kl == found.clipped == 0.0
    for leaf in (head.weight, head.bias, masks):
        assert leaf.grad is not None
        assert (leaf.grad == 0).all()


def test_an_anchor_is_zero_whatever_it_holds() -> None:
    wild = torch.tensor([math.nan, math.inf], requires_grad=True)
    anchor(wild, torch.zeros(0, requires_grad=True)).backward()
    assert wild.grad is not None
    assert wild.grad.tolist() == [0.0, 0.0]
    assert float(anchor(wild).detach()) == 0.0
