"""Rollouts of a GRPO step as one self-contained page: texts, frames, masks of turns, what they were worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from videoseg.data import page as data_page
from videoseg.data.page import jpeg_uri
from videoseg.training.calibration import TurnMasks
from videoseg.training.prompts import Prompt
from videoseg.training.rollout import Rollout, RolloutTurn
from videoseg.video.writer import overlay

TRUE, SAID = (30, 170, 90), (225, 60, 60)
"""Colours of the truth's and of the rollout's mask."""


@dataclass(frozen=True, eq=False, slots=True)
class PlayedGroup:
    """The rollouts of one prompt, what is known of each (`facts_of`), and their keyframe masks per turn."""

    prompt: Prompt
    rollouts: Sequence[Rollout]
    facts: Sequence[dict[str, Any]]
    masks: Sequence[Sequence[TurnMasks]]


def write_page(path: Path, step: int, groups: Sequence[PlayedGroup]) -> Path:
    """Write the page of `step`, best rollouts first."""
    folders = [Path(__file__).parent, Path(data_page.__file__).parent]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("rollouts.html.jinja")
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = [_group(group) for group in groups]
    colours = {"true": _css(TRUE), "said": _css(SAID)}
    path.write_text(page.render(step=step, groups=shown, colours=colours), encoding="utf-8")
    return path


def _group(group: PlayedGroup) -> dict[str, Any]:
    order = sorted(range(len(group.rollouts)), key=lambda number: -group.facts[number]["reward"])
    return {
        "prompt": group.prompt,
        "first": [_image(group.prompt, frame, None) for frame in group.rollouts[0].high_frames],
        "rollouts": [_rollout(group, number) for number in order],
    }


def _rollout(group: PlayedGroup, number: int) -> dict[str, Any]:
    rollout = group.rollouts[number]
    turns = [
        _turn(group.prompt, turn, masks)
        for turn, masks in zip(rollout.turns, group.masks[number], strict=True)
    ]
    return {"facts": group.facts[number], "turns": turns}


def _turn(prompt: Prompt, turn: RolloutTurn, masks: TurnMasks) -> dict[str, Any]:
    mask = None if masks.rollout is None else _full(masks.rollout[-1], prompt.frame_size)
    return {
        "text": turn.text,
        "tokens": len(turn.ids),
        "truncated": turn.truncated,
        "keyframe": turn.keyframe,
        "has_mask": mask is not None,
        "image": _image(prompt, turn.keyframe, mask),
    }


def _full(logits: torch.Tensor, size: tuple[int, int]) -> NDArray[np.bool_]:
    grown = F.interpolate(logits[None, None].float(), size, mode="bilinear", align_corners=False)
    full: NDArray[np.bool_] = (grown[0, 0] > 0).cpu().numpy()
    return full


def _image(prompt: Prompt, frame: int, mask: NDArray[np.bool_] | None) -> str:
    """A frame as data URI; the truth in outline, the rollout's mask tinted."""
    picture = overlay(prompt.frames[frame], prompt.mask(frame)[None], colors=[TRUE], alpha=0.0)
    if mask is not None:
        picture = overlay(picture, mask[None], colors=[SAID], alpha=0.35)
    return jpeg_uri(picture)


def _css(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
