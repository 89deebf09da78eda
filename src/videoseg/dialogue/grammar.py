"""The one parser and printer of O3's turn grammar (specification §2).

    <think>…</think><select><VTG>{"start": s, "end": e, "keyframe": k}</VTG><RefSeg>[SEG]</RefSeg></select>

and the same with `answer`. Tags are found by plain substring search, so that the time is linear in the
reply whatever a model writes.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from videoseg.errors import ReplyError
from videoseg.types import Answer, Interval, Reply, Select

SEG_TOKEN = "[SEG]"
MAX_INDEX = 2**31 - 1
"""Larger numbers are cut to this (negative ones likewise): clamping to the video follows anyway."""
MAX_JSON = 4096
"""A longer `<VTG>` body is refused unread; the canonical one has about 50 characters."""

_ACTIONS: tuple[tuple[str, type[Select] | type[Answer]], ...] = (("select", Select), ("answer", Answer))
_SEG_TAGS = ("RefSeg", "RefVOS")
_TAGS = ("think", "select", "answer", "VTG", *_SEG_TAGS)
RESERVED = (SEG_TOKEN, *(text for tag in _TAGS for text in (f"<{tag}>", f"</{tag}>")))
"""What a think text may not hold if it is to be printed."""
_LABEL = re.compile(r"\b(step\s{0,3}\d{1,2}|action)\s{0,3}:", re.IGNORECASE | re.ASCII)


def parse(text: str, *, optional_vtg: bool = False, loose_json: bool = False) -> Select | Answer:
    """What an assistant turn says; the numbers are not yet clamped to the video.

    The action is searched after the first `<think>…</think>` (thoughts may mention tags). A `<select>` wins
    over an `<answer>`, as in both released loops, and a broken select is not rescued by an answer. Text
    around the tags, commas and white space are tolerated; `<RefVOS>` counts as `<RefSeg>`; the latter may be
    missing (`has_seg` is then false). With `optional_vtg` (the `released` preset) the whole text is searched
    and the action's body may be the bare JSON. With `loose_json` (likewise) a field may be whatever Python's
    `int` takes: fractions are cut, strings and booleans converted; and the JSON may be long and hold NaN.

    Raises ReplyError, and nothing else, with `kind` `no_action`, `no_vtg`, `bad_json` or `bad_field`.
    """
    think, after = _cut(text, "think") or ("", text)
    for tag, kind in _ACTIONS:
        action = _cut(text if optional_vtg else after, tag)
        if action is not None:
            return _read_action(kind, tag, action[0], think, optional_vtg, loose_json)
    raise ReplyError(
        "no_action", "the reply holds neither a complete <select>…</select> nor <answer>…</answer>"
    )


def first_vtg_keyframe(text: str) -> int | None:
    """The keyframe in the first `<VTG>` anywhere in `text`, within ±MAX_INDEX; None if absent or invalid.

    The `released` keyframe rule reads the final text this way: loosely, and without asking for an interval
    (O3 specification §8.1).
    """
    found = _cut(text, "VTG")
    if found is None:
        return None
    try:
        return _index(_load_object(found[0], loose=True), "keyframe", loose=True)
    except ReplyError:
        return None


def thought(text: str) -> str | None:
    """What stands in the first complete `<think>…</think>` of a reply; None if there is none."""
    found = _cut(text, "think")
    return None if found is None else found[0]


def format_reply(reply: Select | Answer) -> str:
    """The canonical one-line form; `parse` gives the same reply back.

    Raises ValueError if the think text holds a tag of the grammar or [SEG], or a number is out of range.
    """
    if found := [text for text in RESERVED if text in reply.think]:
        raise ValueError(f"the think text holds {', '.join(found)}, which would break the reply's grammar")
    numbers = {"start": reply.interval.start, "end": reply.interval.end, "keyframe": reply.keyframe}
    if large := [name for name, value in numbers.items() if abs(value) > MAX_INDEX]:
        raise ValueError(f"{', '.join(large)} exceeds {MAX_INDEX}")
    tag = "select" if isinstance(reply, Select) else "answer"
    seg = SEG_TOKEN if reply.has_seg else ""
    return (
        f"<think>{reply.think}</think><{tag}><VTG>{json.dumps(numbers)}</VTG><RefSeg>{seg}</RefSeg></{tag}>"
    )


def think_steps(think: str) -> tuple[tuple[str, str], ...]:
    """The labelled parts of a thinking text: `(("Step 1", …), …, ("Action", …))` (O3 specification §13).

    Labels are recognised in any case when a colon follows. Text before the first label, if any, comes as
    ("Thought", text).
    """
    labels = list(_LABEL.finditer(think))
    starts = [label.start() for label in labels]
    ends = [*starts, len(think)]
    parts = [
        (_label_name(label[1]), think[label.end() : end].strip())
        for label, end in zip(labels, ends[1:], strict=True)
    ]
    lead = think[: ends[0]].strip()
    return ((("Thought", lead),) if lead else ()) + tuple(parts)


def _label_name(label: str) -> str:
    """`STEP  1` and `step1` become `Step 1`."""
    return " ".join(re.findall(r"[a-z]+|\d+", label.lower())).capitalize()


def _cut(text: str, tag: str) -> tuple[str, str] | None:
    """What stands inside the first complete `<tag>…</tag>`, and what follows it; None if there is none."""
    start = text.find(f"<{tag}>") + len(tag) + 2
    end = text.find(f"</{tag}>", start)
    if start < len(tag) + 2 or end < 0:
        return None
    return text[start:end], text[end + len(tag) + 3 :]


def _read_action(
    kind: type[Select] | type[Answer], tag: str, body: str, think: str, optional_vtg: bool, loose: bool
) -> Select | Answer:
    found = _cut(body, "VTG")
    if found is None and not optional_vtg:
        raise ReplyError("no_vtg", f"<{tag}> holds no <VTG>…</VTG>")
    numbers, rest = found or (body, body)
    data = _load_object(numbers, loose)
    start, end, keyframe = (_index(data, name, loose) for name in ("start", "end", "keyframe"))
    return kind(Interval(start, end), keyframe, think=think, has_seg=_has_seg(rest))


def _has_seg(rest: str) -> bool:
    """Whether a `<RefSeg>` (or `<RefVOS>`) after the `<VTG>` holds [SEG]."""
    insides = (_cut(rest, tag) for tag in _SEG_TAGS)
    return any(SEG_TOKEN in inside[0] for inside in insides if inside is not None)


def _load_object(body: str, loose: bool) -> dict[str, Any]:
    if len(body) > MAX_JSON and not loose:
        raise ReplyError("bad_json", f"the <VTG> body has {len(body)} characters, more than {MAX_JSON}")
    try:
        data = json.loads(body, parse_constant=None if loose else _refuse_constant)
    # ValueError: JSON errors, and integers of more digits than Python converts; RecursionError: deep nesting
    except (ValueError, RecursionError) as error:
        raise ReplyError("bad_json", f"the <VTG> body is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ReplyError("bad_json", "the <VTG> body is not a JSON object")
    return data


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _index(data: dict[str, Any], name: str, loose: bool) -> int:
    """The field as an integer within ±MAX_INDEX; `5.0` counts as 5, booleans and strings only if `loose`."""
    if name not in data:
        raise ReplyError("bad_field", f"the <VTG> body lacks the field {name!r}")
    value = data[name]
    whole = isinstance(value, int) or (
        isinstance(value, float) and math.isfinite(value) and value.is_integer()
    )
    if not loose and (isinstance(value, bool) or not whole):
        raise ReplyError("bad_field", f"the field {name!r} is not a whole number")
    try:
        return max(-MAX_INDEX, min(MAX_INDEX, int(value)))
    # null, lists and objects; text that is no number; NaN; infinity
    except (TypeError, ValueError, OverflowError) as error:
        raise ReplyError("bad_field", f"the field {name!r} is not a number: {error}") from error


def clamp(reply: Reply, num_frames: int) -> tuple[Interval, int]:
    """Interval and keyframe of `reply` inside a video of `num_frames` (O3 specification §2).

    The interval is empty (end < start) if it lay outside the video or ran backwards.
    """
    last = num_frames - 1
    interval = Interval(max(0, reply.interval.start), min(last, reply.interval.end))
    return interval, max(0, min(last, reply.keyframe))
