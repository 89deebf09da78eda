"""Scores of trackers: true masks score 1, frozen ones less, and cases are told apart."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from sam2_builders import random_sam2
from videoseg.data.world.draw import Stage
from videoseg.data.world.tracking import tracking_scene
from videoseg.evaluation.tracking import (
    ThingScore,
    carry_by_sam2,
    carry_by_xmem,
    keep_still,
    score_tracking,
    summarise,
)
from videoseg.models.checkpoints.xmem import load_xmem
from videoseg.video.reader import Video
from xmem_builders import random_xmem

SEEDS = range(1_000_000_700, 1_000_000_706)


def test_the_truth_scores_one_and_frozen_masks_less() -> None:
    current = iter(SEEDS)

    def perfect(video: Video, masks: Tensor, keyframe: int) -> Iterator[tuple[int, Tensor]]:
        seed = next(current)
        stage = Stage(tracking_scene(seed, np.random.default_rng([seed, 2])))
        things = stage.masks(keyframe).any((1, 2))
        assert np.array_equal(masks.numpy(), stage.masks(keyframe)[things])
        return ((frame, torch.from_numpy(stage.masks(frame)[things])) for frame in range(len(video)))

    best = list(score_tracking(perfect, SEEDS))
    still = list(score_tracking(keep_still, SEEDS))
    assert {(score.J, score.F) for score in best} == {(1.0, 1.0)}
    assert [score.case for score in best] == [score.case for score in still]
    found = summarise(still)
    assert found["all"]["things"] == len(best) > len(SEEDS)
    assert 10 < found["all"]["JF"] < 90
    assert sum(group["things"] for name, group in found.items() if name != "all") == len(best)


@pytest.mark.parametrize("kind", ["xmem", "sam2"])
def test_both_trackers_are_scored(kind: str) -> None:
    carry = carry_by_xmem(random_xmem()) if kind == "xmem" else carry_by_sam2(random_sam2())
    scores = list(score_tracking(carry, SEEDS[:1]))
    assert scores
    assert all(0 <= score.J < 1 for score in scores)


def test_the_bundled_network_follows_things() -> None:
    ours = summarise(list(score_tracking(carry_by_xmem(load_xmem()), SEEDS[:2])))["all"]
    still = summarise(list(score_tracking(keep_still, SEEDS[:2])))["all"]
    assert ours["JF"] > max(70.0, still["JF"] + 10)


def test_summary_is_in_percent() -> None:
    scores = [ThingScore(1, "late", 0.5, 0.7), ThingScore(2, "plain", 0.7, 0.9)]
    assert summarise(scores)["late"] == {"things": 1, "J": 50.0, "F": 70.0, "JF": 60.0, "ci95": 0.0}
    assert summarise(scores)["all"]["JF"] == 70.0
