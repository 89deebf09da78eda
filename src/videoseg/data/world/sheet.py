"""Generated world: clips as strips of frames with the target ringed, and a contact sheet of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from videoseg.data.world.draw import Stage
from videoseg.data.world.plan import SHOWN
from videoseg.data.world.queries import FAMILIES
from videoseg.data.world.sampler import Sample, WorldSpec, draw_sample
from videoseg.data.world.trace import true_trace
from videoseg.dialogue.preset import Preset
from videoseg.errors import OutputError
from videoseg.video.cache import Frame
from videoseg.video.sampling import sample_video

FRAMES, GAP, HEIGHT = 4, 3, 96
MARGIN, SPACE, CAPTION = 24, 22, 40
PAPER, INK, SOFT, KEY = (250, 250, 249), (29, 33, 38), (98, 107, 118), (225, 29, 72)
COLOURS = (
    (42, 120, 214), (27, 175, 122), (237, 161, 0), (74, 58, 167),
    (227, 73, 72), (232, 123, 164), (235, 104, 52), (0, 131, 0),
)  # fmt: skip
"""One colour per family, in the order of `FAMILIES`; the page uses the same."""


@dataclass(frozen=True, eq=False, slots=True)
class Strip:
    """Frames of one clip side by side, the true keyframe framed; what was asked, and the truth in words."""

    image: Frame
    family: str
    query: str
    detail: str


def strips(
    seeds: Sequence[int],
    spec: WorldSpec | None = None,
    family: str | None = None,
    *,
    count: int = 24,
    shown: Preset = SHOWN,
) -> list[Strip]:
    """Strips of `count` clips: of every family in turn, as far as the seeds have them, sorted by family."""
    by_family: dict[str, list[Sample]] = {}
    for seed in seeds[: 10 * count]:
        sample = draw_sample(seed, spec or WorldSpec(), family)
        by_family.setdefault(sample.question.family, []).append(sample)
    ranks = sorted(
        ((rank, name) for name, members in by_family.items() for rank in range(len(members))),
    )[:count]
    order = sorted(ranks, key=lambda entry: (_place(entry[1]), entry[0]))
    return [strip(by_family[name][rank], shown) for rank, name in order]


def _place(family: str) -> tuple[int, str]:
    return (FAMILIES.index(family) if family in FAMILIES else len(FAMILIES)), family


def strip(sample: Sample, shown: Preset = SHOWN) -> Strip:
    """The strip of one sample: frames over the clip, one of them the keyframe of the true trace."""
    scene, question = sample.scene, sample.question
    answer = true_trace(sample, sample_video(scene.num_frames, shown.budget.low_frames)).replies[-1]
    frames = _frames(scene.num_frames, answer.keyframe)
    stage, width = Stage(scene), round(HEIGHT * scene.width / scene.height)
    row = Image.new("RGB", (FRAMES * (width + GAP) - GAP, HEIGHT), PAPER)
    for place, index in enumerate(frames):
        picture, masks = stage.frame(index)
        if question.targets:
            picture = ringed(picture, np.logical_or.reduce(masks[list(question.targets)], axis=0))
        tile = Image.fromarray(picture).resize((width, HEIGHT), Image.Resampling.LANCZOS)
        if index == answer.keyframe and question.targets:
            ImageDraw.Draw(tile).rectangle((0, 0, width - 1, HEIGHT - 1), outline=KEY, width=2)
        row.paste(tile, (place * (width + GAP), 0))
    return Strip(np.asarray(row), question.family, question.text, _detail(sample, answer, frames))


def ringed(picture: Frame, mask: NDArray[np.bool_]) -> Frame:
    """The picture with a white ring around the mask, at a distance, so that the object keeps its look."""
    unit = max(1, round(picture.shape[0] / 160))
    near, far = (_grown(mask, steps * unit) for steps in (2, 4))
    drawn = picture.copy()
    drawn[far & ~near] = 255
    return drawn


def _grown(mask: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    if not mask.any():
        return mask
    grown: NDArray[np.bool_] = ndimage.distance_transform_edt(~mask) <= steps
    return grown


def _frames(num_frames: int, keyframe: int) -> list[int]:
    """Evenly spread frames, the one nearest to the keyframe replaced by it."""
    frames = list(sample_video(num_frames, FRAMES))
    nearest = min(range(len(frames)), key=lambda place: abs(frames[place] - keyframe))
    frames[nearest] = keyframe
    return frames


def _detail(sample: Sample, answer: Any, frames: Sequence[int]) -> str:
    seen = f"seed {sample.scene.seed}  ·  frames {', '.join(map(str, frames))} of {sample.scene.num_frames}"
    if not sample.question.targets:
        return f"{seen}  ·  no such object"
    return f"{seen}  ·  in {answer.interval.start}-{answer.interval.end}, keyframe {answer.keyframe}"


def contact_sheet(items: Sequence[Strip], path: Path | str, *, columns: int = 2) -> Path:
    """Write a PNG with all strips and their captions; raises OutputError where it cannot be written."""
    target = Path(path)
    if not items:
        raise OutputError(f"{target}: there is no clip to draw")
    wide, high = max(item.image.shape[1] for item in items), items[0].image.shape[0] + CAPTION
    rows = -(-len(items) // columns)
    size = (2 * MARGIN + columns * (wide + SPACE) - SPACE, 2 * MARGIN + rows * (high + SPACE) - SPACE)
    sheet = Image.new("RGB", size, PAPER)
    for number, item in enumerate(items):
        column, row = divmod(number, rows)  # down, then across: one family stays together
        _put(sheet, item, MARGIN + column * (wide + SPACE), MARGIN + row * (high + SPACE))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(target, format="PNG")
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error}); check the folder") from error
    return target


def _put(sheet: Image.Image, item: Strip, left: int, top: int) -> None:
    draw, font, small = ImageDraw.Draw(sheet), ImageFont.load_default(14), ImageFont.load_default(11)
    colour = COLOURS[_place(item.family)[0] % len(COLOURS)]
    draw.rounded_rectangle((left, top + 3, left + 9, top + 12), radius=2, fill=colour)
    draw.text((left + 15, top - 1), item.query, fill=INK, font=font)
    label = item.family
    draw.text((left + item.image.shape[1] - small.getlength(label), top + 2), label, fill=SOFT, font=small)
    draw.text((left, top + 19), item.detail, fill=SOFT, font=small)
    sheet.paste(Image.fromarray(item.image), (left, top + CAPTION - 4))
