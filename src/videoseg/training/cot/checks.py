"""VTS-CoT builder: what makes a dialogue unfit for training, judged by the masks (O3 spec §11, §13).

Checks come turn by turn, so that a dialogue that goes wrong costs no further request.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any

from videoseg.data.sample import RefVideoSample
from videoseg.dialogue.grammar import think_steps
from videoseg.errors import UsageError
from videoseg.types import Answer, Interval, Select

STEPS = ("Step 1", "Step 2", "Step 3", "Action")
LEAKS = ("ground truth", "annotation", "mask", "bounding box", "hint", "was told", "were told")
AGREED, AGAIN = "confirmed", "see new segment"


class Reason(StrEnum):
    """Why a dialogue was rejected; the words of journal and report."""

    BAD_FORMAT = "bad_format"
    TRUNCATED = "truncated"
    TURN_LIMIT = "turn_limit"
    OUT_OF_RANGE = "out_of_range"
    EMPTY_INTERVAL = "empty_interval"
    KEYFRAME_OUTSIDE_INTERVAL = "keyframe_outside_interval"
    REPEATED_SELECT = "repeated_select"
    NO_SEG = "no_seg"
    FALSE_TARGET = "false_target"
    KEYFRAME_WITHOUT_TARGET = "keyframe_without_target"
    KEYFRAME_NOT_ANNOTATED = "keyframe_not_annotated"
    INTERVAL_WITHOUT_TARGET = "interval_without_target"
    LOW_TIOU = "low_tiou"
    MISSING_STEPS = "missing_steps"
    WRONG_ACTION = "wrong_action"
    SHORT_THOUGHT = "short_thought"
    LONG_THOUGHT = "long_thought"
    LEAK = "leak"


@dataclass(frozen=True, slots=True)
class Rejection:
    """One finding: the reason, the turn (from 0) and what was found."""

    reason: Reason
    turn: int
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a dialogue must keep to; an area or share of 0, or a switch that is off, accepts everything.

    min_tiou: intersection over union of the answer's interval with the frames that show the target.
    min_interval_frames: frames with the target in every interval.
    min_keyframe_share: target on a keyframe, as a share of its largest area in the video.
    keyframe_inside: a keyframe lies in its interval.
    steps: every thought has steps 1 to 3 and an action, in this order, none of them empty.
    action: "Confirmed" comes with an answer, "See new segment" with a select.
    new_selects: no select repeats an earlier one.
    min_thought, max_thought: characters of a thought.
    leaks: words that speak of what the model cannot see; each is allowed where the query itself has it.
    """

    min_tiou: float = 0.5
    min_interval_frames: int = 1
    min_keyframe_share: float = 0.2
    keyframe_inside: bool = True
    steps: bool = True
    action: bool = True
    new_selects: bool = True
    min_thought: int = 40
    max_thought: int = 2000
    leaks: tuple[str, ...] = LEAKS

    def __post_init__(self) -> None:
        for name in ("min_tiou", "min_keyframe_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"limit {name} is {getattr(self, name)!r}; give a share from 0 to 1")
        if self.min_thought > self.max_thought:
            raise UsageError("limit min_thought exceeds max_thought")

    def override(self, **values: Any) -> Limits:
        """A copy with some limits replaced; UsageError on an unknown name or a value of another kind."""
        for name, value in values.items():
            if name not in {item.name for item in fields(self)}:
                raise UsageError(
                    f"unknown limit {name!r}; there are {', '.join(item.name for item in fields(self))}"
                )
            if not _like(value, getattr(self, name)):
                raise UsageError(f"limit {name} is {value!r}; give one like {getattr(self, name)!r}")
        kept: dict[str, Any] = {
            name: tuple(value) if name == "leaks" else value for name, value in values.items()
        }
        return replace(self, **kept)


def _like(value: Any, default: Any) -> bool:
    if isinstance(default, tuple):
        return isinstance(value, list | tuple) and all(isinstance(word, str) for word in value)
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    return isinstance(value, int) or (isinstance(default, float) and isinstance(value, float))


@dataclass(frozen=True, slots=True)
class Truth:
    """What the masks say: pixels of the target on every frame whose masks are known."""

    num_frames: int
    areas: dict[int, int]
    expected: bool

    @classmethod
    def of(cls, sample: RefVideoSample) -> Truth:
        """Read all known masks of a sample; raises `DatasetError` where they are missing or damaged."""
        count = len(sample.frames)
        known = tuple(range(count)) if sample.annotated is None else sample.annotated
        masks = sample.masks(known)
        areas = {frame: mask.area for frame, mask in zip(known, masks, strict=True)}
        return cls(count, areas, bool(sample.targets))

    @property
    def visible(self) -> frozenset[int]:
        """Frames that show the target."""
        return frozenset(frame for frame, area in self.areas.items() if area)

    def share(self, frame: int) -> float:
        """Area on a frame relative to the largest one."""
        return self.areas[frame] / max(1, *self.areas.values())

    def inside(self, interval: Interval) -> frozenset[int]:
        """Known frames of an interval."""
        return frozenset(frame for frame in self.areas if interval.start <= frame <= interval.end)

    def tiou(self, interval: Interval) -> float:
        """Intersection over union with the frames that show the target, over the known frames."""
        inside, visible = self.inside(interval), self.visible
        return len(inside & visible) / max(1, len(inside | visible))


def check_reply(
    reply: Select | Answer, turn: int, earlier: Sequence[Select], truth: Truth, query: str, limits: Limits
) -> tuple[Rejection, ...]:
    """All that is wrong with a parsed reply; empty if it may be learnt from."""
    numbers = tuple(_numbers(reply, earlier, truth.num_frames, limits))
    found = [*numbers, *_thought(reply, query, limits)]
    if not numbers:
        found += _against_masks(reply, truth, limits) if truth.expected else _nothing(reply)
    return tuple(Rejection(reason, turn, detail) for reason, detail in found)


Finding = tuple[Reason, str]


def _numbers(
    reply: Select | Answer, earlier: Sequence[Select], num_frames: int, limits: Limits
) -> Iterator[Finding]:
    start, end, keyframe = reply.interval.start, reply.interval.end, reply.keyframe
    if not all(0 <= value < num_frames for value in (start, end, keyframe)):
        yield Reason.OUT_OF_RANGE, f"start {start}, end {end}, keyframe {keyframe} of {num_frames} frames"
    elif end < start:
        yield Reason.EMPTY_INTERVAL, f"the interval {start} to {end} holds no frame"
    elif limits.keyframe_inside and not start <= keyframe <= end:
        yield Reason.KEYFRAME_OUTSIDE_INTERVAL, f"keyframe {keyframe}, interval {start} to {end}"
    said = [(select.interval, select.keyframe) for select in earlier]
    if limits.new_selects and isinstance(reply, Select) and (reply.interval, keyframe) in said:
        yield Reason.REPEATED_SELECT, f"{start} to {end} with keyframe {keyframe} was selected before"


def _against_masks(reply: Select | Answer, truth: Truth, limits: Limits) -> Iterator[Finding]:
    if not reply.has_seg:
        yield Reason.NO_SEG, "there is a target, but the reply has no [SEG]"
    yield from _keyframe(reply.keyframe, truth, limits)
    start, end = reply.interval.start, reply.interval.end
    frames = len(truth.inside(reply.interval) & truth.visible)
    if frames < limits.min_interval_frames:
        yield Reason.INTERVAL_WITHOUT_TARGET, f"{frames} frames of {start} to {end} show the target"
    tiou = truth.tiou(reply.interval)
    if isinstance(reply, Answer) and tiou < limits.min_tiou:
        yield Reason.LOW_TIOU, f"{start} to {end} has a temporal IoU of {tiou:.2f} with the target's frames"


def _keyframe(keyframe: int, truth: Truth, limits: Limits) -> Iterator[Finding]:
    if keyframe not in truth.areas:
        yield Reason.KEYFRAME_NOT_ANNOTATED, f"no masks are known for keyframe {keyframe}"
    elif truth.share(keyframe) < limits.min_keyframe_share or not truth.areas[keyframe]:
        share = f"{truth.share(keyframe):.2f} of its largest area"
        yield Reason.KEYFRAME_WITHOUT_TARGET, f"keyframe {keyframe} shows the target with {share}"


def _nothing(reply: Select | Answer) -> Iterator[Finding]:
    """No such object: a look is allowed, a mask in the end is not."""
    if isinstance(reply, Answer) and reply.has_seg:
        yield Reason.FALSE_TARGET, "nothing fits the query, but the answer has [SEG]"


def _thought(reply: Select | Answer, query: str, limits: Limits) -> Iterator[Finding]:
    length = len(reply.think.strip())
    if length < limits.min_thought:
        yield Reason.SHORT_THOUGHT, f"{length} characters"
    if length > limits.max_thought:
        yield Reason.LONG_THOUGHT, f"{length} characters"
    steps = think_steps(reply.think)
    labels = tuple(name for name, text in steps if text.strip(" .") and name != "Thought")
    if limits.steps and labels != STEPS:
        yield Reason.MISSING_STEPS, f"there are {', '.join(labels) or 'no steps'}"
    action = dict(steps).get("Action", "").lower()
    against = AGREED if isinstance(reply, Select) else AGAIN
    if limits.action and action.startswith(against):
        yield Reason.WRONG_ACTION, f"the action {action[:40]!r} does not go with this reply"
    if words := [word for word in limits.leaks if _holds(reply.think, word) and not _holds(query, word)]:
        yield Reason.LEAK, f"the thought speaks of {', '.join(words)}"


def _holds(text: str, word: str) -> bool:
    """Whether a word or phrase occurs, in any case, also as plural or joined by hyphens."""
    pattern = r"[\s_-]+".join(re.escape(part) for part in word.split())
    return re.search(rf"\b{pattern}(s|es)?\b", text, re.IGNORECASE) is not None
