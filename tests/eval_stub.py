"""A system for tests of the evaluation runner: quick masks that depend on the question, and trouble."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_builders import code as coco
from data_builders import jpegs, square, write_json
from videoseg.errors import FrameError
from videoseg.evaluation.answers import Group, answer
from videoseg.masks import Masklets, Rle, masklet_from_frames
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
)
from videoseg.video.reader import Video

STEMS = [f"{number:05d}" for number in range(4)]


class Stub:
    """Answers with a square whose place depends on the question; "nothing" means no object."""

    def segment(self, source: Video, query: Sequence[Query]) -> list[Result]:
        return [result(source, one) for one in query]


def result(video: Video, query: Query) -> Result:
    count, (height, width) = len(video), video.frame_size
    left = len(query.text) % 8
    codes = [
        (frame, Rle.encode(square(left + frame % 2, height=height, width=width)), 0.9, 0.8)
        for frame in range(count)
    ]
    objects = () if "nothing" in query.text else (masklet_from_frames(1, codes, count),)
    first = Turn(0, (ShownFrame(0, Role.LOW, width, height),), "a", Select(Interval(0, 9), 0), num_tokens=3)
    last = Turn(1, (ShownFrame(1, Role.HIGH, width, height),), "b", Answer(Interval(1, 2), 1), num_tokens=2)
    trace = Trace(query, (first, last), StopReason.ANSWER, 1, 1, MaskReason.OK)
    told = {"seconds": 0.5, "peak_memory_mb": 100.0, "seed": 0, "model": {"name": "stub"}}
    return Result(query, video.info, Masklets(count, height, width, objects), trace, told)


@dataclass(frozen=True)
class StubSetup:
    """Makes workers that answer with `Stub`, but die at, fail at, or linger over some videos.

    Files in `notes` count what happened, over all processes; a video of `dies` kills its worker the first
    `deaths` times.
    """

    notes: Path
    dies: tuple[str, ...] = ()
    fails: tuple[str, ...] = ()
    deaths: int = 1
    seconds: float = 0.0
    broken: bool = False

    def __call__(self, number: int) -> Any:
        if self.broken:
            raise RuntimeError("no room on the device")
        self.note("start", str(number))
        return self.work

    def work(self, group: Group) -> str:
        self.note("task", group.video)
        if group.video in self.dies and self.count("death", group.video) < self.deaths:
            self.note("death", group.video)
            os.kill(os.getpid(), signal.SIGKILL)
        if group.video in self.fails:
            raise FrameError(f"{group.video}: frame 2 cannot be read")
        time.sleep(self.seconds)
        return answer(Stub(), group)

    def note(self, kind: str, name: str) -> None:
        (self.notes / f"{kind}-{name.replace('/', '_')}-{time.monotonic_ns()}-{os.getpid()}").touch()

    def count(self, kind: str, name: str = "") -> int:
        return len(list(self.notes.glob(f"{kind}-{name}*")))


def make_videos(root: Path, videos: int = 4, split: str = "valid_u") -> Path:
    """MeViS with `videos` clips of four frames and two questions each, one of them about nothing."""
    home = root / split
    entries, masks = {}, {}
    for number in range(videos):
        jpegs(home / "JPEGImages" / f"v{number}", STEMS)
        entries[f"v{number}"] = {
            "frames": STEMS,
            "expressions": {
                "0": {"exp": "the thing" + "g" * number, "obj_id": [0], "anno_id": [number]},
                "1": {"exp": "nothing", "obj_id": [], "anno_id": []},
            },
        }
        masks[str(number)] = [coco(square(4)), coco(square(4)), None, None]
    write_json(home / "meta_expressions.json", {"videos": entries})
    write_json(home / "mask_dict.json", masks)
    return root
