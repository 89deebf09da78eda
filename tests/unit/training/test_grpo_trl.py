"""Loss, metrics and log-probs equal those of TRL's GRPO trainer (optional: `pip install trl==1.16.0`).

Its private `_compute_loss` runs on a stand-in for the trainer, so only this one version is compared with.
"""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from videoseg.training.advantages import group_advantages
from videoseg.training.grpo import LossInputs, Objective, grpo_loss, selected_log_probs

trl = pytest.importorskip("trl", reason="TRL is not installed")
if not trl.__version__.startswith("1.16."):
    pytest.skip(f"written for TRL 1.16, found {trl.__version__}", allow_module_level=True)

ROLLOUTS, LENGTH, LIMIT = 6, 9, 12
LOSS_TYPES = {"sequence": "grpo", "token": "bnpo", "constant": "dr_grpo"}


def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    mask = torch.rand(ROLLOUTS, LENGTH, generator=generator) < 0.6
    mask[:, 0] = True
    log_probs = -draw(ROLLOUTS, LENGTH).abs()
    return {
        "log_probs": log_probs,
        "mask": mask,
        "reference": log_probs + 0.3 * draw(ROLLOUTS, LENGTH),
        "old": log_probs + 0.3 * draw(ROLLOUTS, LENGTH),
        "advantages": draw(ROLLOUTS),
    }


def trl_loss(given: dict[str, Tensor], settings: Objective, *, old: bool) -> tuple[Tensor, dict[str, float]]:
    low, high = settings.clip or (1.0, 1e9)
    accelerator = SimpleNamespace(
        gather=lambda tensor: tensor, reduce=lambda tensor, reduction: tensor, num_processes=1
    )
    metrics: dict[str, Any] = {"train": defaultdict(list)}
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (
            given["log_probs"],
            torch.zeros(ROLLOUTS, LENGTH),
            None,
        ),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=settings.beta,
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None),
        loss_type=LOSS_TYPES[settings.normalisation],
        epsilon_low=low,
        epsilon_high=high,
        use_vllm=False,
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        max_completion_length=LIMIT,
        accelerator=accelerator,
        _entropy_bonus_enabled=False,
        _metrics=metrics,
    )
    ids = torch.zeros(ROLLOUTS, LENGTH, dtype=torch.long)
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": ids[:, :1],
        "completion_ids": ids,
        "completion_mask": torch.ones_like(ids),
        "tool_mask": given["mask"].long(),
        "advantages": given["advantages"],
        "ref_per_token_logps": given["reference"],
        "old_per_token_logps": given["old"] if old else None,
    }
    loss = trl.GRPOTrainer._compute_loss(trainer, None, inputs)
    return loss, {name: values[0] for name, values in metrics["train"].items()}


@pytest.mark.parametrize("mode", LOSS_TYPES)
@pytest.mark.parametrize("clip", [None, (0.2, 0.28)])
@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("old", [False, True])
def test_loss_gradient_and_metrics(mode: Any, clip: Any, beta: float, old: bool) -> None:
    given = batch()
    log_probs = given["log_probs"].requires_grad_()
    settings = Objective(beta=beta, clip=clip, normalisation=mode, constant=LIMIT)
    theirs, metrics = trl_loss(given, settings, old=old)
    rows = given["mask"].nonzero()[:, 0]
    ours = grpo_loss(
        LossInputs(
            log_probs[given["mask"]],
            rows,
            given["advantages"],
            given["reference"][given["mask"]],
            old=given["old"][given["mask"]] if old else None,
        ),
        settings,
    )
    assert float(ours.loss.detach()) == pytest.approx(float(theirs.detach()), abs=1e-6)
    (found,), (wanted,) = (torch.autograd.grad(loss, log_probs) for loss in (ours.loss, theirs))
    assert wanted.abs().max() > 0.01
    assert torch.allclose(found, wanted, atol=1e-7)
    if beta:
        assert ours.kl == pytest.approx(metrics["kl"], abs=1e-6)
    if clip:
        assert ours.clipped == pytest.approx(metrics["clip_ratio/region_mean"])
        assert (ours.clipped > 0) == old


def test_log_probs_and_entropy() -> None:
    from trl.trainer.utils import entropy_from_logits, selective_log_softmax

    torch.manual_seed(0)
    hidden, head, ids = torch.randn(7, 8), nn.Linear(8, 30), torch.randint(30, (7,))
    log_probs, entropy = selected_log_probs(hidden, head, ids, chunk=3)
    assert torch.allclose(log_probs, selective_log_softmax(head(hidden), ids), atol=1e-6)
    assert torch.allclose(entropy, entropy_from_logits(head(hidden)), atol=1e-6)


def test_the_spread_of_a_group() -> None:
    from trl.trainer.utils import nanstd

    rewards = torch.tensor([1.0, 4.0, -2.0, 0.5])
    wanted = (rewards - rewards.mean()) / (nanstd(rewards) + 1e-4)
    assert torch.allclose(group_advantages(rewards, [0] * 4, ["p"] * 4, 4).values, wanted, atol=1e-6)
