"""The GRPO objective of O3's stage III as pure functions on tensors (specification §12.3); no model here.

Trained tokens of all rollouts lie in one row of P entries, without padding: the tokens that the policy
sampled, and nothing else, so observations cannot enter the loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from videoseg.errors import RenderError, UsageError
from videoseg.training.advantages import Normalisation, token_weights

KlEstimator = Literal["k1", "k2", "k3"]


@dataclass(frozen=True, slots=True)
class Objective:
    """Settings: `beta` weighs the KL; `clip` is (low, high) of the ratio's distance from 1, None for none.

    `constant` is needed by the normalisation of that name.
    """

    beta: float = 0.04
    kl: KlEstimator = "k3"
    clip: tuple[float, float] | None = None
    normalisation: Normalisation = "sequence"
    constant: float | None = None

    def __post_init__(self) -> None:
        if self.clip is not None and not (0 <= self.clip[0] <= 1 and self.clip[1] >= 0):
            raise UsageError(f"clip is (low, high) with 0 <= low <= 1 and high >= 0, got {self.clip}")


@dataclass(frozen=True, eq=False, slots=True)
class LossInputs:
    """P trained tokens of N rollouts; all but `rows` float32.

    `log_probs` `[P]` of the policy, with gradient; `rows` int64 `[P]`, the rollout of each token;
    `advantages` `[N]`; `reference` `[P]`, log-probs of the reference, needed if beta is not 0; `calibration`
    `[P]`, what is added at [SEG], with gradient; `old` `[P]`, the `policy_log_probs` of the first of several
    updates. `anchors` are outputs of the forward that have no loss term in this batch. The totals are those
    of the whole batch of which this is a part.
    """

    log_probs: Tensor
    rows: Tensor
    advantages: Tensor
    reference: Tensor | None = None
    calibration: Tensor | None = None
    old: Tensor | None = None
    anchors: tuple[Tensor, ...] = ()
    total_rollouts: int | None = None
    total_tokens: int | None = None


@dataclass(frozen=True, eq=False, slots=True)
class LossOutputs:
    """`loss`, a scalar with gradient; `policy_log_probs` `[P]`, calibrated and detached, to store as `old`.

    For the log, detached: the loss without its KL part, and the means over tokens of KL, ratio and of
    whether clipping took the gradient away (0 without tokens).
    """

    loss: Tensor
    policy_log_probs: Tensor
    policy_loss: float
    kl: float
    ratio: float
    clipped: float


def grpo_loss(inputs: LossInputs, settings: Objective) -> LossOutputs:
    """Weighted sum over tokens of −ratio · A + beta · KL (§12.3).

    The ratio compares the calibrated log-probs with `old`, or with themselves, when it is 1 and only its
    gradient counts. The KL takes the log-probs without calibration. Raises UsageError if the reference is
    missing.
    """
    calibrated = inputs.log_probs if inputs.calibration is None else inputs.log_probs + inputs.calibration
    old = calibrated.detach() if inputs.old is None else inputs.old
    advantages = inputs.advantages[inputs.rows]
    ratio = torch.exp(calibrated - old)
    weights = token_weights(
        inputs.rows,
        len(inputs.advantages),
        settings.normalisation,
        constant=settings.constant,
        total_rollouts=inputs.total_rollouts,
        total_tokens=inputs.total_tokens,
    )
    policy = (weights * policy_terms(ratio, advantages, settings.clip)).sum()
    kl = _kl_terms(inputs, settings)
    return LossOutputs(
        loss=policy + settings.beta * (weights * kl).sum() + anchor(inputs.log_probs, *inputs.anchors),
        policy_log_probs=calibrated.detach(),
        policy_loss=float(policy.detach()),
        kl=_mean(kl),
        ratio=_mean(ratio),
        clipped=_mean(is_clipped(ratio, advantages, settings.clip)),
    )


def policy_terms(ratio: Tensor, advantages: Tensor, clip: tuple[float, float] | None) -> Tensor:
    """−ratio · A per token, or with `clip` the larger of that and −clipped ratio · A; all `[P]`."""
    plain = -ratio * advantages
    if clip is None:
        return plain
    return torch.maximum(plain, -ratio.clamp(1 - clip[0], 1 + clip[1]) * advantages)


def is_clipped(ratio: Tensor, advantages: Tensor, clip: tuple[float, float] | None) -> Tensor:
    """Where clipping removes the gradient, bool `[P]`."""
    if clip is None:
        return torch.zeros_like(ratio, dtype=torch.bool)
    low, high = ratio < 1 - clip[0], ratio > 1 + clip[1]
    return (low & (advantages < 0)) | (high & (advantages > 0))


def kl_divergence(log_probs: Tensor, reference: Tensor, estimator: KlEstimator = "k3") -> Tensor:
    """Estimate per sampled token of the KL divergence of the policy from the reference, `[P]`.

    With d = reference − log_probs: k1 = −d (unbiased, but its gradient pulls nowhere on average),
    k2 = d²/2, k3 = exp(d) − d − 1 (the release's; never negative).
    """
    distance = reference - log_probs
    if estimator == "k1":
        return -distance
    return distance.square() / 2 if estimator == "k2" else distance.expm1() - distance


def trained_positions(loss_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns, int64 `[P]` each, of the trained tokens of `loss_mask` bool `[B, L]`, row by row.

    The state that predicts the token at column c is that at c − 1. Raises RenderError if a first token is
    marked, which nothing predicts.
    """
    if loss_mask.shape[1] and bool(loss_mask[:, 0].any()):
        raise RenderError(f"row {int(loss_mask[:, 0].nonzero()[0])}: the first token cannot be in the loss")
    rows, columns = loss_mask.nonzero(as_tuple=True)
    return rows, columns


def selected_log_probs(
    hidden: Tensor, head: Callable[[Tensor], Tensor], ids: Tensor, chunk: int = 256, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Log-probability of the tokens `ids` `[P]` and the entropy there (detached), float32 `[P]` each.

    `hidden` `[P, d]` are the (normed) states that predict them, `head` gives logits `[p, V]`. Logits of no
    more than `chunk` positions exist at a time; for the gradient they are computed again. The softmax is in
    float32. With P = 0 the results are empty but depend on `hidden` and `head` all the same. The number of
    calls of `head` depends on P, so under FSDP the head must not be a sharded unit of its own.
    """

    def part(states: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        log_softmax = torch.log_softmax(head(states).float() / temperature, dim=-1)
        known = log_softmax.detach()
        entropy = -torch.where(known.isneginf(), 0.0, known.exp() * known).sum(-1)
        return log_softmax.gather(-1, tokens[:, None])[:, 0], entropy

    pieces = zip(hidden.split(chunk), ids.split(chunk), strict=True)
    done = [
        checkpoint(part, states, tokens, use_reentrant=False, preserve_rng_state=False)
        for states, tokens in pieces
    ]
    log_probs, entropies = zip(*done, strict=True)
    return torch.cat(log_probs), torch.cat(entropies)


def anchor(*tensors: Tensor) -> Tensor:
    """A scalar 0 that depends on all `tensors`, whatever their values (NaN and infinity included).

    Added to a loss, it keeps parameters without a term of their own in the graph, so that every rank runs
    the same backward (users, R4).
    """
    return torch.stack([tensor.flatten()[:0].sum().float() for tensor in tensors]).sum()


def _kl_terms(inputs: LossInputs, settings: Objective) -> Tensor:
    if inputs.reference is None:
        if settings.beta:
            raise UsageError(
                "beta is not 0, so the reference's log-probs are needed; give them or set beta to 0"
            )
        return torch.zeros_like(inputs.log_probs)
    return kl_divergence(inputs.log_probs, inputs.reference, settings.kl)


def _mean(values: Tensor) -> float:
    return float(values.detach().float().mean()) if values.numel() else 0.0
