"""VTS-CoT builder: what the teacher is told beyond the student's own prompts (O3 spec §3, §13).

The student's system prompt shows neither the exact form of a reply nor the three steps, so a foreign model
needs both in words. None of this enters the dialogues that are stored.
"""

from __future__ import annotations

from itertools import pairwise

from videoseg.data.sample import RefVideoSample
from videoseg.dialogue.prompts import SYSTEM_PROMPT
from videoseg.training.cot.checks import Truth

GUIDE = """

Write every reply as one line of exactly this form:
<think>Step 1: ... Step 2: ... Step 3: ... Action: ...</think><select><VTG>{"start": s, "end": e, \
"keyframe": k}</VTG><RefSeg>[SEG]</RefSeg></select>
Once you are sure, write answer in place of select. You have at most {turns} replies; the last must be an \
answer.
Step 1 tells what happens and when. Step 2 tells who or what is where, how it looks and how things relate. \
Step 3 takes the query apart and says what fits it. The action is "See new segment because ..." with a \
select and "Confirmed." with an answer.
s, e and k are frame numbers as printed in the messages. The frames s to e show what the query means, of an \
answer all of them from its first to its last appearance; k is one of them, where it is seen clearly.
If nothing in the video fits the query, answer at once and leave the space between <RefSeg> and </RefSeg> \
empty.
Speak only of what can be seen in the frames."""

HINTS = """

For you alone, to be used but never spoken of: {facts} Reason as a viewer who finds this out by looking; \
the thoughts must not say that anything was known beforehand."""


def teacher_prompt(sample: RefVideoSample, truth: Truth, turns: int, *, hints: bool) -> str:
    """The teacher's system message; with `hints` it also says what the masks say."""
    guide = GUIDE.replace("{turns}", str(turns))
    told = HINTS.replace("{facts}", facts(sample, truth)) if hints else ""
    return SYSTEM_PROMPT + guide + told


def facts(sample: RefVideoSample, truth: Truth) -> str:
    """When the target is visible, and where it is on the frame that shows most of it, in words."""
    if not truth.visible:
        return "nothing in this video fits the query."
    best = max(sorted(truth.areas), key=lambda frame: truth.areas[frame])
    mask = sample.masks([best])[0]
    x, y, width, height = mask.box
    left, right = (round(100 * value / mask.width) for value in (x, x + width))
    top, bottom = (round(100 * value / mask.height) for value in (y, y + height))
    return (
        f"what the query means is visible in frames {_spans(sorted(truth.visible))}; frame {best} shows "
        f"most of it, between {left} and {right} percent of the width from the left and between {top} and "
        f"{bottom} percent of the height from the top."
    )


def _spans(frames: list[int], most: int = 8) -> str:
    """`0 to 4, 9, 12 to 30`; only the longest spans where there are many."""
    ends = [a for a, b in pairwise(frames) if b != a + 1] + frames[-1:]
    starts = frames[:1] + [b for a, b in pairwise(frames) if b != a + 1]
    spans = sorted(zip(starts, ends, strict=True), key=lambda span: span[0] - span[1])[:most]
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in sorted(spans))
