"""Formats: a trace as plain JSON values, and back."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from videoseg.types import (
    Answer,
    Cue,
    Cues,
    Interval,
    MaskReason,
    Point,
    Query,
    Reply,
    Role,
    Select,
    ShownFrame,
    StopReason,
    Trace,
    Turn,
    VideoInfo,
    Vote,
)

REPLIES: dict[str, type[Select] | type[Answer]] = {"select": Select, "answer": Answer}


def trace_to_json(trace: Trace) -> dict[str, Any]:
    """The trace as dictionaries, lists, text and numbers."""
    return asdict(trace) | {"turns": [_turn_to_json(turn) for turn in trace.turns]}


def trace_from_json(value: dict[str, Any]) -> Trace:
    """Inverse of `trace_to_json`; raises `KeyError`, `TypeError` or `ValueError` on other values."""
    return Trace(
        query=query_from_json(value["query"]),
        turns=tuple(_turn_from_json(turn) for turn in value["turns"]),
        stop=StopReason(value["stop"]),
        keyframe=int(value["keyframe"]),
        seg_turn=None if value["seg_turn"] is None else int(value["seg_turn"]),
        mask_reason=MaskReason(value["mask_reason"]),
        warnings=tuple(str(warning) for warning in value["warnings"]),
    )


def query_from_json(value: dict[str, Any]) -> Query:
    """The query of `{"id", "text"}`."""
    return Query(text=str(value["text"]), id=str(value["id"]))


def video_from_json(value: dict[str, Any]) -> VideoInfo:
    """The facts about the video."""
    numbers = {name: int(value[name]) for name in ("num_frames", "height", "width")}
    return VideoInfo(source=str(value["source"]), fps=float(value["fps"]), **numbers)


def _turn_to_json(turn: Turn) -> dict[str, Any]:
    return asdict(turn) | {"reply": _reply_to_json(turn.reply)}


def _turn_from_json(value: dict[str, Any]) -> Turn:
    return Turn(
        index=int(value["index"]),
        shown=tuple(
            ShownFrame(int(s["frame"]), Role(s["role"]), int(s["width"]), int(s["height"]))
            for s in value["shown"]
        ),
        text=str(value["text"]),
        reply=_reply_from_json(value["reply"]),
        error=None if value["error"] is None else str(value["error"]),
        steps=tuple((str(name), str(text)) for name, text in value["steps"]),
        num_tokens=int(value["num_tokens"]),
        seconds=float(value["seconds"]),
    )


def _reply_to_json(reply: Reply | Vote | Cues | None) -> dict[str, Any] | None:
    if reply is None:
        return None
    if isinstance(reply, Vote | Cues):
        return {"action": "vote" if isinstance(reply, Vote) else "cues", **asdict(reply)}
    return {
        "action": "select" if isinstance(reply, Select) else "answer",
        "interval": [reply.interval.start, reply.interval.end],
        "keyframe": reply.keyframe,
        "think": reply.think,
        "has_seg": reply.has_seg,
    }


def _reply_from_json(value: dict[str, Any] | None) -> Select | Answer | Vote | Cues | None:
    if value is None:
        return None
    if value["action"] == "vote":
        return _vote_from_json(value)
    if value["action"] == "cues":
        return Cues(str(value["think"]), tuple(_cue_from_json(cue) for cue in value["objects"]))
    start, end = value["interval"]
    kind = REPLIES[value["action"]]
    return kind(
        Interval(int(start), int(end)), int(value["keyframe"]), value["think"], bool(value["has_seg"])
    )


def _vote_from_json(value: dict[str, Any]) -> Vote:
    keyframe = value["keyframe"]
    return Vote(
        Interval(int(value["interval"]["start"]), int(value["interval"]["end"])),
        tuple(tuple(float(number) for number in row) for row in value["values"]),
        int(value["asked"]),
        tuple(float(number) for number in value["spread"]),
        None if keyframe is None else int(keyframe),
    )


def _cue_from_json(value: dict[str, Any]) -> Cue:
    x1, y1, x2, y2 = (int(number) for number in value["box"])
    return Cue((x1, y1, x2, y2), _point(value["point"]), _point(value["negative"]))


def _point(value: list[int] | None) -> Point | None:
    return None if value is None else (int(value[0]), int(value[1]))
