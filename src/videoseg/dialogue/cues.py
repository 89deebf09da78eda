"""The one parser and printer of R1's answers (specification §3): boxes and points as JSON, and their mapping.

<think>…</think><answer>[{"bbox_2d": [x1, y1, x2, y2], "point_2d": [x, y], "neg_point_2d": [x, y]}]</answer>
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from videoseg.dialogue.coordinates import PlaneMap
from videoseg.dialogue.grammar import thought
from videoseg.errors import ReplyError
from videoseg.types import Box, Cue, Cues, Interval, Point

MAX_ANSWER = 100_000
"""A longer answer is refused unread; 120 objects have about 12,000 characters."""
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_NUMBER = r"(\d{1,9}(?:\.\d{1,9})?)"
_SPAN = re.compile(_NUMBER + r"\s*(?:s|sec|seconds)?\s*(?:-|–|—|to|and)\s*" + _NUMBER)
_SHARE = re.compile(r"(last\s+)?" + _NUMBER + r"\s*%?", re.IGNORECASE)


def answer_items(text: str) -> list[Any]:
    """The JSON list in the first `<answer>` behind the thought, or else at all, its items as they are.

    Raises ReplyError with `kind` `no_answer`, `bad_json` or `not_a_list`.
    """
    found = _ANSWER.search(text, text.find("</think>") + 1) or _ANSWER.search(text)
    if found is None:
        raise ReplyError("no_answer", "the reply holds no complete <answer>…</answer>")
    body = found[1].strip()
    try:
        items = json.loads(body) if len(body) <= MAX_ANSWER else None
    except (ValueError, RecursionError) as error:
        raise ReplyError("bad_json", f"the answer is not JSON ({error})") from error
    if not isinstance(items, list):
        raise ReplyError("not_a_list", "the answer is not a JSON list of objects, or too long a one")
    return items


def numbers(item: Any, key: str, count: int) -> tuple[float, ...] | None:
    """`count` finite numbers under `key` of a JSON object; None where there is anything else."""
    values = item.get(key) if isinstance(item, dict) else None
    if not isinstance(values, list) or len(values) != count:
        return None
    if any(isinstance(v, bool) or not isinstance(v, int | float) or not math.isfinite(v) for v in values):
        return None
    return tuple(float(value) for value in values)


def parse_cues(text: str, to_frame: PlaneMap, frame_size: tuple[int, int]) -> Cues:
    """What a reply says, in whole pixels of a frame of (height, width).

    Boxes are clipped to the frame; an item without a box that has an area there is dropped. A missing point
    or negative point is accepted; a negative equal to the point is dropped (decision 25). Raises ReplyError
    as `answer_items` does.
    """
    found = (_cue(item, to_frame, frame_size) for item in answer_items(text))
    return Cues(thought(text) or "", tuple(cue for cue in found if cue is not None))


def _cue(item: Any, to_frame: PlaneMap, frame_size: tuple[int, int]) -> Cue | None:
    corners = numbers(item, "bbox_2d", 4)
    box = None if corners is None else _clipped(to_frame.box(corners), frame_size)
    if box is None:
        return None
    point, negative = (_point(numbers(item, key, 2), to_frame) for key in ("point_2d", "neg_point_2d"))
    return Cue(box, point, None if negative == point else negative)


def _point(values: Sequence[float] | None, to_frame: PlaneMap) -> Point | None:
    if values is None:
        return None
    x, y = to_frame.point(*values)
    return round(x), round(y)


def _clipped(box: Sequence[float], frame_size: tuple[int, int]) -> Box | None:
    height, width = frame_size
    x1, y1, x2, y2 = (round(value) for value in box)
    x1, y1, x2, y2 = max(0, x1), max(0, y1), min(width, x2), min(height, y2)
    return (x1, y1, x2, y2) if x2 > x1 and y2 > y1 else None


def format_cues(cues: Cues, from_frame: PlaneMap) -> str:
    """The canonical reply; coordinates are those of the answer, rounded. `parse_cues` reads it back."""
    items = [_item(cue, from_frame) for cue in cues.objects]
    return f"<think>{cues.think}</think><answer>{json.dumps(items)}</answer>"


def _item(cue: Cue, from_frame: PlaneMap) -> dict[str, list[int]]:
    item = {"bbox_2d": [round(value) for value in from_frame.box(cue.box)]}
    for key, point in (("point_2d", cue.point), ("neg_point_2d", cue.negative)):
        if point is not None:
            item[key] = [round(value) for value in from_frame.point(*point)]
    return item


def parse_seconds(text: str, fps: float, inside: Interval) -> Interval | None:
    """The interval of a sampler's reply as frames, swapped if reversed and clipped to `inside` (§2).

    The last span `a - b` counts, as a thought may name others, else the last two numbers; None where there
    are no two.
    """
    spans = _SPAN.findall(text)
    found = spans[-1] if spans else re.findall(_NUMBER, text)[-2:]
    if len(found) < 2:
        return None
    ends = sorted(min(max(int(float(value) * fps), inside.start), inside.end) for value in found)
    return Interval(ends[0], ends[1])


def parse_share(text: str) -> float | None:
    """The share in [0, 1] of a reply such as `40%`; "last 40%" is 0.6; None where there is none (§2)."""
    found = _SHARE.search(text)
    if found is None:
        return None
    share = min(float(found[2]) / 100, 1.0)
    return 1 - share if found[1] else share
