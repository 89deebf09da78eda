"""The generated world: deterministic, unambiguous, and true in every trace."""

from __future__ import annotations

import numpy as np
import pytest

from videoseg.data.world import FAMILIES, Sample, Stage, WorldSpec, draw_sample, true_trace
from videoseg.data.world.queries import Condition, ask, phrase
from videoseg.data.world.scene import COLOURS, FINE, Scene, Thing, place, position_words
from videoseg.data.world.trace import best_view
from videoseg.dialogue.episode import Episode
from videoseg.dialogue.grammar import format_reply, parse, think_steps
from videoseg.dialogue.preset import preset
from videoseg.types import Answer, Interval, Select, StopReason
from videoseg.video.sampling import sample_video

SPEC = WorldSpec()
SEEDS = range(500, 530)


def samples(family: str) -> list[Sample]:
    return [draw_sample(seed, SPEC, family) for seed in SEEDS]


def thing(**changes: object) -> Thing:
    values: dict[str, object] = {
        "shape": "disc", "colour": "red", "size": "large", "radius": 0.2, "texture": "plain",
        "brightness": 0.8, "motion": "still", "start": (0.5, 0.5), "end": (0.5, 0.5),
    }  # fmt: skip
    return Thing(**{**values, **changes})  # type: ignore[arg-type]


def scene(*things: Thing, num_frames: int = 9) -> Scene:
    return Scene(3, 96, 64, num_frames, 8.0, things)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_seed_gives_the_same_sample(family: str) -> None:
    assert samples(family) == samples(family)
    assert draw_sample(500, SPEC, family).scene != draw_sample(501, SPEC, family).scene


@pytest.mark.parametrize("family", FAMILIES)
def test_queries_have_as_many_answers_as_their_family_says(family: str) -> None:
    for sample in samples(family):
        question, things = sample.question, len(sample.scene.things)
        wanted = {"none": [0], "several": range(2, things + 1)}.get(family, [1])
        assert question.family == family
        assert question.targets == question.condition.matches(sample.scene)
        assert len(question.targets) in wanted


def test_looks_are_distinct() -> None:
    for sample in samples("appearance"):
        looks = [(t.colour, t.size) for t in sample.scene.things]
        assert len(set(looks)) == len(looks)


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown query family 'sound'"):
        ask(scene(thing()), "sound", np.random.default_rng(0))


def test_two_equal_motions_allow_no_motion_query() -> None:
    twice = scene(thing(), thing(colour="blue"))
    assert ask(twice, "motion", np.random.default_rng(0)) is None


def test_words_say_what_the_condition_asks() -> None:
    rng = np.random.default_rng(0)
    assert phrase(Condition("red", "small", "disc"), rng).endswith("small red disc")
    assert "left" in phrase(Condition(motion="left"), rng)
    assert "stripe" in phrase(Condition(texture=FINE), rng)
    assert phrase(Condition(relation="left", other=Condition("red", "small")), rng).split("small red")[1]
    assert "red" in phrase(Condition("red"), rng, plural=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_traces_play_through_the_environment(family: str) -> None:
    chosen = preset("default", low_frames=6, high_frames=3, later_frames=3)
    for sample in samples(family)[:10]:
        length = sample.scene.num_frames
        episode = Episode(length, sample.question.text, chosen)
        trace = true_trace(sample, sample_video(length, 6))
        for reply in trace.replies:
            text = format_reply(reply)
            assert parse(text) == reply
            assert [name for name, _ in think_steps(reply.think)] == ["Step 1", "Step 2", "Step 3", "Action"]
            episode.step(text)
        assert episode.stop is StopReason.ANSWER
        assert isinstance(trace.replies[-1], Answer)
        assert episode.warnings == ()


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "none"])
def test_keyframe_shows_the_targets(family: str) -> None:
    for sample in samples(family):
        select = true_trace(sample, sample_video(sample.scene.num_frames, 6)).replies[0]
        assert isinstance(select, Select)
        assert select.interval.start <= select.keyframe <= select.interval.end
        assert Stage(sample.scene).masks(select.keyframe)[list(sample.question.targets)].any()


def test_no_such_object_is_answered_at_once_without_seg() -> None:
    for sample in samples("none"):
        trace = true_trace(sample, sample_video(sample.scene.num_frames, 6))
        assert trace.targets == ()
        assert len(trace.replies) == 1
        assert not trace.replies[0].has_seg


def test_details_are_named_only_at_the_second_look() -> None:
    for sample in samples("detail"):
        target = sample.scene.things[sample.question.targets[0]]
        first, second = true_trace(sample, sample_video(sample.scene.num_frames, 6)).replies
        assert "too small to see" in first.think
        assert f"fine stripes on {target.colour} {target.size}" in second.think


def test_what_is_gone_for_a_moment_is_named_at_the_second_look() -> None:
    gaps = [sample for sample in samples("temporal") if sample.question.condition.gap]
    assert 5 < len(gaps) < len(SEEDS) - 5
    for sample in gaps:
        target = sample.scene.things[sample.question.targets[0]]
        first, second = true_trace(sample, sample_video(sample.scene.num_frames, 6)).replies
        assert "too short to see" in first.think
        assert second.think.count("gone") == 1
        assert f"{target.colour} {target.size} gone" in second.think


def test_one_turn_can_hold_the_answer() -> None:
    for family in FAMILIES:
        for sample in samples(family)[:5]:
            (answer,) = true_trace(sample, sample_video(sample.scene.num_frames, 6), single_turn=True).replies
            assert isinstance(answer, Answer)
            assert answer.has_seg == bool(sample.question.targets)


@pytest.mark.parametrize("aspect", [0.3, 0.56])
def test_things_fit_into_upright_frames(aspect: float) -> None:
    spec = WorldSpec(width=round(240 * aspect), height=240, things=(2, 2))
    for seed in range(5):
        for item in draw_sample(seed, spec).scene.things:
            reach = item.radius * 240 / spec.width
            assert all(reach <= x <= 1 - reach for x, _ in (item.position(t) for t in (0.0, 0.5, 1.0)))
    with pytest.raises(ValueError, match="does not fit into a frame of aspect"):
        place("still", 0.2, 0.3, np.random.default_rng(0))


def test_best_view_is_within_the_life_of_a_late_thing() -> None:
    late = scene(thing(presence="late", enter=0.5), num_frames=9)
    assert best_view(late, [0], [0, 2, 4, 6, 8]) == (Interval(4, 8), 6)
    with pytest.raises(ValueError, match="in none of the frames"):
        best_view(late, [0], [0, 1])


def test_later_things_hide_earlier_ones() -> None:
    masks = Stage(scene(thing(), thing(colour="blue", radius=0.1))).masks(0)
    assert masks[1].any()
    assert not (masks[0] & masks[1]).any()
    alone = Stage(scene(thing())).masks(0)[0]
    assert (masks[0] | masks[1] == alone).all()


def test_masks_fit_the_drawing() -> None:
    for shape in ("disc", "square", "triangle", "diamond"):
        stage = Stage(scene(thing(shape=shape, brightness=1.0)), height=128, width=192)
        image, masks = stage.frame(0)
        red = (image[..., 0] > 150) & (image[..., 1] < 90)
        assert (red & masks[0]).sum() / (red | masks[0]).sum() > 0.95
        assert (stage.masks(0) == masks).all()


def test_any_resolution_shows_the_same_scene() -> None:
    small, large = (Stage(scene(thing()), side, side * 3 // 2).masks(0)[0] for side in (64, 256))
    assert abs(small.mean() - large.mean()) < 0.01


def test_fine_stripes_vanish_in_smaller_images() -> None:
    stripes = thing(texture=FINE, radius=0.22, shape="square")
    image, masks = Stage(scene(stripes), 160, 224).frame(0)
    inside = image[masks[0]].reshape(-1, 3)[:, 0].astype(float)
    plain, _ = Stage(scene(thing(radius=0.22, shape="square")), 160, 224).frame(0)
    assert inside.std() > 15
    assert abs(inside.mean() - plain[masks[0]][:, 0].mean()) < 6


@pytest.mark.parametrize("motion", ["still", "left", "right", "up", "down", "bounce", "circle", "stop"])
def test_motions_stay_in_the_frame_and_do_what_they_say(motion: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        start, end = place(motion, 0.1, 1.5, rng)
        moving = thing(motion=motion, start=start, end=end)
        path = np.array([moving.position(time) for time in np.linspace(0, 1, 17)])
        assert (path > 0).all()
        assert (path < 1).all()
        (dx, dy), reach = path[-1] - path[0], float(np.ptp(path, axis=0).max())
        expected = {"left": dx < -0.3, "right": dx > 0.3, "up": dy < -0.3, "down": dy > 0.3}
        assert expected.get(motion, True)
        assert (reach == 0) == (motion == "still")
        if motion in ("bounce", "circle"):
            assert abs(dx) + abs(dy) < 1e-6


def test_position_words() -> None:
    assert position_words(0.1, 0.1) == "left top"
    assert position_words(0.5, 0.5) == "middle centre"
    assert position_words(1.2, 0.9) == "right bottom"


def test_a_spec_that_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="things"):
        WorldSpec(things=(3, len(COLOURS) + 1))
    with pytest.raises(ValueError, match="2 frames"):
        WorldSpec(lengths=(1,))
