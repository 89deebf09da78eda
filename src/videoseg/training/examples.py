"""Supervised examples of the generated world: dialogues and what every [SEG] should mean (spec §11).

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
from videoseg.data.world.trace import listed, true_trace
from videoseg.dialogue.episode import Episode, Observation
from videoseg.dialogue.grammar import format_reply
from videoseg.dialogue.render import Chunk, ImageRef, Renderer
from videoseg.models.o3 import O3Model
from videoseg.training.words import COLOUR_INDEX, SIZE_INDEX, shrink
from videoseg.types import Role

NUM_LOOKS = len(COLOUR_INDEX) * 2 + 1
"""Looks of a visual token: every (colour, size), and fine stripes (asked of keyframes only)."""

LOOKING = {"small", "large", "to", "left", "middle", "right", "top", "centre", "bottom", "on"}
"""Words of a thinking text after which the next word must be seen in an image."""


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
class Mention:
    """A word of the thinking text that speaks of a thing: where image number `shown` shows that thing.

    `position` is the word's last token before the place is told, `cells` as in `SegTarget`.
    """

    position: int
    shown: int
    cells: Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Example:
    """One dialogue: its chunk, the pixels of its images, its [SEG]s, and what the training aids ask.

    looks `[image tokens, NUM_LOOKS]` and places `[image tokens, 2]` (column and row third) of the visual
    tokens, the mentions of things, and recalls: positions of a word and of the earlier one it follows from.
    """

    chunk: Chunk
    patches: list[Tensor]
    looks: Tensor
    places: Tensor
    segs: list[SegTarget]
    mentions: list[Mention]
    recalls: list[tuple[int, int]]


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
    source = _Source(sample, drawn, model, mask_size if masks else 0)
    segs = [] if target is None else _seg_targets(source, chunk, target, seed)
    places = torch.cat([_places(image) for image in chunk.images])
    return Example(
        chunk, patches, looks, places, segs, _mentions(source, chunk, target), _recalls(source, chunk, target)
    )


def play_truth(
    sample: Sample, renderer: Renderer
) -> tuple[list[tuple[Observation, Sequence[int]]], int | None]:
    """Play the true trace in the environment: observations and reply ids of every turn, and the target."""
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


def _places(image: ImageRef) -> Tensor:
    """Column and row third (0, 1, 2) of the centre of every visual token, `int64 [tokens, 2]`."""
    rows, columns = (side // image.merge for side in image.grid)
    y = ((torch.arange(rows) + 0.5) / rows * 3).long()[:, None].expand(rows, columns)
    x = ((torch.arange(columns) + 0.5) / columns * 3).long()[None].expand(rows, columns)
    return torch.stack([x, y], dim=-1).flatten(0, 1)


def _supervised_image(images: Sequence[ImageRef], turn: int, rng: np.random.Generator) -> int:
    """Number of the image on which a turn's [SEG] is drawn: a turn-0 high-resolution one or the keyframe."""
    wanted = Role.HIGH if turn == 0 else Role.KEYFRAME
    options = [i for i, image in enumerate(images) if image.role is wanted and image.turn == turn]
    return int(rng.choice(options))


@dataclass(frozen=True, eq=False, slots=True)
class _Source:
    """What [SEG] targets are made from; without masks if `mask_size` is 0."""

    sample: Sample
    drawn: _Drawn
    model: O3Model
    mask_size: int


def _seg_targets(source: _Source, chunk: Chunk, target: int, seed: int) -> list[SegTarget]:
    rng = np.random.default_rng([seed, 3])
    segs = []
    for turn, position in enumerate(np.flatnonzero(chunk.ids == source.model.seg_id)):
        if turn == 0 and source.sample.question.family == "detail":
            continue  # nobody can know the target before the second look
        shown = _supervised_image(chunk.images, turn, rng)
        segs.append(_seg_target(source, chunk.images[shown], shown, target, int(position)))
    return segs


def _seg_target(source: _Source, image: ImageRef, shown: int, target: int, position: int) -> SegTarget:
    thing = source.sample.scene.things[target]
    frame, visible = source.drawn.both(image.frame)
    cells = _coverage(visible[target : target + 1], image)[0]
    words = (COLOUR_INDEX[thing.colour], SIZE_INDEX[thing.size])
    if not source.mask_size:
        return SegTarget(position, words, torch.zeros(0), torch.zeros(0), shown, cells)
    mask = shrink(visible[target], source.mask_size)
    return SegTarget(position, words, source.model.sam2.preprocess(frame), mask, shown, cells)


def _mentions(source: _Source, chunk: Chunk, target: int | None) -> list[Mention]:
    """Words at which one must look: in the first turn at every thing, later at the target.

    In step 1 the size word is followed by when a thing is there. In step 2 the size word and "to" are
    followed by a column, a column word by a row, and the first row by whether the thing has moved: from
    there on the last frames count.
    """
    roles = [image.role for image in chunk.images]
    high = [i for i, role in enumerate(roles) if role is Role.HIGH]
    keys = [i for i, role in enumerate(roles) if role is Role.KEYFRAME]
    views = [high, high, high[::-1], high[::-1], high[::-1]]
    numbers = [source.sample.scene.things.index(thing) for thing in listed(source.sample.scene)]
    found = []
    for turn, (one, two) in enumerate(_steps(source, chunk)):
        if turn == 0:
            for number, early, words in zip(
                numbers, _parts(source, chunk, one), _parts(source, chunk, two), strict=True
            ):
                found += [_first_view(source, chunk, number, position, high) for position in early]
                found += [
                    _first_view(source, chunk, number, *pair) for pair in zip(words, views, strict=False)
                ]
        else:
            words = _parts(source, chunk, two)[0]
            found += [_first_view(source, chunk, target or 0, position, keys) for position in words]
    return [mention for mention in found if mention]


def _recalls(source: _Source, chunk: Chunk, target: int | None) -> list[tuple[int, int]]:
    """In step 3 of the first turn, "is" and the colour after it follow from the target's entry above.

    The entry is that of step 1 for questions of time, else that of step 2; its last word stands for it.
    """
    question = source.sample.question
    if target is None or question.family == "detail":
        return []
    step = _steps(source, chunk)[0][0 if question.condition.presence else 1]
    numbers = [source.sample.scene.things.index(thing) for thing in listed(source.sample.scene)]
    ends = [position - 1 for position in step if chunk.ids[position] == source.model.text.token_id(";")]
    goal = [*ends, step.stop - 1][numbers.index(target)]
    conclusion = step.stop if not question.condition.presence else _steps(source, chunk)[0][1].stop
    word = source.model.text.token_id("Ġis")
    position = conclusion + int(np.argmax(chunk.ids[conclusion:] == word))
    return [(position, goal), (position + 1, goal)]


def _steps(source: _Source, chunk: Chunk) -> list[tuple[range, range]]:
    """Token positions of steps 1 and 2 of every turn."""
    ids = chunk.ids.tolist()
    marks = ("<think>Step 1:", ". Step 2:", ". Step 3:")
    one, two, three = (
        [position for position, token in enumerate(ids) if token == source.model.text.token_id(mark)]
        for mark in marks
    )
    return [(range(a, b), range(b, c)) for a, b, c in zip(one, two, three, strict=True)]


def _parts(source: _Source, chunk: Chunk, step: range) -> list[list[int]]:
    """Per thing described in a step the positions of the words at which one must look at it."""
    tokenizer = source.model.text.tokenizer
    found: list[list[int]] = [[]]
    for position in step:
        word = tokenizer.convert_ids_to_tokens(int(chunk.ids[position]))
        if word == ";":
            found.append([])
        elif word.removeprefix("Ġ") in LOOKING and len(found[-1]) < 5:
            found[-1].append(position)
    return found


def _first_view(
    source: _Source, chunk: Chunk, thing: int, position: int, views: Sequence[int]
) -> Mention | None:
    """The first of the images `views` that shows a thing."""
    for shown in views:
        image = chunk.images[shown]
        cells = _coverage(source.drawn.masks(image.frame)[thing : thing + 1], image)[0]
        if float(cells.sum()) > 0:
            return Mention(position, shown, cells)
    return None
