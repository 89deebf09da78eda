"""Supervised examples of the generated world: rendered dialogues with what every [SEG] should mean (spec §11).

Prompts come from the same `Episode` and `Renderer` as in inference, so both agree to the token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from videoseg.data.world.draw import Stage
from videoseg.data.world.sampler import Sample, WorldSpec, draw_sample
from videoseg.data.world.scene import FINE
from videoseg.data.world.trace import true_trace
from videoseg.dialogue.episode import Episode, Observation
from videoseg.dialogue.grammar import format_reply
from videoseg.dialogue.render import Chunk, ImageRef, Renderer
from videoseg.dialogue.seg import SegPosition
from videoseg.models.o3 import O3Model
from videoseg.training.words import COLOUR_INDEX, SIZE_INDEX, shrink
from videoseg.types import Role

NUM_LOOKS = len(COLOUR_INDEX) * 2 + 1
"""Looks of a visual token: every (colour, size), and fine stripes (asked of keyframes only)."""


@dataclass(frozen=True, eq=False, slots=True)
class SegTarget:
    """One [SEG]: its `position` in the ids, the description it stands for, and one frame to draw on.

    `image` is SAM2's input `[3, S, S]`, `mask` `[m, m]` in [0, 1]; `shown` is the number of the dialogue's
    image that shows this frame, `cells` `[tokens]` the share of each visual token that the target covers.
    """

    position: int
    words: tuple[int, int]
    image: Tensor
    mask: Tensor
    shown: int
    cells: Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Example:
    """One dialogue: chunk, pixels of its images, dense looks `[image tokens, NUM_LOOKS]`, its [SEG]s."""

    chunk: Chunk
    patches: list[Tensor]
    looks: Tensor
    segs: list[SegTarget]


def draw_example(
    seed: int, spec: WorldSpec, model: O3Model, *, mask_size: int = 64, masks: bool = True
) -> Example:
    """The dialogue of sample `seed` with its true trace; `masks` off leaves out SAM2's inputs."""
    sample = draw_sample(seed, spec)
    renderer = model.text.renderer((spec.height, spec.width))
    turns, target = play_truth(sample, renderer)
    chunk = renderer.dialogue(turns)
    drawn = _Drawn(sample)
    patches = [torch.from_numpy(renderer.patches(image, drawn.frame(image.frame))) for image in chunk.images]
    looks = torch.cat([_looks(sample, drawn, image) for image in chunk.images])
    segs: list[SegTarget] = []
    if target is not None:
        rng = np.random.default_rng([seed, 3])
        positions = np.flatnonzero(chunk.ids == model.seg_id)
        for turn, position in enumerate(positions):
            if turn == 0 and sample.question.family == "detail":
                continue  # nobody can know the target before the second look
            shown = _supervised_image(chunk.images, turn, rng)
            segs.append(_seg_target(sample, drawn, model, chunk.images, shown, target, int(position), mask_size, masks))
    return Example(chunk, patches, looks, segs)


def play_truth(
    sample: Sample, renderer: Renderer
) -> tuple[list[tuple[Observation, Sequence[int]]], int | None]:
    """Play the true trace through the environment: observations and reply ids of every turn, and the target."""
    episode = Episode(sample.scene.num_frames, sample.question.text, renderer.preset)
    first = episode.observation
    if first is None:
        raise RuntimeError("a new episode has no observation")
    low = [part.frame for part in first.images if part.role is Role.LOW]
    trace = true_trace(sample, low)
    turns: list[tuple[Observation, Sequence[int]]] = []
    for reply in trace.replies:
        observation = episode.observation
        if observation is None:
            raise RuntimeError(f"sample {sample.scene.seed}: the true trace goes on after the episode's end")
        text = format_reply(reply)
        turns.append((observation, renderer.encode_reply(text)))
        episode.step(text)
    return turns, trace.target


class _Drawn:
    """Frames of one sample, each drawn once."""

    def __init__(self, sample: Sample) -> None:
        self._stage = Stage(sample.scene)
        self._kept: dict[int, tuple[NDArray[np.uint8], NDArray[np.bool_]]] = {}

    def both(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        if index not in self._kept:
            self._kept[index] = self._stage.frame(index)
        return self._kept[index]

    def frame(self, index: int) -> NDArray[np.uint8]:
        return self.both(index)[0]

    def masks(self, index: int) -> NDArray[np.bool_]:
        return self.both(index)[1]


def _coverage(masks: NDArray[np.bool_], image: ImageRef) -> Tensor:
    """Share of every visual token of an image that each mask covers, `[masks, tokens]`."""
    rows, columns = (side // image.merge for side in image.grid)
    pooled = F.adaptive_avg_pool2d(torch.from_numpy(masks).float()[:, None], (rows, columns))
    return pooled.flatten(1)


def _looks(sample: Sample, drawn: _Drawn, image: ImageRef) -> Tensor:
    """Which (colour, size) looks each visual token shows: 1 where one covers more than 4 % of it."""
    cover = _coverage(drawn.masks(image.frame), image)
    looks = torch.zeros(cover.shape[1], NUM_LOOKS)
    for thing, share in zip(sample.scene.things, cover, strict=True):
        number = COLOUR_INDEX[thing.colour] * 2 + SIZE_INDEX[thing.size]
        looks[:, number] = torch.maximum(looks[:, number], (share > 0.04).float())
        if thing.texture == FINE:
            looks[:, -1] = (share > 0.1).float()
    if image.role is not Role.KEYFRAME:
        looks[:, -1] = torch.nan
    return looks


def _supervised_image(images: Sequence[ImageRef], turn: int, rng: np.random.Generator) -> int:
    """Number of the image on which turn `turn`'s [SEG] is drawn: a turn-0 high-resolution frame, or the keyframe."""
    wanted = Role.HIGH if turn == 0 else Role.KEYFRAME
    options = [i for i, image in enumerate(images) if image.role is wanted and image.turn == turn]
    return int(rng.choice(options))


def _seg_target(
    sample: Sample,
    drawn: _Drawn,
    model: O3Model,
    images: Sequence[ImageRef],
    shown: int,
    target: int,
    position: int,
    mask_size: int,
    masks: bool,
) -> SegTarget:
    thing = sample.scene.things[target]
    frame, visible = drawn.both(images[shown].frame)
    pixels = model.sam2.preprocess(frame) if masks else torch.zeros(0)
    cells = _coverage(visible[target : target + 1], images[shown])[0]
    words = (COLOUR_INDEX[thing.colour], SIZE_INDEX[thing.size])
    mask = shrink(visible[target], mask_size) if masks else torch.zeros(0)
    return SegTarget(position, words, pixels, mask, shown, cells)


def seg_turn(positions: Sequence[SegPosition], turn: int) -> SegPosition | None:
    """The [SEG] of a turn, if it has one."""
    return next((position for position in positions if position.turn == turn), None)
