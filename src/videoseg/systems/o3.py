"""VideoSEG-O3, composed: dialogues over a video, then the [SEG] states to masks on every frame.

Follow `O3System.segment` from top to bottom: that is the system (O3 specification §2, §8).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from videoseg.dialogue.episode import Episode
from videoseg.dialogue.preset import Preset
from videoseg.dialogue.render import check_query
from videoseg.errors import UsageError
from videoseg.masks import Masklet, Masklets, Rle, masklet_from_frames
from videoseg.models.o3 import O3Model
from videoseg.models.sam2 import MaskPrediction
from videoseg.models.session import Sampler, greedy
from videoseg.systems.images import ImageStore
from videoseg.systems.player import Dialogue, Notify, Player
from videoseg.systems.provenance import provenance
from videoseg.tracking.sam2 import TrackingJob, VideoFeatures, propagate_many
from videoseg.types import MaskReason, Query, Result, Trace
from videoseg.video.reader import Video

Progress = Callable[[str, int, int], None]
"""Called as `progress(stage, done, total)` with stage `dialogue` or `masks`."""


@dataclass(frozen=True, eq=False, slots=True)
class Target:
    """What the mask decoder is asked for: a prompt vector `[1, 256]` on a keyframe."""

    query: int
    keyframe: int
    embedding: Tensor


class O3System:
    """A model with a preset, ready to answer questions about videos."""

    def __init__(
        self,
        model: O3Model,
        preset: Preset | None = None,
        *,
        sampler: Sampler = greedy,
        seed: int = 0,
        max_rows: int = 8,
    ) -> None:
        self.model = model.eval()
        self.preset = preset or model.text.preset
        self.seed = seed
        self._sampler = sampler
        self._max_rows = max_rows

    def segment(
        self,
        source: Any,
        query: str | Query | Sequence[str | Query],
        *,
        progress: Progress | None = None,
        notify: Notify | None = None,
    ) -> Any:
        """Masks and reasoning for one query (`Result`) or several (`list[Result]`, same order).

        `source` is a `Video` or whatever `Video` opens; several queries share the video's image
        features and SAM2 frame features. Memory does not grow with the length of the video.
        """
        queries = as_queries(query)
        if isinstance(source, Video):
            results = self._segment(source, queries, progress, notify)
        else:
            with Video(source) as video:
                results = self._segment(video, queries, progress, notify)
        return results[0] if isinstance(query, str | Query) else results

    def _segment(
        self, video: Video, queries: Sequence[Query], progress: Progress | None, notify: Notify | None
    ) -> list[Result]:
        started = time.perf_counter()
        for query in queries:
            check_query(query.text, self.model.text.tokenizer, self.preset)
        torch.manual_seed(self.seed)
        dialogues = self.talk(video, queries, notify)
        if progress:
            progress("dialogue", len(queries), len(queries))
        masklets = self.masks(video, dialogues, progress)
        shared = provenance(self.model, self.preset, self.seed, time.perf_counter() - started)
        return [
            Result(query, video.info, masks, self._trace(query, dialogue), shared)
            for query, dialogue, masks in zip(queries, dialogues, masklets, strict=True)
        ]

    def talk(self, video: Video, queries: Sequence[Query], notify: Notify | None = None) -> list[Dialogue]:
        """Play the dialogues, at most `max_rows` at a time; images are encoded once for all."""
        renderer = self.model.text.renderer(video.frame_size, self.preset)
        images = ImageStore(self.model.vlm, renderer, video)
        dialogues: list[Dialogue] = []
        for start in range(0, len(queries), self._max_rows):
            player = Player(self.model, renderer, images, self.preset, self._sampler, _shifted(notify, start))
            batch = queries[start : start + self._max_rows]
            dialogues += player.play([Episode(len(video), query.text, self.preset) for query in batch])
        return dialogues

    def masks(
        self, video: Video, dialogues: Sequence[Dialogue], progress: Progress | None = None
    ) -> list[Masklets]:
        """One object per dialogue that has a [SEG], followed through the whole video."""
        targets = [target for i, d in enumerate(dialogues) if (target := self._target(i, d))]
        tracked = self._track(video, targets, progress)
        size = (len(video), *video.frame_size)
        return [Masklets(*size, (tracked[i],) if i in tracked else ()) for i in range(len(dialogues))]

    def _target(self, index: int, dialogue: Dialogue) -> Target | None:
        found = dialogue.seg_state(self.model.seg_id, self.preset.seg_rule)
        if found is None:
            return None
        return Target(index, dialogue.episode.keyframe(), self.model.embed(found[1])[None])

    @torch.no_grad()
    def _track(
        self, video: Video, targets: Sequence[Target], progress: Progress | None
    ) -> dict[int, Masklet]:
        """Follow all targets in step; each frame is encoded once per direction for all of them."""
        features = VideoFeatures(
            self.model.sam2,
            FrameWalk(video),
            original=self.model.original_sam2,
            exact_normalization=self.preset.exact_normalization,
        )
        jobs = [TrackingJob(target.keyframe, target.embedding) for target in targets]
        steps = propagate_many(
            self.model.sam2,
            features,
            len(video),
            jobs,
            self.preset.propagation,
            original=self.model.original_sam2,
        )
        entries: list[list[tuple[int, Rle, float, float]]] = [[] for _ in jobs]
        total = len(jobs) * len(video)
        for done, (job, frame, prediction) in enumerate(steps, start=1):
            entries[job].append((frame, *self._compress(prediction, video.frame_size)))
            if progress:
                progress("masks", done, total)
        return {
            target.query: masklet_from_frames(1, found, len(video))
            for target, found in zip(targets, entries, strict=True)
        }

    def _compress(self, prediction: MaskPrediction, size: tuple[int, int]) -> tuple[Rle, float, float]:
        mask = self.model.sam2.upsample(prediction.logits, size)[0] > 0
        presence = prediction.score.float().sigmoid().flatten()[0]
        return Rle.encode(mask.cpu().numpy()), float(presence), float(prediction.iou.flatten()[0])

    def _trace(self, query: Query, dialogue: Dialogue) -> Trace:
        episode = dialogue.episode
        found = dialogue.seg_state(self.model.seg_id, self.preset.seg_rule)
        warnings = list(episode.warnings)
        if found and found[0] != len(dialogue.replies) - 1:
            warnings.append(
                f"the final turn has no [SEG]; the mask comes from the one of turn {found[0] + 1}"
            )
        if episode.stop is None:
            raise UsageError("the dialogue has not ended; play it before asking for its trace")
        return Trace(
            query=query,
            turns=tuple(dialogue.turns),
            stop=episode.stop,
            keyframe=episode.keyframe(),
            seg_turn=found[0] if found else None,
            mask_reason=MaskReason.OK if found else MaskReason.NO_SEG,
            warnings=tuple(warnings),
        )


def as_queries(query: str | Query | Sequence[str | Query]) -> list[Query]:
    """Queries with distinct ids from one or several texts; `UsageError` if there is none."""
    given = [query] if isinstance(query, str | Query) else list(query)
    if not given:
        raise UsageError("no query given; ask at least one question")
    queries = [q if isinstance(q, Query) else Query(q, str(i)) for i, q in enumerate(given)]
    taken = [q.id for q in queries]
    if len(set(taken)) < len(taken):
        queries = [replace(q, id=str(i)) for i, q in enumerate(queries)]
    return queries


def _shifted(notify: Notify | None, start: int) -> Notify | None:
    return None if notify is None else lambda row, turn: notify(row + start, turn)


class FrameWalk:
    """Frames by index for a caller that walks the video: neighbouring frames are decoded in one go."""

    def __init__(self, video: Video) -> None:
        self._video = video
        self._walk: Iterator[tuple[int, Any]] = iter(())
        self._next = 0
        self._step = 0

    def __call__(self, index: int) -> Any:
        """Frame `index`, `uint8 [H, W, 3]`; another direction or a jump starts a new walk there."""
        if not self._step or index != self._next:
            backward = self._step != 0 and index < self._next
            self._step = -1 if backward else 1
            stop = -1 if backward else len(self._video)
            self._walk = self._video.frames(index, stop, step=self._step)
        self._next = index + self._step
        return next(self._walk)[1]
