"""Supervised examples for R1's reasoner on the generated world: true answers (R1 spec §7, §9 no. 26).

Prompts come from the same observations and renderer as in inference. Three questions are drawn: where the
target is (the reasoner's), when its part of the video happens, and where in a clip it is clearest (the
sampler's). Frames follow the rules of training (§7): the target frame is any frame with a target in it, the
key segment a random window around it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from videoseg.data.world.draw import Stage
from videoseg.data.world.sampler import Sample, WorldSpec, draw_sample
from videoseg.data.world.trace import around_gap, best_view
from videoseg.data.world.wording import conclusion, listed, names, ordered, timing, whereabouts
from videoseg.dialogue.cues import format_cues
from videoseg.dialogue.episode import Observation
from videoseg.dialogue.r1 import (
    R1Preset,
    answer_map,
    ask_interval,
    ask_percentage,
    ask_target,
    context_frames,
)
from videoseg.dialogue.render import Chunk, ImageRef
from videoseg.models.o3 import TextSide
from videoseg.systems.reasoner import r1_renderer
from videoseg.training.examples import (
    Drawn,
    Example,
    Mention,
    Source,
    coverage,
    first_view,
    looking_words,
    recalls_of,
    step_spans,
    token_looks,
    token_places,
)
from videoseg.training.r1_task import LEAST_WINDOW, random_window
from videoseg.training.r1_truth import box_of, cue_of
from videoseg.types import Cues, Interval, Role
from videoseg.video.sampling import sample_interval

TASKS = {"target": 0.7, "interval": 0.2, "percentage": 0.1}
THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)
UNSEEN = ("too small to see here", "too short to see here")


@dataclass(frozen=True, eq=False, slots=True)
class R1Example(Example):
    """As `Example`; `boxes` `[image tokens, 4]` are those of what a token of the target frame shows.

    In shares of the frame's sides; NaN where nothing is shown, and on context frames.
    """

    boxes: Tensor


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, its true reply, and whether the reply speaks of every thing of the scene."""

    observation: Observation
    reply: str
    thinks: bool = True


def draw_r1(seed: int, spec: WorldSpec, text: TextSide, preset: R1Preset, *, think: bool = True) -> R1Example:
    """The question and answer of sample `seed`; without `think` the thought is empty (Table 4, no chain)."""
    sample, rng = draw_sample(seed, spec), np.random.default_rng([seed, 5])
    drawn, size = Drawn(sample), (spec.height, spec.width)
    task = str(rng.choice(list(TASKS), p=list(TASKS.values())))
    asked = QUESTIONS[task](sample, drawn, preset, rng)
    if not think:
        asked = replace(asked, reply=THOUGHT.sub("<think></think>", asked.reply), thinks=False)
    renderer = r1_renderer(text, preset, size)
    chunk = renderer.dialogue([(asked.observation, renderer.encode_reply(asked.reply))])
    source = Source(sample, drawn, text)
    return R1Example(
        chunk,
        [torch.from_numpy(renderer.patches(image, drawn.frame(image.frame))) for image in chunk.images],
        torch.cat([token_looks(sample, drawn, image) for image in chunk.images]),
        torch.cat([token_places(image) for image in chunk.images]),
        [],
        _mentions(source, chunk) if asked.thinks else [],
        recalls_of(source, chunk) if asked.thinks and sample.question.condition.gap is None else [],
        torch.cat([_boxes(drawn, image) for image in chunk.images]),
    )


def ask_where(sample: Sample, drawn: Drawn, preset: R1Preset, rng: np.random.Generator) -> Asked:
    """The reasoner's question on a random frame with a target in it."""
    length, targets = sample.scene.num_frames, sample.question.targets
    seen = _seen(sample)
    target = int(rng.choice(seen))
    segment = random_window(rng, length, target, LEAST_WINDOW, preset.shrink)
    context = context_frames(segment, target, length, preset)
    shown = sorted({*context[0], *context[1], target})
    masks = drawn.masks(target)
    visible = [n for n in ordered(sample.scene, targets) if masks[n].any()]
    known = sample.question.condition.gap is None or _shows_gap(sample, shown)
    cues = tuple(cue_of(masks[n]) for n in visible) if known else ()
    to_frame = answer_map((sample.scene.height, sample.scene.width), preset)
    reply = format_cues(Cues(_thoughts(sample, shown, known=known), cues), to_frame.inverse())
    return Asked(ask_target(sample.question.text, context, target, preset), reply)


def ask_when(sample: Sample, drawn: Drawn, preset: R1Preset, rng: np.random.Generator) -> Asked:
    """The sampler's first question on the whole clip."""
    scene, question = sample.scene, sample.question
    frames = sample_interval(0, scene.num_frames - 1, preset.sampler_frames)
    interval = Interval(frames[0], frames[-1])
    if question.condition.gap is not None:
        interval = around_gap(scene, question.targets[0], frames)[0]
    elif question.targets and question.condition.texture is None:
        interval = best_view(scene, question.targets, frames)[0]
    start, end = interval.start / scene.fps, interval.end / scene.fps
    thought = _thoughts(sample, frames, known=False)
    reply = f"<think>{thought}</think>The event happens in {start:.1f} - {end:.1f} seconds."
    return Asked(ask_interval(question.text, frames, scene.fps), reply)


def ask_clearest(sample: Sample, drawn: Drawn, preset: R1Preset, rng: np.random.Generator) -> Asked:
    """The sampler's second question on a random part of the clip."""
    length, targets = sample.scene.num_frames, sample.question.targets
    seen = _seen(sample)
    segment = random_window(rng, length, int(rng.choice(seen)), 0.3, 1.0)
    frames = sample_interval(segment.start, segment.end, preset.sampler_frames)
    best = frames[len(frames) // 2]
    if targets and set(frames) & set(seen):
        best = best_view(sample.scene, targets, frames)[1]
    share = round((best - segment.start) / max(1, len(segment) - 1) * 10) * 10
    return Asked(ask_percentage(sample.question.text, frames), f"{share}%", thinks=False)


QUESTIONS = {"target": ask_where, "interval": ask_when, "percentage": ask_clearest}


def _seen(sample: Sample) -> list[int]:
    """Frames with a target in them; all where there is no such object."""
    scene, targets = sample.scene, list(sample.question.targets)
    stage = Stage(scene, 40, 56)
    return [n for n in range(scene.num_frames) if not targets or stage.masks(n)[targets].any()]


def _shows_gap(sample: Sample, shown: Sequence[int]) -> bool:
    thing = sample.scene.things[sample.question.targets[0]]
    return thing.gap is not None and any(thing.gap[0] < sample.scene.time(n) < thing.gap[1] for n in shown)


def _thoughts(sample: Sample, shown: Sequence[int], *, known: bool) -> str:
    """Steps 1 to 3; `known` tells that the frames show what the first look of O3 does not."""
    scene, question = sample.scene, sample.question
    times = "; ".join(timing(thing) for thing in listed(scene))
    places = "; ".join(whereabouts(scene, thing, shown) for thing in listed(scene))
    end = conclusion(scene, question)
    if known:
        for words in UNSEEN:
            end = end.replace(words, names(scene, question.targets))
    return f"Step 1: {times}. Step 2: {places}. Step 3: {end}"


def _boxes(drawn: Drawn, image: ImageRef) -> Tensor:
    boxes = torch.full((image.num_tokens, 4), torch.nan)
    if image.role is not Role.TARGET:
        return boxes
    masks = drawn.masks(image.frame)
    height, width = masks.shape[1:]
    share, thing = coverage(masks, image).max(0)
    for number, mask in enumerate(masks):
        if mask.any():
            box = torch.tensor(box_of(mask)) / torch.tensor([width, height, width, height])
            boxes[(thing == number) & (share > 0.04)] = box
    return boxes


def _mentions(source: Source, chunk: Chunk) -> list[Mention]:
    """Words at which one must look: steps 1 and 2 at every thing, the answer's numbers at their object."""
    images, scene = chunk.images, source.sample.scene
    order = sorted(range(len(images)), key=lambda number: images[number].frame)
    views = [order, order, order[::-1], order[::-1], order[::-1]]
    everything = ordered(scene, range(len(scene.things)))
    [(one, two)] = step_spans(source, chunk)
    found = []
    entries = zip(
        everything, looking_words(source, chunk, one), looking_words(source, chunk, two), strict=True
    )
    for number, early, words in entries:
        found += [first_view(source, chunk, number, position, order) for position in early]
        found += [first_view(source, chunk, number, *pair) for pair in zip(words, views, strict=False)]
    masks = source.drawn.masks(images[-1].frame)
    visible = [n for n in ordered(scene, source.sample.question.targets) if masks[n].any()]
    for number, positions in zip(visible, _coordinates(source, chunk), strict=False):
        found += [first_view(source, chunk, number, p, [len(images) - 1]) for p in positions]
    return [mention for mention in found if mention]


def _coordinates(source: Source, chunk: Chunk) -> list[list[int]]:
    """Per item of the answer the positions that are followed by a coordinate."""
    words = source.text.tokenizer.convert_ids_to_tokens(chunk.ids.tolist())
    items: list[list[int]] = []
    for position in np.flatnonzero(chunk.loss_mask)[:-1]:
        if "bbox_2d" in words[position]:
            items.append([])
        if items and words[position + 1].removeprefix("Ġ").isdigit():
            items[-1].append(int(position))
    return items
