"""R1's settings and its three questions: when, at which percentage, and where (R1 specification §2, §3).

Everything a backend needs is an `Observation`: texts, and frames with the role that decides their size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from videoseg.dialogue.budget import ImageGeometry, ResizeStep, Size
from videoseg.dialogue.coordinates import PlaneMap, scale
from videoseg.dialogue.episode import ImagePart, Observation, TextPart
from videoseg.dialogue.preset import TrackerName
from videoseg.errors import UsageError
from videoseg.types import Interval, Role

SYSTEM = "You are a helpful assistant."
INTERVAL = (
    'Watch the video. Query: "{q}". When does the part needed to find the target happen? '
    "Answer with: The event happens in <start> - <end> seconds."
)
PERCENTAGE = (
    'Query: "{q}". At which percentage of this clip is the target easiest to see and to identify? '
    "Choose one of 0%, 10%, ..., 100%. Answer with the number only."
)
INSTRUCTION = (
    'Find "{q}" in the last image, the target frame; the other images are context. Compare the candidates '
    "and keep those that match best. Write your thinking in <think> </think> and the result in <answer> "
    "</answer> as a JSON list with one item per object: bounding box, one point inside the object, and one "
    'point close to the object but outside it, e.g. [{"bbox_2d": [x1, y1, x2, y2], "point_2d": [x, y], '
    '"neg_point_2d": [x, y]}].'
)
LABELS = {
    Role.SEGMENT: "\nKey segment, frame {n}:",
    Role.REFERENCE: "\nReference, frame {n}:",
    Role.TARGET: "\nTarget, frame {n}:",
}
TIME_LABEL = "\n{s:.1f} seconds:"
PROMPTS = ("box", "point", "negative")

FrameChoice = Literal["full", "first", "random", "target_only"]
Average = Literal["mean", "median"]
MaskChoice = Literal["single", "argmax3"]


@dataclass(frozen=True, slots=True, kw_only=True)
class R1Preset:
    """Every number and switch of R1; the defaults are those of the specification (§2, §3, §6, §9).

    side: the target frame is squashed to a square of so many pixels (cut to a multiple of the model's token).
    space: coordinates of an answer run from 0 to this; 0 means `side`.
    context_frames, segment_frames: frames beside the target, and how many at most from the key segment.
    chronological: show references and key segment in order of time instead of one after the other.
    context_least, context_most: limits of the longer side of a context frame.
    frames: `full` sampler, or an alternative of Table 5: `first` frame, `random` frame of the key segment,
        `target_only` (the frame level alone, over the whole video).
    intervals, percentages: replies averaged per question (K, M), drawn with `temperature` and `top_p`.
    shrink, rounds, least_ratio, short: the segment level goes on while the segment is longer than `shrink`
        of the video, at most `rounds` times; it is cut instead where it shrinks by less than `least_ratio`;
        videos of at most `short` frames are left whole.
    sampler_frames: frames shown to the sampler.
    tracker: what carries the masks through the video.
    prompts: what SAM2 is given of an answer (Table 6); `masks`: one mask, or the best of three by IoU.
    union_first: propagate the union of the objects as one, as VISA does.
    retry: ask once more with sampling where an answer holds no valid object.
    """

    name: str = "r1"
    side: int = 840
    space: int = 0
    context_frames: int = 12
    segment_frames: int = 6
    chronological: bool = False
    context_least: int = 280
    context_most: int = 420
    frames: FrameChoice = "full"
    intervals: int = 10
    percentages: int = 10
    temperature: float = 0.6
    top_p: float = 0.9
    average: Average = "mean"
    shrink: float = 0.5
    rounds: int = 3
    least_ratio: float = 0.05
    short: int = 8
    sampler_frames: int = 16
    sampler_tokens: int = 128
    max_new_tokens: int = 1024
    tracker: TrackerName = "xmem"
    prompts: tuple[str, ...] = PROMPTS
    masks: MaskChoice = "single"
    union_first: bool = False
    retry: bool = True

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if get_origin(hint) is Literal and value not in get_args(hint):
                raise UsageError(f"r1 field {name} must be one of {', '.join(get_args(hint))}, got {value!r}")
            if hint is int and (not isinstance(value, int) or value < (name not in MAY_BE_ZERO)):
                raise UsageError(f"r1 field {name} must be a whole number of at least 1, got {value!r}")
        if not 0 < self.shrink < 1 or not 0 <= self.least_ratio < 1 or not 0 < self.top_p <= 1:
            raise UsageError("r1 fields shrink, least_ratio and top_p are shares: shrink between 0 and 1")
        if not self.prompts or set(self.prompts) - set(PROMPTS):
            raise UsageError(f"r1 field prompts takes {', '.join(PROMPTS)}, got {', '.join(self.prompts)}")
        if self.context_least > self.context_most or self.temperature < 0:
            raise UsageError("r1: context_least exceeds context_most, or temperature is below 0")

    @property
    def extent(self) -> int:
        """Largest coordinate of an answer."""
        return self.space or self.side

    def override(self, **overrides: Any) -> R1Preset:
        """A copy with fields replaced; UsageError on an unknown field or value."""
        known = {item.name for item in fields(self)}
        if unknown := sorted(set(overrides) - known):
            raise UsageError(
                f"unknown r1 field {', '.join(unknown)}; the fields are {', '.join(sorted(known))}"
            )
        if "prompts" in overrides:
            overrides["prompts"] = tuple(overrides["prompts"])
        return replace(self, **overrides)


MAY_BE_ZERO = {"space", "rounds", "short", "context_frames", "segment_frames"}


def clean(query: str) -> str:
    """The query as the reasoner reads it: lower case, without the final full stop."""
    return query.strip().lower().removesuffix(".").rstrip()


def ask_interval(query: str, frames: Sequence[int], fps: float) -> Observation:
    """When does it happen? Frames are labelled with their time in the video."""
    parts: list[TextPart | ImagePart] = [TextPart(INTERVAL.replace("{q}", query))]
    for frame in frames:
        parts += [TextPart(TIME_LABEL.format(s=frame / fps)), ImagePart(frame, Role.SEGMENT)]
    return Observation(tuple(parts), 0)


def ask_percentage(query: str, frames: Sequence[int]) -> Observation:
    """Where in the clip is the target clearest? A final question mark of the query is dropped."""
    question = query.strip().removesuffix("?").rstrip()
    images = tuple(ImagePart(frame, Role.SEGMENT) for frame in frames)
    return Observation((TextPart(PERCENTAGE.replace("{q}", question)), *images), 0)


def ask_target(
    query: str,
    context: tuple[Sequence[int], Sequence[int]],
    target: int,
    preset: R1Preset,
) -> Observation:
    """Where is the target? Text, frames of the key segment, references, target frame (order of the figure).

    `context` are the frames of the segment and the references, as `context_frames` gives them.
    """
    parts: list[TextPart | ImagePart] = [TextPart(INSTRUCTION.replace("{q}", clean(query)))]
    shown = [(n, role) for role, ns in zip((Role.SEGMENT, Role.REFERENCE), context, strict=True) for n in ns]
    if preset.chronological:
        shown.sort()
    for frame, role in [*shown, (target, Role.TARGET)]:
        parts += [TextPart(LABELS[role].format(n=frame)), ImagePart(frame, role)]
    return Observation(tuple(parts), 0)


def context_frames(
    segment: Interval, target: int, num_frames: int, preset: R1Preset
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Frames of the key segment and references outside it, both uniform, without the target (§2).

    Where the segment is the whole video all come from it; where little lies outside, the segment gives the
    rest, so that there are `context_frames` of them if the video is long enough.
    """
    inside = [n for n in range(segment.start, segment.end + 1) if n != target]
    outside = [n for n in range(num_frames) if not segment.start <= n <= segment.end]
    wanted = preset.context_frames
    few = min(preset.segment_frames, len(inside)) if outside else wanted
    others = min(wanted - few, len(outside)) if outside else 0
    return _uniform(inside, few), _uniform(outside, others)


def _uniform(frames: Sequence[int], count: int) -> tuple[int, ...]:
    """`count` of the frames, in the middles of equal parts."""
    if count >= len(frames):
        return tuple(frames)
    return tuple(frames[int((part + 0.5) * len(frames) / count)] for part in range(count))


def resize_plans(
    frame_size: Size, preset: R1Preset, geometry: ImageGeometry
) -> dict[Role, tuple[ResizeStep, ...]]:
    """How a frame of (height, width) is resized for each role, in multiples of one token (§3)."""
    factor = geometry.factor
    side = max(factor, preset.side // factor * factor)
    longest = min(max(max(frame_size), preset.context_least), preset.context_most)
    ratio = longest / max(frame_size)
    height, width = (max(factor, round(length * ratio / factor) * factor) for length in frame_size)
    context = (ResizeStep(height, width, "tensor_bicubic"),)
    target = (ResizeStep(side, side, "tensor_bicubic"),)
    return {Role.SEGMENT: context, Role.REFERENCE: context, Role.TARGET: target}


def answer_map(frame_size: Size, preset: R1Preset) -> PlaneMap:
    """From coordinates of an answer to pixels of a frame of (height, width)."""
    return scale((preset.extent, preset.extent), frame_size)
