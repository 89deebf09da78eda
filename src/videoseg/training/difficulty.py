"""R1's difficulty rating: a model rates every training sample once, on five axes, offline (R1 spec §5).

Any backend rates (`systems.reasoner`); it sees the question and frames with the true masks over them. Ratings
are kept in a file of one JSON line per sample, so that a rating run goes on where it stopped.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videoseg.dialogue.episode import ImagePart, Observation, TextPart
from videoseg.dialogue.r1 import R1Preset
from videoseg.errors import DatasetError, RemoteError
from videoseg.systems.reasoner import Draw, Reasoner
from videoseg.training.length import MISSING
from videoseg.training.prompts import Prompt
from videoseg.types import Role
from videoseg.video.sampling import sample_video
from videoseg.video.writer import overlay

log = logging.getLogger(__name__)

AXES = (
    "scene_complexity",
    "segmentation_challenge",
    "temporal_ambiguity",
    "motion_complexity",
    "linguistic_ambiguity",
)
QUESTION = (
    'These are frames of one video. The objects that the query "{q}" means are marked in colour. Rate how '
    "hard it would be to find and outline them without the marks, from 1 (trivial) to 10 (hardest), on five "
    "axes. Answer with JSON only: {axes}."
)
FRAMES = 10


@dataclass(frozen=True, slots=True)
class _Marked:
    """Frames of a prompt with its true masks over them."""

    prompt: Prompt

    def __len__(self) -> int:
        return self.prompt.num_frames

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        marked: NDArray[np.uint8] = overlay(self.prompt.frames[index], self.prompt.mask(index)[None])
        return marked


def question(prompt: Prompt, frames: int = FRAMES) -> Observation:
    """What the rater is asked about a sample."""
    axes = "{" + ", ".join(f'"{axis}": 1-10' for axis in AXES) + "}"
    text = QUESTION.replace("{q}", prompt.query).replace("{axes}", axes)
    shown = tuple(ImagePart(index, Role.REFERENCE) for index in sample_video(prompt.num_frames, frames))
    return Observation((TextPart(text), *shown), 0)


def parse_rating(text: str) -> dict[str, int] | None:
    """The five numbers of a reply, cut to 1..10; None where one is missing."""
    found = re.search(r"\{[^{}]*\}", text)
    try:
        values = json.loads(found[0]) if found else {}
    except ValueError:
        return None
    numbers: list[Any] = [values.get(axis) for axis in AXES]
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in numbers):
        return None
    return {axis: int(min(10, max(1, value))) for axis, value in zip(AXES, numbers, strict=True)}


def rate(
    prompts: Iterable[Prompt],
    reasoner: Reasoner,
    path: Path | str,
    preset: R1Preset | None = None,
    report: Callable[[str, float], None] | None = None,
) -> dict[str, float]:
    """Rate what `path` does not hold yet; returns the difficulty of every prompt by its key.

    A reply without five numbers, or an endpoint that fails, gives no line: the sample counts as 3.0 and is
    asked again by the next run.
    """
    file, chosen = Path(path), preset or R1Preset()
    known = read_ratings(file) if file.exists() else {}
    found: dict[str, float] = {}
    file.parent.mkdir(parents=True, exist_ok=True)
    for prompt in prompts:
        if prompt.key not in known:
            rating = _ask(prompt, reasoner, chosen)
            if rating is not None:
                with file.open("a") as out:
                    out.write(json.dumps({"key": prompt.key, **rating}) + "\n")
                known[prompt.key] = _mean(rating)
        found[prompt.key] = known.get(prompt.key, MISSING)
        if report:
            report(prompt.key, found[prompt.key])
    return found


def _ask(prompt: Prompt, reasoner: Reasoner, preset: R1Preset) -> dict[str, int] | None:
    talk = reasoner.look(_Marked(prompt), prompt.frame_size, preset)
    try:
        said = talk.ask(question(prompt), Draw(max_tokens=200))
    except RemoteError as error:
        log.warning("%s is not rated: %s", prompt.key, error)
        return None
    return parse_rating(said[0].text)


def read_ratings(path: Path | str) -> dict[str, float]:
    """Difficulty by key from a file of `rate`; a torn last line is left out. Raises DatasetError."""
    found: dict[str, float] = {}
    lines = Path(path).read_text().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
            found[value["key"]] = _mean({axis: value[axis] for axis in AXES})
        except (ValueError, KeyError, TypeError) as error:
            if number < len(lines):
                raise DatasetError(f"{path}, line {number}: no rating ({error}); remove the line") from error
    return found


def _mean(rating: dict[str, Any]) -> float:
    return float(np.clip(np.mean([float(rating[axis]) for axis in AXES]), 1, 10))
