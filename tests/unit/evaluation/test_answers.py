"""From results to prediction files: one mask per frame, whatever objects there are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_builders import jpegs, square
from eval_stub import STEMS, Stub
from videoseg.data.frames import ImageFrames
from videoseg.data.sample import Origin
from videoseg.errors import DatasetError
from videoseg.evaluation.answers import entry, grouped, visible
from videoseg.evaluation.truth import Item
from videoseg.masks import Masklets, Rle, masklet_from_frames
from videoseg.types import Query
from videoseg.video.reader import Video


def masklets(*objects: list[np.ndarray]) -> Masklets:
    made = [
        masklet_from_frames(i, [(t, Rle.encode(mask), 1.0, 1.0) for t, mask in enumerate(masks)], len(masks))
        for i, masks in enumerate(objects)
    ]
    return Masklets(2, 24, 32, tuple(made))


def test_several_objects_are_one_mask_and_nothing_is_null() -> None:
    empty = np.zeros((24, 32), dtype=bool)
    both = masklets([square(4), empty], [square(20), empty])
    mask = visible(both, 0)
    assert mask is not None
    assert np.array_equal(mask.decode(), square(4) | square(20))
    assert visible(both, 1) is None
    assert visible(masklets(), 0) is None


def test_a_video_of_another_length_than_listed_is_refused(tmp_path: Path) -> None:
    jpegs(tmp_path, STEMS)
    with Video(tmp_path) as video:
        (result,) = Stub().segment(video, [Query("the disc")])
    with pytest.raises(ValueError, match="4 frames were read, the dataset lists 3"):
        entry(result, STEMS[:3])


def test_a_task_is_a_video_with_all_its_questions() -> None:
    video = ImageFrames(Path("v"), ("0.jpg", "1.jpg"))
    first = Item(("v", "0"), Origin("mevis", Path("m.json"), "v/0"), ("0", "1"), (), text="a", video=video)
    items = [first, replace(first, key=("w", "0")), replace(first, key=("v", "1"), text="b")]
    groups = grouped(items)
    assert [(group.video, group.questions) for group in groups] == [
        ("v", ((("v", "0"), "a"), (("v", "1"), "b"))),
        ("w", ((("w", "0"), "a"),)),
    ]
    assert [group.weight for group in groups] == [4, 2]
    with pytest.raises(DatasetError, match=r"m.json: sample v/0 has no frames"):
        grouped([replace(first, video=None)])
