"""Scores on the generated world: a system that knows the truth gets 100, one that says nothing does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from videoseg.data.world import FAMILIES, Stage, WorldSpec, draw_sample, true_trace
from videoseg.evaluation.world import score_families, score_result, summarise
from videoseg.masks import Masklets, Rle, masklet_from_frames
from videoseg.types import (
    Answer,
    Interval,
    MaskReason,
    Query,
    Result,
    Select,
    StopReason,
    Trace,
    Turn,
    VideoInfo,
)

SPEC = WorldSpec(lengths=(6,), width=96, height=64)


class Oracle:
    """Answers from the seed and family it is told to expect; `empty` draws nothing instead."""

    def __init__(self, empty: bool = False) -> None:
        self.empty = empty
        self.calls = 0

    def segment(self, source: Any, query: str) -> Result:
        assert Path(source).suffix == ".mp4"
        family, seed = FAMILIES[self.calls // 2], 100 + self.calls % 2
        self.calls += 1
        return answer(draw_sample(seed, SPEC, family), self.empty)


def answer(sample: Any, empty: bool) -> Result:
    scene, stage = sample.scene, Stage(sample.scene)
    targets = () if empty else sample.question.targets
    objects = tuple(
        masklet_from_frames(
            1,
            [(i, Rle.encode(stage.mask(target, i)), 1.0, 1.0) for i in range(scene.num_frames)],
            scene.num_frames,
        )
        for target in targets
    )
    reply = Answer(Interval(0, 1), 0)
    trace = Trace(Query("q"), (Turn(0, (), "", reply),), StopReason.ANSWER, 0, 0, MaskReason.OK)
    info = VideoInfo("x", scene.num_frames, scene.height, scene.width, 8.0)
    return Result(Query("q"), info, Masklets(scene.num_frames, scene.height, scene.width, objects), trace)


@pytest.mark.parametrize("empty", [False, True])
def test_scores_of_the_truth_and_of_nothing(empty: bool) -> None:
    table = score_families(Oracle(empty), 2, first_seed=100, spec=SPEC)
    for family, summary in table["per_family"].items():
        best = not empty or family == "none"
        assert summary["clips"] == 2
        assert (summary["JF"] == 100.0) == best
        assert (summary["right"] == 100.0) == best
        assert summary["parsed"] == 100.0
    assert table["overall"]["clips"] == 2 * len(FAMILIES)


def test_a_dialogue_without_an_answer_is_not_parsed() -> None:
    sample = draw_sample(100, SPEC, "appearance")
    result = answer(sample, empty=False)
    broken = Trace(
        Query("q"),
        (Turn(0, (), "", Select(Interval(0, 1), 0)), Turn(1, (), "", None, "no_action")),
        StopReason.INVALID_REPLY,
        0,
        0,
        MaskReason.OK,
    )
    score = score_result(sample, Result(result.query, result.video, result.masklets, broken))
    assert (score.parsed, score.turns, score.right) == (False, 2, True)
    assert true_trace(sample, range(6)).target == sample.question.targets[0]


def test_nothing_to_summarise() -> None:
    with pytest.raises(ValueError, match="no score"):
        summarise([])
