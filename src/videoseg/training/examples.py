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
from videoseg.data.world.trace import true_trace
from videoseg.data.world.wording import ordered
from videoseg.dialogue.episode import Episode, Observation
from videoseg.dialogue.grammar import format_reply
from videoseg.dialogue.render import Chunk, ImageRef, Renderer
from videoseg.models.o3 import SEG_TOKEN, O3Model, TextSide
from videoseg.models.sam2 import Sam2
from videoseg.training.words import COLOUR_INDEX, SIZE_INDEX, shrink
from videoseg.types import Role

NUM_LOOKS = len(COLOUR_INDEX) * 2 + 1
"""Looks of a visual token: every (colour, size), and fine stripes (asked of keyframes only)."""

LOOKING = {"small", "large", "to", "left", "middle", "right", "top", "centre", "bottom", "on"}
"""Words of a thinking text after which the next word must be seen in an image."""


@dataclass(frozen=True, eq=False, slots=True)
class SegTarget:
    """One [SEG]: its `position` in the ids, the descriptions it stands for, and one frame to draw on.

    `words` are (colour, size) of everything that is meant. `image` is SAM2's input `[3, S, S]`, `mask`
    `[m, m]` in [0, 1]; `shown` is the number of the dialogue's image that shows this frame, `cells`
    `[tokens]` the share of each visual token that the targets cover.
    """

    position: int
    words: tuple[tuple[int, int], ...]
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
    seed: int,
    spec: WorldSpec,
    model: O3Model,
    *,
    mask_size: int = 64,
    masks: bool = True,
    single_turn: bool = False,
) -> Example:
    """The dialogue of sample `seed` with its true trace; `masks` off leaves out SAM2's inputs.

    With `single_turn` the first reply is the answer.
    """
    sample = draw_sample(seed, spec)
    renderer = model.text.renderer((spec.height, spec.width))
    chunk = renderer.dialogue(play_truth(sample, renderer, single_turn=single_turn))
    drawn = Drawn(sample)
    patches = [torch.from_numpy(renderer.patches(image, drawn.frame(image.frame))) for image in chunk.images]
    looks = torch.cat([token_looks(sample, drawn, image) for image in chunk.images])
    source = Source(sample, drawn, model.text, model.sam2 if masks else None, mask_size)
    segs = _seg_targets(source, chunk, seed) if sample.question.targets else []
    places = torch.cat([token_places(image) for image in chunk.images])
    return Example(chunk, patches, looks, places, segs, _mentions(source, chunk), recalls_of(source, chunk))


def play_truth(
    sample: Sample, renderer: Renderer, *, single_turn: bool = False
) -> list[tuple[Observation, Sequence[int]]]:
    """Play the true trace in the environment: observations and reply ids of every turn."""
    episode = Episode(sample.scene.num_frames, sample.question.text, renderer.preset)
    first = episode.observation
    if first is None:
        raise RuntimeError("a new episode has no observation")
    low = [part.frame for part in first.images if part.role is Role.LOW]
    later = renderer.preset.budget.later_frames
    turns: list[tuple[Observation, Sequence[int]]] = []
    for reply in true_trace(sample, low, single_turn=single_turn, later_frames=later).replies:
        observation = episode.observation
        if observation is None:
            raise RuntimeError(f"sample {sample.scene.seed}: the true trace goes on after the episode's end")
        text = format_reply(reply)
        turns.append((observation, renderer.encode_reply(text)))
        episode.step(text)
    return turns


class Drawn:
    """Frames of one sample, each drawn once."""

    def __init__(self, sample: Sample) -> None:
        self._stage = Stage(sample.scene)
        self._kept: dict[int, tuple[NDArray[np.uint8], NDArray[np.bool_]]] = {}

    def both(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Frame `uint8 [H, W, 3]` and visible masks `bool [things, H, W]`."""
        if index not in self._kept:
            self._kept[index] = self._stage.frame(index)
        return self._kept[index]

    def frame(self, index: int) -> NDArray[np.uint8]:
        """The frame alone."""
        return self.both(index)[0]

    def masks(self, index: int) -> NDArray[np.bool_]:
        """The masks alone."""
        return self.both(index)[1]


def coverage(masks: NDArray[np.bool_], image: ImageRef) -> Tensor:
    """Share of every visual token of an image that each mask covers, `[masks, tokens]`."""
    rows, columns = (side // image.merge for side in image.grid)
    pooled = F.adaptive_avg_pool2d(torch.from_numpy(masks).float()[:, None], (rows, columns))
    return pooled.flatten(1)


def token_looks(sample: Sample, drawn: Drawn, image: ImageRef) -> Tensor:
    """Which (colour, size) looks each visual token shows: 1 where one covers more than 4 % of it."""
    cover = coverage(drawn.masks(image.frame), image)
    looks = torch.zeros(cover.shape[1], NUM_LOOKS)
    for thing, share in zip(sample.scene.things, cover, strict=True):
        number = COLOUR_INDEX[thing.colour] * 2 + SIZE_INDEX[thing.size]
        looks[:, number] = torch.maximum(looks[:, number], (share > 0.04).float())
        if thing.texture == FINE:
            looks[:, -1] = (share > 0.1).float()
    if image.role is not Role.KEYFRAME:
        looks[:, -1] = torch.nan
    return looks


def token_places(image: ImageRef) -> Tensor:
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
class Source:
    """What targets and aids are made from; [SEG]s have masks of `mask_size` only with `sam2`."""

    sample: Sample
    drawn: Drawn
    text: TextSide
    sam2: Sam2 | None = None
    mask_size: int = 64


def _seg_targets(source: Source, chunk: Chunk, seed: int) -> list[SegTarget]:
    rng = np.random.default_rng([seed, 3])
    segs = []
    for turn, position in enumerate(np.flatnonzero(chunk.ids == source.text.token_id(SEG_TOKEN))):
        shown = _supervised_image(chunk.images, turn, rng)
        segs.append(_seg_target(source, chunk.images[shown], shown, int(position)))
    return segs


def _seg_target(source: Source, image: ImageRef, shown: int, position: int) -> SegTarget:
    targets = list(source.sample.question.targets)
    things = [source.sample.scene.things[target] for target in targets]
    frame, visible = source.drawn.both(image.frame)
    union = np.logical_or.reduce(visible[targets])
    cells = coverage(union[None], image)[0]
    words = tuple((COLOUR_INDEX[thing.colour], SIZE_INDEX[thing.size]) for thing in things)
    if source.sam2 is None:
        return SegTarget(position, words, torch.zeros(0), torch.zeros(0), shown, cells)
    mask = shrink(union, source.mask_size)
    return SegTarget(position, words, source.sam2.preprocess(frame), mask, shown, cells)


def _mentions(source: Source, chunk: Chunk) -> list[Mention]:
    """Words at which one must look: in the first turn at every thing, later at the targets.

    In step 1 the size word is followed by when a thing is there. In step 2 the size word and "to" are
    followed by a column, a column word by a row, and the first row by whether the thing has moved: from
    there on the last frames count. Where something is gone for a moment, step 1 of the second turn looks
    for everything in the inner frames, and then where it was.
    """
    scene, question = source.sample.scene, source.sample.question
    high, keys, later = (
        [i for i, image in enumerate(chunk.images) if image.role is role and image.turn == turn]
        for role, turn in ((Role.HIGH, 0), (Role.KEYFRAME, 1), (Role.LOW, 1))
    )
    everything = ordered(scene, range(len(scene.things)))
    views = [high, high, high[::-1], high[::-1], high[::-1]]
    found = []
    for turn, (one, two) in enumerate(step_spans(source, chunk)):
        if turn == 0:
            entries = zip(
                everything, looking_words(source, chunk, one), looking_words(source, chunk, two), strict=True
            )
            for number, early, words in entries:
                found += [first_view(source, chunk, number, position, high) for position in early]
                pairs = zip(words, views, strict=False)
                found += [first_view(source, chunk, number, *pair) for pair in pairs]
            continue
        if question.condition.gap is not None:
            for number, words in zip(everything, looking_words(source, chunk, one), strict=True):
                found += [
                    first_view(source, chunk, number, position, [*later[1:], *later[:1]])
                    for position in words
                ]
        targets = ordered(scene, question.targets)
        for number, words in zip(targets, looking_words(source, chunk, two, "\u0120and"), strict=True):
            found += [first_view(source, chunk, number, position, keys) for position in words]
    return [mention for mention in found if mention]


def recalls_of(source: Source, chunk: Chunk) -> list[tuple[int, int]]:
    """Words that follow from an entry of step 1 (questions of time) or 2, whose last word stands for it.

    In step 3 of the first turn the names of what matches, and how the thing moves that another is compared
    with; in the second turn the name of what was gone.
    """
    scene, condition = source.sample.scene, source.sample.question.condition
    targets = ordered(scene, source.sample.question.targets)
    token, steps = source.text.token_id, step_spans(source, chunk)
    if not targets or condition.texture is not None:
        return []
    if condition.gap is not None:
        later = _ends(source, chunk, steps[1][0])[targets[0]] if len(steps) > 1 else None
        return [] if later is None else [(steps[1][1].start, later)]
    ends = _ends(source, chunk, steps[0][0 if condition.presence else 1])
    conclusion = steps[0][1].stop
    named = conclusion + int(np.argmax(chunk.ids[conclusion:] == token("\u0120is")))
    found = []
    for number in targets:
        found += [(named, ends[number]), (named + 1, ends[number])]
        named += 1 + int(np.argmax(chunk.ids[named + 1 :] == token("\u0120and")))
    if condition.relation in ("like", "ahead") and condition.other is not None:
        (other,) = condition.other.matches(scene)
        moves = conclusion + int(np.argmax(chunk.ids[conclusion:] == token("\u0120moves")))
        found += [(moves - 1, ends[other]), (moves, ends[other])]
    return found


def _ends(source: Source, chunk: Chunk, step: range) -> dict[int, int]:
    """Per thing the position of the last word of its entry in a step that lists all things."""
    scene = source.sample.scene
    breaks = [position - 1 for position in step if chunk.ids[position] == source.text.token_id(";")]
    return dict(zip(ordered(scene, range(len(scene.things))), [*breaks, step.stop - 1], strict=True))


def step_spans(source: Source, chunk: Chunk) -> list[tuple[range, range]]:
    """Token positions of steps 1 and 2 of every turn."""
    ids = chunk.ids.tolist()
    marks = ("<think>Step 1:", ". Step 2:", ". Step 3:")
    one, two, three = (
        [position for position, token in enumerate(ids) if token == wanted]
        for wanted in map(source.text.token_id, marks)
    )
    return [(range(a, b), range(b, c)) for a, b, c in zip(one, two, three, strict=True)]


def looking_words(source: Source, chunk: Chunk, step: range, divider: str = ";") -> list[list[int]]:
    """Per thing described in a step the positions of the words at which one must look at it."""
    tokenizer = source.text.tokenizer
    found: list[list[int]] = [[]]
    for position in step:
        word = tokenizer.convert_ids_to_tokens(int(chunk.ids[position]))
        if word == divider:
            found.append([])
        elif word.removeprefix("Ġ") in LOOKING and len(found[-1]) < 5:
            found[-1].append(position)
    return found


def first_view(
    source: Source, chunk: Chunk, thing: int, position: int, views: Sequence[int]
) -> Mention | None:
    """The first of the images `views` that shows a thing."""
    for shown in views:
        image = chunk.images[shown]
        cells = coverage(source.drawn.masks(image.frame)[thing : thing + 1], image)[0]
        if float(cells.sum()) > 0:
            return Mention(position, shown, cells)
    return None
