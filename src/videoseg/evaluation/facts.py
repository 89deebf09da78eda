"""Evaluation: what is known of a dialogue beside its masks (docs/evaluation.md, "Files").

The interval is scored as temporal grounding is (benchmarks §4.3), against the span that shows the target.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from videoseg.evaluation.metrics import grounding, keyframe_hit, span_iou
from videoseg.masks import Rle, union
from videoseg.types import Reply, StopReason, Trace, Vote

if TYPE_CHECKING:
    from videoseg.evaluation.truth import Item

Facts = dict[str, Any]
Span = tuple[int, int]


def item_facts(item: Item, truth: Sequence[Sequence[Rle]], trace: Trace | None) -> Facts | None:
    """JSON-ready facts of one expression, None without a trace.

    `truth` are the instances on every evaluated frame. Positions count all frames of the video. A keyframe
    that is not evaluated, or a video without the target, gives None for what cannot be said.
    """
    if trace is None:
        return None
    names = item.stems
    places = {name: place for place, name in enumerate(names)}
    masks = [union(codes) if codes else Rle.empty(1, 1) for codes in truth]
    shown = [places[name] for name, mask in zip(item.frames, masks, strict=True) if mask.area]
    span = (shown[0], shown[-1]) if shown else None
    interval = last_interval(trace, len(names))
    evaluated = {places[name]: number for number, name in enumerate(item.frames)}
    hit = keyframe_hit(masks, evaluated[trace.keyframe]) if span and trace.keyframe in evaluated else None
    return {
        "group": item.group,
        "query": item.text,
        "frames": len(names),
        "turns": len(trace.turns),
        "stop": trace.stop.value,
        "valid_format": valid_format(trace),
        "keyframe": trace.keyframe,
        "keyframe_hit": hit,
        "interval": list(interval) if interval else None,
        "interval_iou": interval_iou(span, interval) if span else None,
        "tokens": sum(turn.num_tokens for turn in trace.turns),
    }


def valid_format(trace: Trace) -> bool:
    """Every reply followed the grammar and the last one answered."""
    return trace.stop is StopReason.ANSWER and all(turn.reply is not None for turn in trace.turns)


def last_interval(trace: Trace, num_frames: int) -> Span | None:
    """First and last frame named by the last reply that has an interval, cut to the video."""
    found = [turn.reply.interval for turn in trace.turns if isinstance(turn.reply, Reply | Vote)]
    return (max(0, found[-1].start), min(num_frames - 1, found[-1].end)) if found else None


def interval_iou(truth: Span, guess: Span | None) -> float:
    """IoU of two runs of frames, both ends included; 0 for none and for one that ends before it starts."""
    return span_iou((truth[0], truth[1] + 1), None if guess is None else (guess[0], guess[1] + 1))


def dialogue_summary(facts: Iterable[Facts | None]) -> Facts | None:
    """Counts and percentages over the expressions that have facts; None if there is none."""
    known = [one for one in facts if one is not None]
    if not known:
        return None
    ious = [one["interval_iou"] for one in known if one["interval_iou"] is not None]
    return {
        "expressions": len(known),
        "turns": _counts(one["turns"] for one in known),
        "stop": _counts(one["stop"] for one in known),
        "valid_format": _percent(one["valid_format"] for one in known),
        "keyframe_hit": _percent(one["keyframe_hit"] for one in known if one["keyframe_hit"] is not None),
        "grounding": grounding(ious) if ious else None,
        "tokens": float(np.mean([one["tokens"] for one in known])),
    }


def _counts(values: Iterable[Any]) -> dict[str, int]:
    return {str(value): count for value, count in sorted(Counter(values).items())}


def _percent(values: Iterable[bool]) -> float | None:
    listed = list(values)
    return 100 * float(np.mean(listed)) if listed else None
