"""The generator checked from outside: queries mean what they say, and details need the second look.

`satisfying` reads the words with a lexicon of its own and looks at paths and visible pixels; `read_detail`
compares what a preset shows with what it would show if another thing bore the mark.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from videoseg.data.world import FAMILIES, TEST_SEEDS, Sample, Stage, WorldSpec, draw, draw_sample, sampler
from videoseg.data.world.scene import COLOURS, FINE, MOTIONS, Scene, Thing
from videoseg.dialogue.budget import ImageGeometry
from videoseg.dialogue.episode import ImagePart
from videoseg.dialogue.preset import preset
from videoseg.models.tiny import PRESET, PROCESSOR
from videoseg.types import Role
from world_meaning import read_query, satisfying
from world_oracle import VISIBLE, Oracle, observed, read_detail

SPEC = WorldSpec()
SEEDS = [*range(150), *TEST_SEEDS[:150]]
DETAILS = TEST_SEEDS[:20]
SHOWN = preset(**PRESET)
GEOMETRY = ImageGeometry.from_processor_config(PROCESSOR)


def thing(**changes: object) -> Thing:
    values: dict[str, object] = {
        "shape": "disc", "colour": "red", "size": "large", "radius": 0.2, "texture": "plain",
        "brightness": 0.8, "motion": "still", "start": (0.5, 0.5), "end": (0.5, 0.5),
    }  # fmt: skip
    return Thing(**{**values, **changes})  # type: ignore[arg-type]


def scene(*things: Thing, num_frames: int = 13) -> Scene:
    return Scene(3, 224, 160, num_frames, 8.0, things)


@pytest.mark.parametrize("family", FAMILIES)
def test_exactly_the_stated_things_fit_the_words(family: str) -> None:
    wrong = {}
    for seed in SEEDS:
        sample = draw_sample(seed, SPEC, family)
        found = satisfying(sample.scene, sample.question.text)
        if found != sample.question.targets:
            wrong[seed] = (sample.question.text, sample.question.targets, found)
    assert not wrong


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "spec",
    [
        WorldSpec(motions=MOTIONS, things=(3, 6)),
        WorldSpec(width=96, height=224, things=(2, 3)),
        WorldSpec(width=320, height=180, lengths=(40, 64)),
    ],
    ids=["all motions", "upright", "wide and long"],
)
def test_other_worlds_are_unambiguous_too(spec: WorldSpec, family: str) -> None:
    samples = [draw_sample(seed, spec, family) for seed in range(10, 40)]
    wrong = [
        (s.scene.seed, s.question.text)
        for s in samples
        if satisfying(s.scene, s.question.text) != s.question.targets
    ]
    assert not wrong


@pytest.mark.parametrize(
    ("query", "changes"),
    [
        ("the red one", {}),
        ("the large disc", {}),
        ("small object", {"radius": 0.09}),
        ("what stays in place", {}),
        ("the thing moving to the right", {"motion": "right", "start": (0.2, 0.5), "end": (0.8, 0.5)}),
        ("what moves to the left", {"motion": "left", "start": (0.8, 0.5), "end": (0.2, 0.55)}),
        ("the one going up", {"motion": "up", "start": (0.5, 0.7), "end": (0.5, 0.3)}),
        ("what moves down", {"motion": "down", "start": (0.5, 0.3), "end": (0.5, 0.7)}),
        ("what goes and comes back", {"motion": "bounce", "start": (0.2, 0.5), "end": (0.8, 0.5)}),
        ("the one that moves in a circle", {"motion": "circle", "start": (0.3, 0.5), "end": (0.7, 0.5)}),
        ("what stops moving halfway", {"motion": "stop", "start": (0.2, 0.5), "end": (0.8, 0.5)}),
        ("the object that appears late", {"presence": "late", "enter": 0.5}),
        ("what leaves early", {"presence": "early", "leave": 0.5}),
        ("what has fine stripes", {"texture": FINE}),
        ("what vanishes briefly soon after the start", {"gap": (0.05, 0.2)}),
        ("the one that blinks just before the end", {"gap": (0.8, 0.95)}),
        ("what moves like the blue one", {"motion": "right", "start": (0.2, 0.5), "end": (0.8, 0.5)}),
        ("what is below the blue square", {"start": (0.5, 0.8), "end": (0.5, 0.8)}),
        ("the thing above blue square", {"radius": 0.05, "start": (0.5, 0.06), "end": (0.5, 0.06)}),
        ("what the blue one would hit first", {"start": (0.95, 0.25), "end": (0.95, 0.25), "radius": 0.1}),
    ],
)
def test_words_fit_what_they_describe_and_nothing_else(query: str, changes: dict) -> None:
    other = thing(
        colour="blue", shape="square", radius=0.12, motion="right", start=(0.3, 0.2), end=(0.7, 0.2)
    )
    if "right" in query:
        other = replace(other, motion="up", start=(0.1, 0.8), end=(0.1, 0.2))
    if "small" in query:
        other = replace(other, radius=0.2)
    assert satisfying(scene(other, thing(**changes)), query) == (1,)


def test_labels_without_the_looks_do_not_count() -> None:
    """The check reads paths and pixels: a wrong label of the generator would be found."""
    mislabelled = thing(motion="right", start=(0.5, 0.5), end=(0.5, 0.5))
    assert satisfying(scene(mislabelled), "what moves to the right") == ()
    assert satisfying(scene(thing(presence="late", enter=0.0)), "what shows up later") == ()
    hidden = thing(radius=0.05, colour="blue")
    assert satisfying(scene(hidden, thing()), "what stays in place") == (1,)


def test_a_false_truth_is_found() -> None:
    sample = draw_sample(5, SPEC, "appearance")
    (target,) = sample.question.targets
    colours = {item.colour for item in sample.scene.things}
    painted = replace(sample.scene.things[target], colour=min(set(COLOURS) - colours))
    things = tuple(painted if i == target else item for i, item in enumerate(sample.scene.things))
    assert satisfying(replace(sample.scene, things=things), sample.question.text) != (target,)


def test_unknown_words_are_not_skipped() -> None:
    with pytest.raises(ValueError, match="'purple' is not understood"):
        read_query("the purple one")


def detail(texture_of_others: str, *, seed: int = 5) -> Sample:
    """A detail clip whose other things all have one texture."""
    sample = draw_sample(seed, SPEC, "detail")
    (target,) = sample.question.targets
    things = tuple(
        item if i == target else replace(item, texture=texture_of_others)
        for i, item in enumerate(sample.scene.things)
    )
    return replace(sample, scene=replace(sample.scene, things=things))


@pytest.fixture
def fine_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another mark: a chequerboard of single pixels at 224 x 160, on things that are otherwise plain."""
    paint = draw._paint_of

    def chequered(item: Thing, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        if item.texture != FINE:
            return paint(item, y, x)
        wave = np.sin(np.pi * x * item.radius * 160) * np.sin(np.pi * y * item.radius * 160)
        shade = (1 + np.where(wave > 0, 0.16, -0.16)) * item.brightness
        return (shade[..., None] * np.array(COLOURS[item.colour])).astype(np.float32)

    monkeypatch.setattr(draw, "_paint_of", chequered)
    monkeypatch.setattr(sampler, "TEXTURES", ("plain",))


@pytest.mark.parametrize("seed", DETAILS[:8])
def test_the_right_select_shows_the_detail(seed: int) -> None:
    reading = read_detail(draw_sample(seed, SPEC, "detail"), SHOWN, GEOMETRY)
    assert reading.answerable_after
    assert reading.contrast[Role.KEYFRAME] > 5 * VISIBLE


def test_details_cannot_be_read_from_the_first_observation() -> None:
    readings = [read_detail(draw_sample(seed, SPEC, "detail"), SHOWN, GEOMETRY) for seed in DETAILS]
    assert not any(reading.answerable_at_once for reading in readings)
    assert all(reading.contrast[role] < VISIBLE for reading in readings for role in (Role.LOW, Role.HIGH))


@pytest.mark.usefixtures("fine_check")
def test_a_finer_mark_needs_the_second_look() -> None:
    """The oracle can tell: with a mark that vanishes, nothing is known at first and everything after."""
    for seed in DETAILS:
        sample = draw_sample(seed, SPEC, "detail")
        reading = read_detail(sample, SHOWN, GEOMETRY)
        assert reading.at_once == tuple(range(len(sample.scene.things)))
        assert reading.answerable_after
        assert max(reading.contrast[Role.LOW], reading.contrast[Role.HIGH]) < VISIBLE
        assert reading.contrast[Role.KEYFRAME] > 5 * VISIBLE


@pytest.mark.usefixtures("fine_check")
def test_visible_textures_on_the_others_give_the_detail_away() -> None:
    assert read_detail(detail("stripes"), SHOWN, GEOMETRY).answerable_at_once
    assert not read_detail(detail("plain"), SHOWN, GEOMETRY).answerable_at_once


@pytest.mark.usefixtures("fine_check")
def test_a_keyframe_without_the_mark_does_not_help() -> None:
    late = thing(texture=FINE, presence="late", enter=0.6, start=(0.2, 0.5), end=(0.2, 0.5), radius=0.1)
    also = replace(late, texture="plain", start=(0.7, 0.5), end=(0.7, 0.5))
    oracle = Oracle(scene(late, also), SHOWN, GEOMETRY)
    assert oracle.suspects([ImagePart(0, Role.KEYFRAME)]) == (0, 1)
    assert oracle.suspects([ImagePart(12, Role.LOW)]) == (0, 1)
    assert oracle.suspects([ImagePart(12, Role.KEYFRAME)]) == (0,)


def test_gaps_show_only_at_the_second_look() -> None:
    """No image of the first turn lies in a gap; after the true select one shows the target gone alone."""
    samples = [draw_sample(seed, SPEC, "temporal") for seed in TEST_SEEDS[:60]]
    gaps = [sample for sample in samples if sample.question.condition.gap]
    assert len(gaps) > 15
    for sample in gaps:
        first, second = list(observed(sample, SHOWN))[:2]
        stage = Stage(sample.scene)
        assert all(stage.masks(image.frame).any((1, 2)).all() for image in first)
        inner = [image.frame for image in second if image.role is Role.LOW][1:-1]
        gone = {n for frame in inner for n in np.flatnonzero(~stage.masks(frame).any((1, 2)))}
        assert gone == set(sample.question.targets)


def test_a_detail_has_one_bearer() -> None:
    with pytest.raises(ValueError, match="0 targets"):
        read_detail(draw_sample(1, SPEC, "none"), SHOWN, GEOMETRY)
