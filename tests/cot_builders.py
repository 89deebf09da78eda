"""A small MeViS folder and a scripted teacher for tests of the VTS-CoT builder."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from chat_stub import Asked, Say
from data_builders import code, square, write_json
from videoseg.dialogue.grammar import format_reply
from videoseg.types import Answer, Interval, Select

FRAMES = 12
FIRST, LAST, BEST = 3, 8, 6
"""The target is visible from FIRST to LAST and largest on BEST."""
THOUGHT = "Step 1: it comes in and leaves. Step 2: a bright square on the left. Step 3: it fits the query. "


def make_videos(root: Path, queries: Sequence[str], *, unlisted: Sequence[str] = ()) -> Path:
    """`root/mevis` with one video; every query means the same object, those of `unlisted` none."""
    home = root / "mevis" / "train"
    stems = [f"{index:05d}" for index in range(FRAMES)]
    folder = home / "JPEGImages" / "v1"
    folder.mkdir(parents=True)
    for index, stem in enumerate(stems):
        pixels = np.full((24, 32, 3), 15 * index, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{stem}.jpg")
    expressions = {
        str(number): {"exp": query, "obj_id": [0], "anno_id": [] if query in unlisted else [7]}
        for number, query in enumerate(queries)
    }
    write_json(
        home / "meta_expressions.json",
        {"videos": {"v1": {"vid_id": 0, "frames": stems, "expressions": expressions}}},
    )
    sides = [0] * FIRST + [2, 6, 6, 8, 6, 6] + [0] * (FRAMES - LAST - 1)
    masks = [code(square(side=side)) if side else None for side in sides]
    write_json(home / "mask_dict.json", {"7": masks})
    return root / "mevis"


def select(
    start: int = FIRST, end: int = LAST, keyframe: int = BEST, think: str = "", seg: bool = True
) -> str:
    """A select in canonical form."""
    text = think or THOUGHT + "Action: See new segment because it is clearest there."
    return format_reply(Select(Interval(start, end), keyframe, text, seg))


def answer(
    start: int = FIRST, end: int = LAST, keyframe: int = BEST, think: str = "", seg: bool = True
) -> str:
    """An answer in canonical form."""
    return format_reply(Answer(Interval(start, end), keyframe, think or THOUGHT + "Action: Confirmed.", seg))


def query_of(asked: Asked) -> str:
    """The query of a request, from its first user message."""
    found = re.search(r'The query is "(.*?)"\. Show me', asked.text(1))
    assert found is not None, asked.text(1)
    return found[1]


def turn_of(asked: Asked) -> int:
    """How many replies there were before."""
    return sum(message["role"] == "assistant" for message in asked.messages)


def good_teacher(asked: Asked) -> Say:
    """Selects, then answers; what it says depends on the query and the seed, nothing else."""
    said = (
        f"Step 1: seen with {asked.body['seed']}. Step 2: a bright square. Step 3: {query_of(asked)!r} fits. "
    )
    if turn_of(asked) == 0:
        return Say(select(think=said + "Action: See new segment because it is clearest there."))
    return Say(answer(think=said + "Action: Confirmed."))


def read(path: Path) -> object:
    """A JSON file."""
    return json.loads(path.read_text())
