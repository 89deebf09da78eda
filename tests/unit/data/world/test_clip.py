"""Generated clips as files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from videoseg.data.world import Stage, WorldSpec, draw_sample, generate, write_clip
from videoseg.dialogue.grammar import parse
from videoseg.masks import Rle
from videoseg.video.reader import Video


def test_video_and_truth_agree(tmp_path: Path) -> None:
    sample = draw_sample(11, WorldSpec(lengths=(8,)), "appearance")
    path = write_clip(sample, tmp_path)
    truth = json.loads(path.with_suffix(".json").read_text())
    stage = Stage(sample.scene)
    with Video(path) as video:
        assert (len(video), *video.frame_size) == (8, sample.scene.height, sample.scene.width)
        for index in (0, 7):
            image, masks = stage.frame(index)
            assert np.abs(video[index].astype(int) - image).mean() < 4
            for thing, mask in zip(truth["things"], masks, strict=True):
                code = thing["masks"][index]
                assert (Rle.from_coco(code).decode() == mask).all() if code else not mask.any()
    query = truth["queries"][0]
    assert query["text"] == sample.question.text
    assert query["targets"] == list(sample.question.targets)
    assert all(parse(text) for text in query["trace"])


def test_one_clip_per_seed(tmp_path: Path) -> None:
    paths = generate(tmp_path, range(3), WorldSpec(lengths=(4,), width=96, height=64), "none")
    assert sorted(path.name for path in tmp_path.glob("*.mp4")) == sorted(path.name for path in paths)
    assert len(paths) == 3
