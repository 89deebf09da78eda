"""O3 with XMem as its tracker: SAM2 draws the keyframe, XMem carries it on; interruptions included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from builders import moving_square, random_o3, script
from videoseg.errors import UsageError
from videoseg.models.o3 import O3Model
from videoseg.systems import tracker_weights
from videoseg.systems.o3 import O3System
from xmem_builders import random_xmem

STEP = '<VTG>{{"start": 0, "end": 9, "keyframe": {}}}</VTG><RefSeg>[SEG]</RefSeg>'
KEYFRAMES = (3, 8)
DIALOGUES = [[f"<think>a</think><answer>{STEP.format(k)}</answer>"] for k in KEYFRAMES]
QUERIES = ["one", "two"]


class Stopped(Exception):
    """Stands for a kill."""


@pytest.fixture(scope="module")
def model() -> O3Model:
    model = random_o3()
    model.xmem = random_xmem()
    return model


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return moving_square(12)


def system(model: O3Model, tracker: str) -> O3System:
    return O3System(model, model.text.preset.override(tracker=tracker), sampler=script(model, DIALOGUES))


def test_keyframes_are_sam2s_and_the_rest_is_xmems(model: O3Model, frames: np.ndarray) -> None:
    ours = system(model, "xmem").segment(frames, QUERIES)
    sam2 = system(model, "sam2").segment(frames, QUERIES)
    for one, other, keyframe in zip(ours, sam2, KEYFRAMES, strict=True):
        assert one.masklets.objects[0].rles[keyframe] == other.masklets.objects[0].rles[keyframe]
        assert one.masklets != other.masklets
        assert one.masklets.num_frames == 12
    assert ours[0].provenance["preset"]["tracker"] == "xmem"


def test_it_goes_on_where_it_was_interrupted(model: O3Model, frames: np.ndarray, tmp_path: Path) -> None:
    def progress(stage: str, done: int, total: int) -> None:
        if stage == "masks" and done == 60:
            raise Stopped

    long = np.concatenate([frames] * 5)
    expected = system(model, "xmem").segment(long, QUERIES)
    with pytest.raises(Stopped):
        system(model, "xmem").segment(long, QUERIES, journal=tmp_path / "j", progress=progress)
    encoded = []
    encode, xmem = model.xmem.encode_frame, model.xmem  # type: ignore[union-attr]
    xmem.encode_frame = lambda image: encoded.append(1) or encode(image)  # type: ignore
    try:
        again = system(model, "xmem").segment(long, QUERIES, journal=tmp_path / "j")
    finally:
        del xmem.encode_frame  # type: ignore
    assert [result.masklets for result in again] == [result.masklets for result in expected]
    assert 0 < len(encoded) < 60


def test_weights_are_needed(frames: np.ndarray) -> None:
    model = random_o3()
    with pytest.raises(UsageError, match="give xmem"):
        system(model, "xmem").segment(frames, QUERIES)
    assert tracker_weights("tiny", None) == "tiny-xmem"
    assert tracker_weights("videoseg-o3-4b", "XMem.pth") == "XMem.pth"
    with pytest.raises(UsageError, match="real video"):
        tracker_weights("videoseg-o3-4b", None)
