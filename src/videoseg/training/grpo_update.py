"""One GRPO update of O3's stage III: policy, rewards, advantages, loss (specification §12.3–12.6).

The algorithm without a trainer: no optimiser, no devices, no files. A `Part` holds whole groups that go
through the model together; one forward gives log-probabilities and masks, and the masks serve rewards
(detached), calibration and mask loss (contract 4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from videoseg.training.advantages import EPSILON, Advantages, group_advantages
from videoseg.training.calibration import Calibration, TurnMasks, calibration_term, last_seg_of_turn
from videoseg.training.collate import DialogueRow, join_rows
from videoseg.training.dialogue_batch import DialogueBatch
from videoseg.training.grpo import LossInputs, LossOutputs, Objective, grpo_loss
from videoseg.training.policy import PolicyOutput
from videoseg.training.prompts import Prompt
from videoseg.training.rewards.base import Outcome, Reward, Scores, score
from videoseg.training.rollout import Rollout
from videoseg.training.task import Judged, Task


@dataclass(frozen=True, slots=True)
class Method:
    """Settings of the algorithm: the objective, the [SEG] calibration (None: off), the mask loss's weight."""

    objective: Objective
    calibration: Calibration | None
    mask_weight: float
    group: int
    least_spread: float = 0.0
    epsilon: float = EPSILON


@dataclass(frozen=True, slots=True)
class Totals:
    """Of the whole batch over all parts and ranks: rollouts and sampled tokens."""

    rollouts: int
    tokens: int


@dataclass(frozen=True, eq=False, slots=True)
class Part:
    """Rollouts of whole groups with their prompts, as one batch.

    `is_seg` bool and `rows`, `turns` int64 `[P]` describe the trained tokens in the batch's order; `is_seg`
    marks the last [SEG] of each turn.
    """

    rollouts: tuple[Rollout, ...]
    prompts: tuple[Prompt, ...]
    dialogue_rows: tuple[DialogueRow, ...]
    batch: DialogueBatch
    rows: Tensor
    turns: Tensor
    is_seg: Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Memory:
    """What later updates on the same rollouts, and the log, keep from the first pass; no gradients.

    `masks[i][t]` hold the rollout's own keyframe mask of turn t.
    """

    scores: Scores
    advantages: Advantages
    outcomes: tuple[Outcome, ...]
    masks: tuple[tuple[TurnMasks, ...], ...]
    reference: Tensor | None
    old: Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Step:
    """`loss` with gradient, for the backward pass; the rest is for the log and for later updates."""

    loss: Tensor
    outputs: LossOutputs
    mask_loss: float
    entropy: Tensor
    calibration: float
    memory: Memory

    def without_graph(self) -> Step:
        """The numbers alone, to keep."""
        loss = self.loss.detach()
        return replace(self, loss=loss, outputs=replace(self.outputs, loss=loss))


def make_part(
    task: Task,
    rollouts: Sequence[Rollout],
    prompts: Sequence[Prompt],
    seg_id: int,
    pad_id: int,
    group: int = 1,
) -> Part:
    """Render rollouts (`prompts[i]` is that of rollout i) and number their tokens.

    Every `group` rollouts in succession are of one prompt, which is then read once.
    """
    dialogue_rows = tuple(
        task.row(rollout, prompt) for rollout, prompt in zip(rollouts, prompts, strict=True)
    )
    spans = [
        (i, t, len(turn.ids)) for i, rollout in enumerate(rollouts) for t, turn in enumerate(rollout.turns)
    ]
    lengths = torch.tensor([length for _, _, length in spans])
    rows = torch.tensor([row for row, _, _ in spans]).repeat_interleave(lengths)
    turns = torch.tensor([turn for _, turn, _ in spans]).repeat_interleave(lengths)
    ids = torch.tensor([token for rollout in rollouts for turn in rollout.turns for token in turn.ids])
    is_seg = last_seg_of_turn(ids == seg_id, rows, turns)
    batch = join_rows(dialogue_rows, pad_id, group)
    return Part(tuple(rollouts), tuple(prompts), dialogue_rows, batch, rows, turns, is_seg)


def step(
    part: Part,
    output: PolicyOutput,
    task: Task,
    rewards: Sequence[Reward],
    method: Method,
    totals: Totals,
    *,
    reference: Callable[[DialogueBatch], Tensor] | None = None,
    memory: Memory | None = None,
) -> Step:
    """The loss of a part, such that the parts of a batch add up to the loss of the whole.

    `memory` is that of the first update on these rollouts; without it rewards and advantages are computed
    from this very output, and the ratio is 1 (§12.3).
    """
    judged = judge(part, output, task)
    kept = memory or _remember(part, judged, rewards, method, reference)
    rows = part.rows.to(output.log_probs.device)
    term = _calibration(part, judged, kept.masks, method, output.log_probs)
    inputs = LossInputs(
        output.log_probs,
        rows,
        kept.advantages.values.to(rows.device),
        kept.reference,
        term,
        kept.old if memory else None,
        (output.anchor,),
        totals.rollouts,
        totals.tokens,
    )
    outputs = grpo_loss(inputs, method.objective)
    masks = torch.stack([one.mask_loss for one in judged]).sum() / totals.rollouts
    kept = kept if memory else replace(kept, old=outputs.policy_log_probs)
    loss = outputs.loss + method.mask_weight * masks
    seg_mean = float(term.detach().sum() / max(1, int(part.is_seg.sum()))) if term is not None else 0.0
    return Step(loss, outputs, float(masks.detach()), output.entropy, seg_mean, kept)


def judge(part: Part, output: PolicyOutput, task: Task) -> tuple[Judged, ...]:
    """Every rollout with its own masks of the batch."""
    judged = []
    start = 0
    for rollout, prompt, row in zip(part.rollouts, part.prompts, part.dialogue_rows, strict=True):
        logits = output.mask_logits[start : start + len(row.masks)].float()
        judged.append(task.judge(rollout, prompt, row, logits))
        start += len(row.masks)
    return tuple(judged)


def _remember(
    part: Part,
    judged: tuple[Judged, ...],
    rewards: Sequence[Reward],
    method: Method,
    reference: Callable[[DialogueBatch], Tensor] | None,
) -> Memory:
    scores = score(rewards, [one.outcome for one in judged])
    groups = [rollout.group for rollout in part.rollouts]
    prompts = [rollout.prompt for rollout in part.rollouts]
    advantages = group_advantages(
        scores.total, groups, prompts, method.group, method.least_spread, method.epsilon
    )
    masks = tuple(tuple(replace(turn, policy=None) for turn in one.masks) for one in judged)
    known = reference(part.batch) if reference is not None and method.objective.beta else None
    outcomes = tuple(one.outcome for one in judged)
    return Memory(scores, advantages, outcomes, masks, known, torch.zeros(0))


def _calibration(
    part: Part,
    judged: Sequence[Judged],
    rollout_masks: Sequence[Sequence[TurnMasks]],
    method: Method,
    log_probs: Tensor,
) -> Tensor | None:
    """m at [SEG]: the policy's masks now against those of the rollout (§12.4)."""
    if method.calibration is None:
        return None
    masks = [
        [replace(now, rollout=then.rollout) for now, then in zip(one.masks, before, strict=True)]
        for one, before in zip(judged, rollout_masks, strict=True)
    ]
    place = log_probs.device
    marks = (part.is_seg.to(place), part.rows.to(place), part.turns.to(place))
    return calibration_term(*marks, masks, method.calibration)
