"""The rewards of VideoSEG-O3 by their corrected formulas (specification §12.6): seven in use, two optional.

Replies are read by the one grammar of the dialogue. "Last" means the last turn.
"""

from __future__ import annotations

from typing import NamedTuple

from videoseg.dialogue.grammar import clamp, parse, thought
from videoseg.errors import ReplyError
from videoseg.training.rewards.base import Outcome, reward
from videoseg.types import Answer, Select

STEPS = ("step 1", "step 2", "step 3", "action")
"""What a thought should name, in any case (§13)."""
PASS_IOU = 0.5
"""An interval that overlaps less with the target's frames fails."""


class Ramp(NamedTuple):
    """Above `dense` a slope from `zero` up to `cap`; `plateau` above `small`; 0 above `fail`; else −1."""

    dense: float
    slope: float
    zero: float
    cap: float
    small: float
    plateau: float
    fail: float

    def __call__(self, x: float) -> float:
        """The reward for `x`."""
        if x > self.dense:
            return min((x - self.zero) * self.slope, self.cap)
        if x > self.small:
            return self.plateau
        return 0.0 if x > self.fail else -1.0


MASK = Ramp(dense=0.4, slope=3, zero=0.4, cap=1.5, small=0.2, plateau=0.0, fail=0.2)
KEYFRAME = Ramp(dense=0.4, slope=5, zero=0.4, cap=2.5, small=0.2, plateau=0.0, fail=0.2)
GAIN = Ramp(dense=0.2, slope=5, zero=0.1, cap=2.0, small=0.1, plateau=0.5, fail=-0.05)
PROGRESS = Ramp(dense=0.1, slope=10, zero=0.05, cap=2.0, small=0.05, plateau=0.5, fail=-0.05)


@reward("format", low=-1, high=1)
def format_reward(outcome: Outcome) -> float:
    """+1 if every turn has a thought, a valid `<VTG>` and [SEG], and the last turn alone answers; else −1."""
    last = len(outcome.replies) - 1
    good = all(_well_formed(text, is_last=turn == last) for turn, text in enumerate(outcome.replies))
    return 1.0 if good else -1.0


@reward("think_steps", low=0, high=1)
def think_steps_reward(outcome: Outcome) -> float:
    """Share of the labels of `STEPS` that the thought holds, averaged over the turns."""
    thoughts = [(thought(text) or "").lower() for text in outcome.replies]
    return sum(label in text for text in thoughts for label in STEPS) / (len(STEPS) * len(thoughts))


@reward("interval_iou", low=-0.5, high=0.5)
def interval_iou(outcome: Outcome) -> float:
    """0.5 · IoU of the last interval, end included, with the frames of the target; below 0.5 it is −0.5.

    In a video without the target every valid interval is right.
    """
    reply = _last_reply(outcome)
    if reply is None:
        return -0.5
    interval = clamp(reply, len(outcome.presence))[0]
    if not interval:
        return -0.5
    inside = sum(outcome.presence[interval.start : interval.end + 1])
    present = sum(outcome.presence)
    iou = inside / (len(interval) + present - inside) if present else 1.0
    return -0.5 if iou < PASS_IOU else 0.5 * iou


@reward("keyframe_hit", low=-1, high=1)
def keyframe_hit(outcome: Outcome) -> float:
    """+1 if the target is on the last keyframe, else −1."""
    reply = _last_reply(outcome)
    if reply is None or not outcome.presence:
        return -1.0
    return 1.0 if outcome.presence[clamp(reply, len(outcome.presence))[1]] else -1.0


@reward("mask_iou", low=-1, high=1.5)
def mask_iou(outcome: Outcome) -> float:
    """Mean over the high-resolution frames of `MASK(IoU)` of the last turn's masks."""
    ious = outcome.mask_ious[-1]
    return sum(MASK(iou) for iou in ious) / len(ious)


@reward("keyframe_gain", low=-1, high=2)
def keyframe_gain(outcome: Outcome) -> float:
    """`GAIN(d)`, d = last keyframe IoU − mean IoU on the other frames; 0 for a single turn."""
    if len(outcome.replies) < 2:
        return 0.0
    ious = outcome.mask_ious[-1]
    return GAIN(outcome.keyframe_ious[-1] - sum(ious) / len(ious))


@reward("keyframe_progress", low=-1, high=2)
def keyframe_progress(outcome: Outcome) -> float:
    """`PROGRESS(d)`, d = last keyframe IoU − best earlier one (turn 0's middle frame included)."""
    *earlier, last = outcome.keyframe_ious
    return PROGRESS(last - max(earlier)) if earlier else 0.0


@reward("keyframe_iou", low=-1, high=2.5)
def keyframe_iou(outcome: Outcome) -> float:
    """`KEYFRAME(IoU)` of the last keyframe. Optional."""
    return KEYFRAME(outcome.keyframe_ious[-1])


@reward("termination", low=-1, high=1)
def termination(outcome: Outcome) -> float:
    """Answering with a keyframe IoU > 0.8 +1, < 0.2 −1; selecting at < 0.5 +1; else 0. Optional."""
    reply, iou = _last_reply(outcome), outcome.keyframe_ious[-1]
    if isinstance(reply, Answer):
        return float(iou > 0.8) - float(iou < 0.2)
    return 1.0 if reply is not None and iou < 0.5 else 0.0


DEFAULT = (
    format_reward,
    think_steps_reward,
    interval_iou,
    keyframe_hit,
    mask_iou,
    keyframe_gain,
    keyframe_progress,
)
OPTIONAL = (keyframe_iou, termination)


def _well_formed(text: str, *, is_last: bool) -> bool:
    reply = _read(text)
    if reply is None or thought(text) is None:
        return False
    return reply.has_seg and isinstance(reply, Answer) == is_last


def _last_reply(outcome: Outcome) -> Select | Answer | None:
    return _read(outcome.replies[-1])


def _read(text: str) -> Select | Answer | None:
    try:
        return parse(text)
    except ReplyError:
        return None
