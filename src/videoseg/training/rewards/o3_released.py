"""The rewards of VideoSEG-O3 as released, errors included, for comparison (specification §12.6, §16).

They are called with lists of one entry per rollout, as the released functions are, and keep the lenient
reading of replies, which is not that of `dialogue.grammar`: dictionaries in Python's notation, missing
fields as 0, a bare string as a single turn. A turn's IoUs may be a list, a scalar or null. Where the release
raises IndexError (no frame, no turn), so do they. `docs/rewards.md` lists the differences from the defaults.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from videoseg.training.rewards.base import Reward
from videoseg.training.rewards.o3 import KEYFRAME, MASK, PASS_IOU, STEPS

Turns = Sequence[str] | str
PerTurn = Sequence[Any]
Judge = Callable[[Turns, Sequence[int], PerTurn, PerTurn], float]
"""Of one rollout: texts, presence per frame, IoUs on the first frames and on the keyframe per turn."""
_ACTION = re.compile(r"<(select|answer)>.*?<VTG>(.*?)</VTG>.*?</\1>", re.DOTALL)
_FORMAT = re.compile(r"<think>.*?</think>\s*<(answer|select)>(.*?)</\1>", re.DOTALL)
_THINK = re.compile(r"<think>(.*?)</think>", re.DOTALL | re.IGNORECASE)
_VTG = re.compile(r"<VTG>(.*?)</VTG>", re.DOTALL)
_SEG = re.compile(r"<RefSeg>(.*?)</RefSeg>", re.DOTALL)
_UNREADABLE = (
    ArithmeticError,
    AttributeError,
    MemoryError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
)
"""What a malformed dictionary can cause; the release catches every exception here."""


def _released(name: str, low: float, high: float) -> Callable[[Judge], Reward]:
    """Declare a judge of one rollout the reward `<name>_released`, called as the release calls its own."""

    def declare(judge: Judge) -> Reward:
        def judge_all(
            completions: Sequence[Turns],
            mask_existence: Sequence[Sequence[int]],
            per_round_maskious: Sequence[PerTurn],
            per_round_keyframe_ious: Sequence[PerTurn],
            **_: Any,
        ) -> list[float]:
            columns = (completions, mask_existence, per_round_maskious, per_round_keyframe_ious)
            return [judge(*rollout) for rollout in zip(*columns, strict=True)]

        return Reward(f"{name}_released", judge_all, low, high)

    return declare


@_released("format", -1, 1)
def format_released(turns: Turns, present: Sequence[int], masks: PerTurn, keys: PerTurn) -> float:
    """Select and answer may come in any order; 0 without a turn."""
    texts = _as_turns(turns)
    if not texts:
        return 0.0
    return 1.0 if all(_well_formed(text) for text in texts) else -1.0


@_released("think_steps", 0, 1)
def think_steps_released(turns: Turns, present: Sequence[int], masks: PerTurn, keys: PerTurn) -> float:
    """`<think>` may be in any case; 0 without a turn."""
    return _mean([_steps(text) for text in _as_turns(turns)])


@_released("interval_iou", -0.5, 0.5)
def interval_iou_released(turns: Turns, present: Sequence[int], masks: PerTurn, keys: PerTurn) -> float:
    """A precision instead of an IoU, the interval's end left out, in float32."""
    numbers = _last_numbers(turns, len(present))
    if numbers is None or numbers[0] >= numbers[1]:
        return -0.5
    start, end, _ = numbers
    inside, size = np.float32(sum(present[start:end])), np.float32(end - start)
    share = float(inside / (size + np.float32(1e-6))) if sum(present) else 1.0
    return -0.5 if share < PASS_IOU else 0.5 * share


@_released("keyframe_hit", -1, 1)
def keyframe_hit_released(turns: Turns, present: Sequence[int], masks: PerTurn, keys: PerTurn) -> float:
    """Raises IndexError on a video of no frames."""
    numbers = _last_numbers(turns, len(present))
    return 1.0 if numbers is not None and present[numbers[2]] > 0.5 else -1.0


@_released("mask_iou", -1, 1.5)
def mask_iou_released(turns: Turns, present: Sequence[int], masks: PerTurn, keys: PerTurn) -> float:
    """−1 for a turn of no frames; 0 without a turn."""
    return _mean([MASK(iou) for iou in _ious(masks[-1])], empty=-1.0) if masks else 0.0


@_released("keyframe_gain", -1, 0.5)
def keyframe_gain_released(turns: Turns, present: Sequence[int], masks: PerTurn, keys: PerTurn) -> float:
    """Without the dense part, which a later branch overwrites."""
    if min(len(masks), len(keys)) < 2:
        return 0.0
    return _flat(_mean(_ious(keys[-1])) - _mean(_ious(masks[-1])), 0.1)


@_released("keyframe_progress", -1, 0.5)
def keyframe_progress_released(turns: Turns, present: Sequence[int], masks: PerTurn, keys: PerTurn) -> float:
    """Without the dense part, which a later branch overwrites."""
    if len(keys) < 2:
        return 0.0
    *earlier, last = [_mean(_ious(value)) for value in keys]
    return _flat(last - max(earlier), 0.05)


@_released("keyframe_iou", -1, 2.5)
def keyframe_iou_released(turns: Turns, present: Sequence[int], masks: PerTurn, keys: PerTurn) -> float:
    """Of several IoUs the first counts. Raises IndexError without a turn."""
    return KEYFRAME(next(iter(_ious(keys[-1])), 0.0))


@_released("termination", -1, 1)
def termination_released(turns: Turns, present: Sequence[int], masks: PerTurn, keys: PerTurn) -> float:
    """On bare tags; a completion that is one string is judged by its last character."""
    if not turns or not keys:
        return 0.0
    text, iou = turns[-1], _mean(_ious(keys[-1]))
    if re.search(r"<answer>.*?</answer>", text, re.DOTALL):
        return float(iou > 0.8) - float(iou < 0.2)
    return float(iou < 0.5) if re.search(r"<select>.*?</select>", text, re.DOTALL) else 0.0


OFFICIAL_NAMES = {
    "strict_format_cot": format_released,
    "step_format_cot": think_steps_released,
    "lr_vtg_iou_dense": interval_iou_released,
    "lr_vtg_keyframe": keyframe_hit_released,
    "lr_maskiou_dense": mask_iou_released,
    "lr_keyframe_vs_mask_dense": keyframe_gain_released,
    "lr_progressive_keyframe_dense": keyframe_progress_released,
    "lr_keyframeiou_dense": keyframe_iou_released,
    "termination": termination_released,
}
"""The names of the release; the first seven are those of its launch script."""
RELEASED, RELEASED_OPTIONAL = tuple(OFFICIAL_NAMES.values())[:7], tuple(OFFICIAL_NAMES.values())[7:]


def _as_turns(turns: Turns) -> Sequence[str]:
    return [turns] if isinstance(turns, str) else turns


def _ious(value: Any) -> list[float]:
    """The IoUs of one turn: several, one, or 0 for null."""
    return value if isinstance(value, list) else [float(value or 0.0)]


def _mean(values: Sequence[float], empty: float = 0.0) -> float:
    return sum(values) / len(values) if values else empty


def _flat(gain: float, small: float) -> float:
    if gain > small:
        return 0.5
    return 0.0 if gain > -0.05 else -1.0


def _well_formed(text: str) -> bool:
    action = _FORMAT.search(text)
    vtg, seg = (pattern.search(action[2] if action else "") for pattern in (_VTG, _SEG))
    if vtg is None or seg is None or "[SEG]" not in seg[1]:
        return False
    try:
        return {"start", "end", "keyframe"} <= json.loads(vtg[1]).keys()
    except _UNREADABLE:
        return False


def _steps(text: str) -> float:
    found = _THINK.search(text)
    return sum(label in found[1].lower() for label in STEPS) / len(STEPS) if found else 0.0


def _last_numbers(turns: Turns, frames: int) -> tuple[int, int, int] | None:
    """Start, end and keyframe of the last action of the last turn, clamped; None if unreadable."""
    texts = _as_turns(turns)
    actions = _ACTION.findall(texts[-1]) if texts else []
    if not actions:
        return None
    try:
        data = ast.literal_eval(actions[-1][1].strip())
        start, end, keyframe = (int(data.get(name, 0)) for name in ("start", "end", "keyframe"))
    except _UNREADABLE:
        return None
    return max(0, min(start, frames)), max(0, min(end, frames)), max(0, min(keyframe, frames - 1))
