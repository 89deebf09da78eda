"""R1's settings, questions and frames."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videoseg.dialogue.budget import ImageGeometry
from videoseg.dialogue.episode import ImagePart, TextPart
from videoseg.dialogue.r1 import (
    R1Preset,
    answer_map,
    ask_interval,
    ask_percentage,
    ask_target,
    clean,
    context_frames,
    resize_plans,
)
from videoseg.errors import UsageError
from videoseg.types import Interval, Role


@pytest.mark.parametrize(
    "fields",
    [
        {"shrink": 1.0},
        {"frames": "last"},
        {"prompts": ()},
        {"prompts": ("mask",)},
        {"intervals": 0},
        {"side": 8.5},
        {"context_least": 500},
        {"temperature": -1.0},
        {"nonsense": 1},
    ],
)
def test_a_setting_that_cannot_be_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="r1"):
        R1Preset().override(**fields)


def test_the_query_is_lowered_and_loses_its_full_stop() -> None:
    assert clean(" The RED disc. ") == "the red disc"


def test_the_order_is_text_segment_references_target() -> None:
    parts = ask_target("The disc.", ((4, 6), (0, 9)), 5, R1Preset()).parts
    assert isinstance(parts[0], TextPart)
    assert parts[0].text.startswith('Find "the disc" in the last image')
    shown = [(part.frame, part.role) for part in parts if isinstance(part, ImagePart)]
    segment, reference = Role.SEGMENT, Role.REFERENCE
    assert shown == [(4, segment), (6, segment), (0, reference), (9, reference), (5, Role.TARGET)]
    label = parts[-2]
    assert isinstance(label, TextPart)
    assert "frame 5" in label.text
    ordered = ask_target("x", ((4, 6), (0, 9)), 5, R1Preset(chronological=True)).images
    assert [image.frame for image in ordered] == [0, 4, 6, 9, 5]


def test_the_samplers_questions() -> None:
    first = ask_interval("who runs?", (0, 5), fps=10.0).parts
    assert [part.text for part in first if isinstance(part, TextPart)][1:] == [
        "\n0.0 seconds:",
        "\n0.5 seconds:",
    ]
    second = ask_percentage("Who runs? ", (0, 5)).parts[0]
    assert isinstance(second, TextPart)
    assert second.text.startswith('Query: "Who runs". At which')


@given(st.integers(1, 60), st.data())
def test_context_frames_are_distinct_on_their_side_and_as_many_as_there_can_be(
    length: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, length - 1))
    end = data.draw(st.integers(start, length - 1))
    target = data.draw(st.integers(start, end))
    preset = R1Preset()
    inside, outside = context_frames(Interval(start, end), target, length, preset)
    assert all(start <= n <= end and n != target for n in inside)
    assert not any(start <= n <= end for n in outside)
    assert len({*inside, *outside}) == len(inside) + len(outside) <= preset.context_frames
    assert list(inside) == sorted(inside)
    assert list(outside) == sorted(outside)
    whole = end - start + 1 == length
    assert len(inside) == min(preset.context_frames if whole else preset.segment_frames, end - start)
    assert whole or len(outside) == min(preset.context_frames - len(inside), length - (end - start + 1))


def test_a_video_of_one_frame_has_no_context() -> None:
    assert context_frames(Interval(0, 0), 0, 1, R1Preset()) == ((), ())


@given(st.integers(20, 2200), st.integers(20, 4000), st.sampled_from([28, 32]))
def test_sizes_are_whole_tokens_within_the_limits(height: int, width: int, factor: int) -> None:
    plans = resize_plans((height, width), R1Preset(), ImageGeometry(patch=factor // 2))
    target, context = plans[Role.TARGET][-1], plans[Role.SEGMENT][-1]
    assert target.height == target.width == 840 // factor * factor
    assert context.height % factor == context.width % factor == 0
    assert 280 - factor / 2 <= max(context.height, context.width) <= 420 + factor / 2


def test_the_space_of_answers_is_its_own() -> None:
    assert answer_map((100, 200), R1Preset(space=1000)).point(500, 500) == (100, 50)
    assert answer_map((100, 200), R1Preset()).point(840, 420) == (200, 50)
