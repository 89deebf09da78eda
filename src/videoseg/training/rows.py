"""Samples of the data sets as dialogues to learn from: prompts, answers, masks (O3 specification §10, §11).

Everything is rendered by `dialogue.render.Renderer`; what the specification leaves open is in
docs/decisions.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from videoseg.data.frames import Frames, ImageFrames
from videoseg.data.mix import Share, draw_phrases
from videoseg.data.sample import (
    ChatSample,
    GcgSample,
    GroundingSample,
    Origin,
    RefImageSample,
    RefVideoSample,
    Sample,
    TraceSample,
    logical_frames,
)
from videoseg.dialogue.episode import Episode, ImagePart, Observation, TextPart
from videoseg.dialogue.render import Chunk, Renderer, check_query
from videoseg.errors import QueryError, RenderError, UsageError
from videoseg.masks import Rle
from videoseg.models.o3 import O3Model
from videoseg.models.sam2 import FrameFeatures
from videoseg.training.collate import DialogueRow
from videoseg.training.config import SupervisedConfig
from videoseg.training.dialogue_batch import Kind, MaskQuery
from videoseg.training.features import FeatureCache
from videoseg.types import Role
from videoseg.video.sampling import sample_video

ANSWERS = (
    "It is [SEG].",
    "Sure, [SEG].",
    "Sure, it is [SEG].",
    "Sure, the segmentation result is [SEG].",
    "[SEG].",
)
"""Drawn at random (specification §10)."""
REFER = "Please segment: {query}"
DESCRIBE = "Please describe the picture and segment everything that you name."
TIMELINE = "The video has total {total} frames. The sampled indices is {indices}.\n"
RATE = 10
"""Frames a second of the time line of temporal grounding."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and its answer, with the masks of each [SEG] of the answer on the frames that are shown."""

    question: str
    answer: str
    masks: Sequence[Sequence[Rle]] = ()


class RowMaker:
    """Makes dialogues of samples for one model; `cache` holds features of frames that were seen before."""

    def __init__(self, model: O3Model, config: SupervisedConfig, cache: FeatureCache | None = None) -> None:
        self.text = model.text
        self.seg_id = model.seg_id
        self.preset = model.text.preset.override(**config.preset)
        self._config = config
        self._cache = cache
        self._preprocess = model.sam2.preprocess
        self._mask_size = model.sam2.image_size // 4

    def row(self, samples: Sequence[Sample], share: Share, rng: np.random.Generator) -> DialogueRow:
        """One dialogue about the samples drawn from a unit of a data set.

        Raises DatasetError naming the sample: what it refers to cannot be read, is too long or holds reserved
        tokens. Raises UsageError for data of another stage.
        """
        first = samples[0]
        kind = type(first)
        if kind not in BUILDERS:
            raise UsageError(f"{share.dataset}: not a set for supervised training; it serves another stage")
        try:
            row = BUILDERS[kind](self, samples, share, rng)
        except (RenderError, QueryError) as error:
            raise first.origin.error("dialogue", error) from error
        if len(row.chunk.ids) > self._config.max_length:
            raise first.origin.error(
                "dialogue", f"{len(row.chunk.ids)} tokens; max_length is {self._config.max_length}"
            )
        return row

    def length(self, share: Share) -> int:
        """About how many tokens a dialogue of a data set has, to put similar ones together."""
        pixels = self._config.pixels
        limits = pixels.frames if share.frames else pixels.image
        if share.dataset == "timelens":
            limits = pixels.grounding
        return max(1, share.frames) * limits[1] // self.text.geometry.factor**2 + 40 * share.draws

    def referred_video(self, samples: Sequence[Any], share: Share, rng: np.random.Generator) -> DialogueRow:
        """Expressions of one video, one [SEG] each, on some of its frames."""
        sample: RefVideoSample = samples[0]
        known = range(len(sample.frames)) if sample.annotated is None else sample.annotated
        shown = sorted(int(i) for i in rng.choice(known, min(share.frames, len(known)), replace=False))
        talk = [
            Exchange(REFER.format(query=each.query), str(rng.choice(ANSWERS)), [each.masks(shown)])
            for each in samples
        ]
        return self._plain(sample.origin, sample.frames, shown, self._config.pixels.frames, talk, rng)

    def referred_image(self, samples: Sequence[Any], share: Share, rng: np.random.Generator) -> DialogueRow:
        """Phrases of one image, one [SEG] each."""
        sample: RefImageSample = samples[0]
        talk = [
            Exchange(REFER.format(query=text), str(rng.choice(ANSWERS)), [[sample.mask(target)]])
            for text, target in draw_phrases(sample, share.draws, rng)
        ]
        return self._plain(sample.origin, picture(sample.image), [0], self._config.pixels.image, talk, rng)

    def grounded_caption(self, samples: Sequence[Any], _: Share, rng: np.random.Generator) -> DialogueRow:
        """A caption whose phrases each have a [SEG]."""
        sample: GcgSample = samples[0]
        talk = [Exchange(DESCRIBE, sample.tagged(), [[mask] for mask in sample.masks()])]
        return self._plain(sample.origin, picture(sample.image), [0], self._config.pixels.image, talk, rng)

    def conversation(self, samples: Sequence[Any], share: Share, rng: np.random.Generator) -> DialogueRow:
        """Questions about a video without masks, on one random frame of each of equal stretches."""
        sample: ChatSample = samples[0]
        edges = np.linspace(0, len(sample.frames), min(share.frames, len(sample.frames)) + 1, dtype=int)
        shown = [int(rng.integers(a, b)) for a, b in pairwise(edges)]
        talk = [Exchange(turn.question, turn.answer) for turn in sample.turns]
        return self._plain(sample.origin, sample.frames, shown, self._config.pixels.frames, talk, rng)

    def events(self, samples: Sequence[Any], share: Share, rng: np.random.Generator) -> DialogueRow:
        """When events happen, as frames of a time line of 10 a second."""
        sample: GroundingSample = samples[0]
        with sample.origin.naming("video_path"):
            shown = sample_video(len(sample.frames), share.frames)
            rate = sample.frames.info().fps if not isinstance(sample.frames, ImageFrames) else RATE
        total = max(1, int(sample.duration * RATE))
        indices = list(logical_frames(shown, rate, RATE, total))
        count = min(share.draws, len(sample.events))
        talk: list[Exchange] = []
        for number in rng.choice(len(sample.events), count, replace=False):
            event = sample.events[int(number)]
            span = sample.interval(event, RATE, total)
            opening = "" if talk else TIMELINE.format(total=total, indices=indices)
            answer = json.dumps({"start_frame": span.start, "end_frame": span.end})
            talk.append(Exchange(opening + event.query, answer))
        limits = self._config.pixels.grounding
        return self._plain(sample.origin, sample.frames, shown, limits, talk, rng)

    def trace(self, samples: Sequence[Any], _: Share, rng: np.random.Generator) -> DialogueRow:
        """A multi-turn dialogue as inference would hold it.

        The [SEG] of turn r (the last of its reply) is drawn on the turn-0 high-resolution frames and on the
        keyframe selected in turn r - 1 (§11).
        """
        sample: TraceSample = samples[0]
        check_query(sample.query, self.text.tokenizer, self.preset)
        renderer, turns = self._replay(sample)
        shown = sample.mask_frames()
        frames = sorted({*shown, *(part.frame for seen, _ids in turns for part in seen.images)})
        pixels = self._read(sample.origin, sample.frames, frames)
        masks = dict(zip(shown, sample.masks(shown), strict=True))
        queries: list[MaskQuery] = []
        before = 0
        for turn, (_seen, ids) in enumerate(turns):
            count = list(ids).count(self.seg_id)
            for frame in sample.supervised(turn) if count else ():
                place, truth = shown.index(frame), self._truth(masks[frame])
                kind: Kind = "video" if frame in sample.high_frames else "keyframe"
                queries.append(MaskQuery(0, before + count - 1, place, truth, kind, turn))
            before += count
        chunk = renderer.dialogue(turns)
        return self._assemble(sample.origin, sample.frames, renderer, chunk, pixels, shown, queries)

    def _replay(self, sample: TraceSample) -> tuple[Renderer, list[tuple[Observation, Sequence[int]]]]:
        """The environment's observations for the replies of a trace."""
        with sample.origin.naming("frames"):
            renderer = self.text.renderer(sample.frames.size(0), self.preset)
        preset = self.preset.override(max_turns=max(len(sample.replies), self.preset.budget.max_turns))
        episode = Episode(len(sample.frames), sample.query, preset, high_frames=sample.high_frames)
        turns: list[tuple[Observation, Sequence[int]]] = []
        for number, text in enumerate(sample.replies):
            if episode.observation is None:
                raise sample.origin.error("conversations", f"reply {number} follows the end ({episode.stop})")
            turns.append((episode.observation, renderer.encode_reply(text)))
            episode.step(text)
        return renderer, turns

    def _plain(
        self,
        origin: Origin,
        source: Frames,
        shown: Sequence[int],
        limits: tuple[int, int],
        talk: Sequence[Exchange],
        rng: np.random.Generator,
    ) -> DialogueRow:
        """Frames, then questions and answers in turn; without system message, as in stage I (§3)."""
        with origin.naming("frames"):
            renderer = self._plain_renderer(source.size(shown[0]), limits)
        turns: list[tuple[Observation, Sequence[int]]] = []
        asked: list[tuple[int, Sequence[Rle]]] = []
        segs = 0
        for number, exchange in enumerate(talk):
            check_query(exchange.question, self.text.tokenizer)
            images = () if number else tuple(ImagePart(frame, Role.HIGH) for frame in shown)
            question = TextPart(exchange.question if number else f"\n{exchange.question}")
            ids = renderer.encode_reply(exchange.answer)
            turns.append((Observation((*images, question), number), ids))
            count = ids.count(self.seg_id)
            if count != len(exchange.masks):
                problem = f"{count} [SEG] for {len(exchange.masks)} masks in {exchange.answer!r}"
                raise origin.error("answer", problem)
            asked += [(segs + place, masks) for place, masks in enumerate(exchange.masks)]
            segs += count
        if len(asked) > self._config.max_objects:
            chosen = sorted(rng.choice(len(asked), self._config.max_objects, replace=False))
            asked = [asked[int(place)] for place in chosen]
        queries = [
            MaskQuery(0, seg, frame, self._truth(mask))
            for seg, masks in asked
            for frame, mask in enumerate(masks)
        ]
        pixels = self._read(origin, source, shown)
        drawn = shown if queries else ()
        return self._assemble(origin, source, renderer, renderer.dialogue(turns), pixels, drawn, queries)

    def _plain_renderer(self, size: tuple[int, int], limits: tuple[int, int]) -> Renderer:
        least, most = limits
        sizes = {"low_pixels": most, "high_pixels": most, "keyframe_pixels": most}
        preset = self.preset.override(min_pixels=least, **sizes)
        return Renderer(self.text.tokenizer, self.text.geometry, preset, size, system=None)

    def _read(self, origin: Origin, source: Frames, frames: Sequence[int]) -> dict[int, Any]:
        """Pixels of frames; DatasetError naming sample and file where one cannot be read."""
        with origin.naming("frames"):
            return dict(zip(frames, source.read(frames), strict=True))

    def _truth(self, mask: Rle) -> Tensor:
        """A mask as `bool [s, s]`, s being the side of SAM2's masks (nearest, §10)."""
        full = torch.from_numpy(mask.decode()).to(torch.uint8)[None, None]
        return F.interpolate(full, size=(self._mask_size, self._mask_size), mode="nearest")[0, 0].bool()

    def _assemble(
        self,
        origin: Origin,
        source: Frames,
        renderer: Renderer,
        chunk: Chunk,
        pixels: dict[int, Any],
        drawn: Sequence[int],
        queries: Sequence[MaskQuery],
    ) -> DialogueRow:
        """The row of a rendered dialogue; `drawn` are the frames that the queries count in."""
        patches = [torch.from_numpy(renderer.patches(image, pixels[image.frame])) for image in chunk.images]
        name = f"{origin.file}: sample {origin.key}"
        if not self._config.masks:
            return DialogueRow(chunk, patches, name=name)
        found = [self._frame(source, frame, pixels[frame]) for frame in drawn]
        keys, frames = zip(*found, strict=True) if found else ((), ())
        return DialogueRow(chunk, patches, frames, queries, name, keys)

    def _frame(self, source: Frames, frame: int, pixels: Any) -> tuple[str, Tensor | FrameFeatures]:
        """A frame's key in the cache ("" without one) and its features, or the pixels to be encoded."""
        if self._cache is None:
            return "", self._preprocess(pixels)
        key = self._cache.key(source, frame)
        features = self._cache.load(key)
        return key, self._preprocess(pixels) if features is None else features


def picture(path: Any) -> ImageFrames:
    """An image as a video of one frame."""
    return ImageFrames(path.parent, (path.name,))


BUILDERS: dict[type, Callable[..., DialogueRow]] = {
    RefVideoSample: RowMaker.referred_video,
    RefImageSample: RowMaker.referred_image,
    GcgSample: RowMaker.grounded_caption,
    ChatSample: RowMaker.conversation,
    GroundingSample: RowMaker.events,
    TraceSample: RowMaker.trace,
}
