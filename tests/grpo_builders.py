"""GRPO runs of the small model on the generated world, with replies that are said as scripted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from videoseg.dialogue.episode import Episode
from videoseg.systems.player import View
from videoseg.training.rollout import Said

SMALL_BUDGET = {
    "low_frames": 2,
    "high_frames": 2,
    "later_frames": 1,
    "low_pixels": 2048,
    "high_pixels": 4096,
    "keyframe_pixels": 4096,
    "max_new_tokens": 8,
}
THOUGHT = "<think>Step 1: in view. Step 2: red. Step 3: it fits. Action: Confirmed.</think>"


def reply(kind: str, start: int, end: int, keyframe: int, seg: str = "[SEG]") -> str:
    """A turn as text."""
    numbers = f'{{"start": {start}, "end": {end}, "keyframe": {keyframe}}}'
    return f"{THOUGHT}<{kind}><VTG>{numbers}</VTG><RefSeg>{seg}</RefSeg></{kind}>"


def uneven(place: int, seg: bool = True) -> list[str]:
    """A dialogue of 1 to 3 turns, other words and frames for every `place`."""
    mark = "[SEG]" if seg else ""
    turns = place % 3
    selects = [reply("select", turn, 9 + place, 4 + place, mark) for turn in range(turns)]
    return [*selects, reply("answer", place, 12, 5, mark)]


class Scripted:
    """A `Generator` that lets the dialogues of a prompt be of 1, 2, 3, 1, … turns; it stands in for
    `CachedGenerator`. Dialogues about `silent` queries hold no [SEG]."""

    silent: tuple[str, ...] = ()

    def __init__(self, *_: Any) -> None:
        self.calls = 0

    def play(self, episodes: Sequence[Episode], views: Sequence[View], seed: int) -> list[Said]:
        self.calls += 1
        said = []
        for number, (episode, view) in enumerate(zip(episodes, views, strict=True)):
            place = sum(other is view for other in views[:number])
            texts = uneven(place, episode.query not in self.silent)
            ids = [view.renderer.encode_reply(text) for text in texts]
            for text in texts:
                episode.step(text)
            said.append(Said(ids, [True] * len(ids)))
        return said
