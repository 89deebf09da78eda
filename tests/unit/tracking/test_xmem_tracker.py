"""XMem as a tracker: two runs with fresh memories, exact keyframes, bounded and resumable."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from videoseg.errors import UsageError
from videoseg.models.xmem import FrameKeys, MemoryOptions, XMem, XMemSession
from videoseg.tracking.base import Tracker
from videoseg.tracking.run import Job, TrackingRun
from videoseg.tracking.xmem import XMemFrames, XMemPrediction, XMemTracker, fit, preprocess
from xmem_builders import SIZE, keys_of, random_clip, random_xmem, squares

FRAMES, KEY = 14, 6
OPTIONS = MemoryOptions(every=2, max_frames=3, min_frames=2, prototypes=4, max_long=12, count_long=True)


@pytest.fixture(scope="module")
def xmem() -> XMem:
    return random_xmem()


@pytest.fixture(scope="module")
def keys(xmem: XMem) -> list[FrameKeys]:
    return keys_of(xmem, random_clip(FRAMES))


def order(keyframe: int = KEY, frames: int = FRAMES) -> list[int]:
    return [*range(keyframe + 1, frames), *range(keyframe - 1, -1, -1)]


def track(tracker: XMemTracker, keys: list[FrameKeys], masks: Tensor) -> dict[int, XMemPrediction]:
    found = {KEY: tracker.start(keys[KEY], masks, KEY)}
    return found | {frame: tracker.step(keys[frame], frame) for frame in order()}


def test_it_is_two_independent_runs(xmem: XMem, keys: list[FrameKeys]) -> None:
    tracker: Tracker[FrameKeys, Tensor, XMemPrediction] = XMemTracker(
        xmem, num_frames=FRAMES, options=OPTIONS
    )
    assert isinstance(tracker, XMemTracker)
    found = track(tracker, keys, squares())
    for frames in (range(KEY, FRAMES), range(KEY, -1, -1)):
        session = XMemSession(xmem, OPTIONS)
        for frame in frames:
            masks = squares().float() if frame == KEY else None
            expected = session.step(keys[frame], masks, last=frame == frames[-1])
            if frame != KEY:
                assert torch.equal(found[frame].probabilities, expected), frame


def test_the_keyframe_keeps_its_masks_at_full_size(xmem: XMem) -> None:
    video = np.random.default_rng(0).integers(0, 255, (2, 90, 120, 3), np.uint8)
    frames = XMemFrames(xmem, video.__getitem__)
    masks = torch.zeros(2, 90, 120, dtype=torch.bool)
    masks[0, 3:50, 7:60] = masks[1, 40:80, 50:110] = True
    tracker = XMemTracker(xmem, num_frames=2)
    first = tracker.start(frames(0), masks, 0)
    assert torch.equal(first.masks((90, 120)), masks)
    assert first.presence.tolist() == [1, 1]
    second = tracker.step(frames(1), 1)
    assert second.masks((90, 120)).shape == (2, 90, 120)
    assert second.probabilities.shape == (3, SIZE, 64)
    assert not bool(second.masks((90, 120)).all(0).any())


def test_empty_masks_stay_empty(xmem: XMem, keys: list[FrameKeys]) -> None:
    masks = squares(objects=3)
    masks[1] = False
    found = track(XMemTracker(xmem, options=OPTIONS), keys, masks)
    alone = track(XMemTracker(xmem, options=OPTIONS), keys, masks[[0, 2]])
    nothing = track(XMemTracker(xmem), keys, torch.zeros(2, SIZE, 64, dtype=torch.bool))
    for frame in order():
        assert torch.equal(found[frame].probabilities[[0, 1, 3]], alone[frame].probabilities)
        assert not bool(found[frame].masks((SIZE, 64))[1].any())
        assert found[frame].presence[1] == found[frame].score[1] == 0
        assert not bool(nothing[frame].masks((SIZE, 64)).any())
        assert nothing[frame].presence.tolist() == [0, 0]


def test_memory_does_not_grow(xmem: XMem, keys: list[FrameKeys]) -> None:
    tracker = XMemTracker(xmem, options=OPTIONS)
    tracker.start(keys[0], squares(), 100)
    seen = []
    for frame in [*range(101, 170), *range(99, -1, -1)]:
        tracker.step(keys[frame % FRAMES], frame)
        seen.append(tracker.live_memories)
    assert max(live.maps for live in seen) <= OPTIONS.max_frames
    assert max(live.pointers for live in seen) == OPTIONS.max_long
    tracker.close()
    assert tracker.live_memories == (0, 0)
    with pytest.raises(UsageError, match="call start"):
        tracker.step(keys[0], 1)


@pytest.mark.parametrize("stop", [1, 5, 8, 9, 13, 17])
def test_an_interrupted_run_goes_on_the_same(xmem: XMem, keys: list[FrameKeys], stop: int) -> None:
    def run() -> TrackingRun[Any, Any, Any]:
        jobs = [
            Job(keyframe, XMemTracker(xmem, num_frames=FRAMES, options=OPTIONS), squares)
            for keyframe in (KEY, 3)
        ]
        return TrackingRun(jobs, keys.__getitem__, FRAMES)

    whole = [(job, frame, found.probabilities) for job, frame, found in run()]
    assert len(whole) == 2 * FRAMES
    first, part = run(), []
    for job, frame, found in first:
        part.append((job, frame, found.probabilities))
        if first.position == stop and first.between_frames:
            state = first.state()
            break
    second = run()
    second.restore(state)
    part += [(job, frame, found.probabilities) for job, frame, found in second]
    for ours, expected in zip(part, whole, strict=True):
        assert ours[:2] == expected[:2]
        assert torch.equal(ours[2], expected[2])


def test_a_resumed_sweep_keeps_its_own_rule_of_what_is_forgotten(xmem: XMem, keys: list[FrameKeys]) -> None:
    """Only the long sweep counts how often memories are used, and forgets accordingly."""
    frames, keyframe, stop = 36, 34, 12
    options = replace(OPTIONS, count_long=None)
    assert [options.for_frames(n).count_long for n in (frames - keyframe, keyframe + 1)] == [False, True]
    whole = XMemTracker(xmem, num_frames=frames, options=options)
    whole.start(keys[0], squares(), keyframe)
    for frame in order(keyframe, frames):
        expected = whole.step(keys[frame % FRAMES], frame)
        if frame == stop:
            resumed = XMemTracker(xmem, num_frames=frames, options=options)
            resumed.restore(whole.state(), squares)
        elif frame < stop:
            found = resumed.step(keys[frame % FRAMES], frame)
            assert torch.equal(found.probabilities, expected.probabilities), frame


def test_wrong_order_is_refused(xmem: XMem, keys: list[FrameKeys]) -> None:
    tracker = XMemTracker(xmem)
    tracker.start(keys[KEY], squares(), KEY)
    with pytest.raises(UsageError, match="frame 9 does not follow frame 6: expected 7 or 5"):
        tracker.step(keys[9], 9)


def test_frames_are_fitted_to_the_shorter_side() -> None:
    image = preprocess(np.full((90, 120, 3), 255, np.uint8), 48)
    assert image.shape == (3, 48, 64)
    torch.testing.assert_close(
        image[:, 0, 0], (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    )
    mask = torch.zeros(90, 120, dtype=torch.bool)
    mask[30:60, 40:80] = True
    small = fit(mask[None], 48)[0]
    assert small.sum() == 16 * 22
    assert bool((small == small.flip(0)).all())
