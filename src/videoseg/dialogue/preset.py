"""How an O3 dialogue is held: the named presets and their budgets (O3 specification §3, §4, §8, §9).

`DEFAULT` is the corrected behaviour, `RELEASED` what the published checkpoints were evaluated with.
Every departure between the two is a field of `Preset`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from videoseg.errors import UsageError
from videoseg.types import O3_ROLES, Role

LaterQuery = Literal["bare", "question"]
IndexStyle = Literal["plain", "numpy2"]
Resampling = Literal["single", "three_step"]
SegRule = Literal["assistant", "anywhere"]
KeyframePolicy = Literal["observed", "last_select", "answer"]
Propagation = Literal["inject_every_frame", "inject_once", "original_sam2", "per_frame"]
TrackerName = Literal["sam2", "xmem"]

UNIT = 28 * 28
"""The published budgets count pixels in squares of 28 (O3 specification §4)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Frames and pixels of one stage (O3 specification §4); pixels are areas, height × width.

    A video (turn 0) of at most `frames + slack` frames is shown whole. Raises UsageError on values below 1
    or a minimum above a maximum.
    """

    low_frames: int = 20
    high_frames: int = 8
    later_frames: int = 5
    low_pixels: int = 32 * UNIT
    high_pixels: int = 256 * UNIT
    keyframe_pixels: int = 512 * UNIT
    min_pixels: int = 4 * UNIT
    max_turns: int = 3
    max_new_tokens: int = 1024
    slack: int = 0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least = 0 if name == "slack" else 1
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UsageError(f"budget field {name} must be an integer of at least {least}, got {value!r}")
        for role in O3_ROLES:
            if self.max_pixels(role) < self.min_pixels:
                raise UsageError(
                    f"min_pixels ({self.min_pixels}) exceeds the maximum of role {role.value} "
                    f"({self.max_pixels(role)}); lower min_pixels or raise {role.value}_pixels"
                )

    def max_pixels(self, role: Role) -> int:
        """Largest image area of a frame shown as `role`."""
        limits = {Role.LOW: self.low_pixels, Role.HIGH: self.high_pixels, Role.KEYFRAME: self.keyframe_pixels}
        return limits[role]


EVALUATION_BUDGET = Budget()
RL_BUDGET = Budget(
    low_frames=10,
    high_frames=5,
    high_pixels=128 * UNIT,
    keyframe_pixels=256 * UNIT,
    max_new_tokens=512,
    slack=1,
)
COLD_START_BUDGET = Budget(high_pixels=128 * UNIT, slack=1)
"""Cold start takes its high-resolution turn-0 frames from the data (`Episode(..., high_frames=...)`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Every switch of the dialogue; the defaults are our corrected behaviour (O3 specification §9, §16).

    question_newlines: a newline before and after the turn-0 question (as in RL training).
    delete_placeholders: drop the substrings `<image>` and `<video>` from the question.
    later_query: what later turns repeat, the bare query or the whole turn-0 sentence.
    index_style: frame lists as `[0, 5]` or as NumPy 2 prints a list of its integers.
    image_separator: text between two neighbouring images.
    resampling: one bicubic resize, or the three resizes of the released evaluation.
    obey_processor_limits: apply the pixel limits of the checkpoint's `preprocessor_config.json`.
    optional_vtg: `<select>` may hold the JSON without `<VTG>`.
    loose_json: numbers of a turn may be fractions (cut), strings or booleans, as Python's `int` takes them.
    strip_history: strip a reply, with its `<|im_end|>`, of outer white space before it becomes history; so
        what stands between the last tag and `<|im_end|>` stays.
    seg_rule: take [SEG] from assistant tokens, or anywhere but the final token.
    keyframe_policy, propagation: O3 specification §8.1 and §8.3.
    tracker: `xmem` carries the keyframe's mask instead of SAM2 (`propagation` is then not read).
    exact_normalization: False rounds SAM2's image mean and std to bfloat16, as the release does.

    Raises UsageError on a value outside a field's choices.
    """

    name: str = "default"
    budget: Budget = field(default_factory=Budget)
    question_newlines: bool = True
    delete_placeholders: bool = False
    later_query: LaterQuery = "bare"
    index_style: IndexStyle = "plain"
    image_separator: str = ""
    resampling: Resampling = "single"
    obey_processor_limits: bool = False
    optional_vtg: bool = False
    loose_json: bool = False
    strip_history: bool = False
    seg_rule: SegRule = "assistant"
    keyframe_policy: KeyframePolicy = "observed"
    propagation: Propagation = "inject_every_frame"
    tracker: TrackerName = "sam2"
    exact_normalization: bool = True

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if get_origin(hint) is Literal:
                if value not in get_args(hint):
                    choices = ", ".join(get_args(hint))
                    raise UsageError(f"preset field {name} must be one of {choices}, got {value!r}")
            elif not isinstance(value, hint):
                raise UsageError(f"preset field {name} must be of type {hint.__name__}, got {value!r}")

    def override(self, **overrides: Any) -> Preset:
        """A copy with fields of `Preset` or `Budget` replaced; UsageError on an unknown field or value."""
        own = {item.name for item in fields(Preset)}
        budget_names = {item.name for item in fields(Budget)}
        if unknown := sorted(set(overrides) - own - budget_names):
            known = ", ".join(sorted(own | budget_names))
            raise UsageError(f"unknown preset field {', '.join(unknown)}; the fields are {known}")
        chosen = replace(self, **{key: value for key, value in overrides.items() if key in own})
        sizes = {key: value for key, value in overrides.items() if key in budget_names}
        return replace(chosen, budget=replace(chosen.budget, **sizes)) if sizes else chosen


DEFAULT = Preset()
RELEASED = Preset(
    name="released",
    question_newlines=False,
    delete_placeholders=True,
    later_query="question",
    index_style="numpy2",
    resampling="three_step",
    obey_processor_limits=True,
    optional_vtg=True,
    loose_json=True,
    strip_history=True,
    seg_rule="anywhere",
    keyframe_policy="last_select",
    exact_normalization=False,
)
PRESETS: dict[str, Preset] = {preset.name: preset for preset in (DEFAULT, RELEASED)}


def preset(name: str, **overrides: Any) -> Preset:
    """The preset of that name with some fields of `Preset` or `Budget` replaced.

    Raises UsageError on an unknown name, field or value.
    """
    if name not in PRESETS:
        raise UsageError(f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name].override(**overrides)
