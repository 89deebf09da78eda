"""What a GRPO run logs per rollout and per step (users, R5), and when it is broken off."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from videoseg.errors import CollapseError
from videoseg.training.grpo_config import StopRules
from videoseg.training.grpo_update import Step
from videoseg.training.rewards.base import Outcome, Scores
from videoseg.training.rewards.o3 import format_reward
from videoseg.training.rollout import Rollout

Facts = dict[str, Any]


def facts_of(
    rollouts: Sequence[Rollout], outcomes: Sequence[Outcome], scores: Scores, advantages: Sequence[float]
) -> list[Facts]:
    """What is known of every rollout, as JSON values; rewards unweighted, null where one does not apply."""
    return [
        {
            "kind": outcome.columns.get("kind", ""),
            "turns": len(rollout.turns),
            "tokens": rollout.num_tokens,
            "stop": str(rollout.stop),
            "well_formed": bool(outcome.columns.get("well_formed", format_reward(outcome) > 0)),
            "keyframe_iou": round(outcome.keyframe_ious[-1], 4),
            "frames_iou": round(float(np.mean(outcome.mask_ious[-1])), 4),
            "rewards": {
                name: None if math.isnan(value) else round(float(value), 4)
                for name, value in zip(scores.names, scores.values[:, number], strict=True)
            },
            "reward": round(float(scores.total[number]), 4),
            "advantage": round(float(advantages[number]), 4),
        }
        for number, (rollout, outcome) in enumerate(zip(rollouts, outcomes, strict=True))
    ]


def step_record(facts: Sequence[Facts]) -> dict[str, float]:
    """Means over rollouts: rewards with spread, turns, tokens, format, IoUs, stop reasons."""
    record = _spread("reward", [one["reward"] for one in facts])
    for name in facts[0]["rewards"]:
        known = [one["rewards"][name] for one in facts if one["rewards"][name] is not None]
        if known:
            record |= _spread(f"reward/{name}", known)
    record["turns"] = _mean(one["turns"] for one in facts)
    record["tokens_per_turn"] = sum(one["tokens"] for one in facts) / sum(one["turns"] for one in facts)
    for name in ("well_formed", "keyframe_iou", "frames_iou"):
        record[name] = _mean(one[name] for one in facts)
    stops = Counter(one["stop"] for one in facts)
    return record | {f"stop/{name}": count / len(facts) for name, count in sorted(stops.items())}


def pass_record(steps: Sequence[Step], processes: int) -> dict[str, float]:
    """Of the passes of an update: sums of their shares of the losses, means of the rest.

    Averaged over `processes`, these are the numbers of the whole batch.
    """
    return {
        "loss": processes * sum(float(one.loss.detach()) for one in steps),
        "policy_loss": processes * sum(one.outputs.policy_loss for one in steps),
        "mask_loss": processes * sum(one.mask_loss for one in steps),
        "kl": _mean(one.outputs.kl for one in steps),
        "ratio": _mean(one.outputs.ratio for one in steps),
        "clipped": _mean(one.outputs.clipped for one in steps),
        "entropy": _mean(float(one.entropy.mean()) if one.entropy.numel() else 0.0 for one in steps),
        "calibration": _mean(one.calibration for one in steps),
    }


class Guard:
    """The stop rules; every process sees the same numbers and so decides the same."""

    def __init__(self, rules: StopRules) -> None:
        self._rules = rules
        self._seen: deque[Mapping[str, float]] = deque(maxlen=rules.window)

    def watch(self, record: Mapping[str, float]) -> None:
        """Raises CollapseError when the mean over the window leaves what is allowed."""
        self._seen.append(record)
        if len(self._seen) < self._rules.window:
            return
        format_rate, kl, entropy = (
            _mean(one[name] for one in self._seen) for name in ("well_formed", "kl", "entropy")
        )
        rules, broken = self._rules, []
        if rules.least_format is not None and format_rate < rules.least_format:
            broken.append(
                f"only {format_rate:.2f} of the rollouts are well formed (least {rules.least_format})"
            )
        if rules.most_kl is not None and kl > rules.most_kl:
            broken.append(f"the KL per token is {kl:.3g} (at most {rules.most_kl})")
        if rules.least_entropy is not None and entropy < rules.least_entropy:
            broken.append(f"the entropy is {entropy:.3g} (least {rules.least_entropy})")
        if broken:
            raise CollapseError(
                f"mean of the last {rules.window} steps: {'; '.join(broken)}. Lower lr or raise "
                "objective.beta, or change `stop` if this is meant"
            )


def _spread(name: str, values: Sequence[float]) -> dict[str, float]:
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {f"{name}/mean": float(np.mean(values)), f"{name}/std": spread}


def _mean(values: Any) -> float:
    known = [float(value) for value in values]
    return sum(known) / len(known) if known else 0.0
