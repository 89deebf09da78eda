"""A result with two objects, three turns and hostile text."""

from __future__ import annotations

import numpy as np
import pytest

from videoseg.masks import Masklet, Masklets, Rle
from videoseg.types import (
    Answer,
    Interval,
    MaskReason,
    Query,
    Result,
    Role,
    Select,
    ShownFrame,
    StopReason,
    Trace,
    Turn,
    VideoInfo,
)

COUNT, HEIGHT, WIDTH = 12, 36, 48
EVIL = '<script>alert("x")</script>&amp;'


def square(object_id: int, top: int) -> Masklet:
    masks = np.zeros((COUNT, HEIGHT, WIDTH), bool)
    for index in range(2, COUNT):
        masks[index, top : top + 10, 2 * index : 2 * index + 12] = True
    presence = tuple(index / COUNT for index in range(COUNT))
    return Masklet(object_id, tuple(Rle.encode(mask) for mask in masks), presence, (0.25,) * COUNT)


@pytest.fixture
def frames() -> np.ndarray:
    """The video, uint8 [T, H, W, 3]."""
    shades = np.arange(COUNT, dtype=np.uint8)[:, None, None, None] * 10 + 60
    return np.broadcast_to(shades, (COUNT, HEIGHT, WIDTH, 3)).copy()


@pytest.fixture
def result() -> Result:
    query = Query(f"Who is first? {EVIL}", "q1")
    shown = (
        ShownFrame(0, Role.LOW, 24, 18),
        ShownFrame(11, Role.LOW, 24, 18),
        ShownFrame(5, Role.HIGH, 40, 30),
    )
    select = Turn(
        0,
        shown,
        f"<think>{EVIL}</think>",
        Select(Interval(3, 9), 5, f"Step 1: {EVIL}"),
        steps=(("Step 1", f"look {EVIL}"), ("Action", "go on")),
        num_tokens=40,
        seconds=1.5,
    )
    lost = Turn(1, (ShownFrame(5, Role.KEYFRAME, 48, 36),), f"{EVIL}?", None, error=f"no action in {EVIL}")
    answer = Turn(2, (), "<answer>", Answer(Interval(-4, 99), 6, "sure", has_seg=True), num_tokens=9)
    trace = Trace(
        query, (select, lost, answer), StopReason.ANSWER, 6, 2, MaskReason.OK, (f"odd keyframe {EVIL}",)
    )
    return Result(
        query,
        VideoInfo(f"clip {EVIL}.mp4", COUNT, HEIGHT, WIDTH, 12.5),
        Masklets(COUNT, HEIGHT, WIDTH, (square(1, 3), square(4, 20))),
        trace,
        {"seed": 3, "versions": {"torch": "2.13"}, "seconds": 1.25},
    )
