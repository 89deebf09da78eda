"""VideoSEG-O3, composed: dialogues over a video, then the [SEG] states to masks on every frame.

Follow `O3System._segment` from top to bottom: that is the system (O3 specification §2, §8).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import asdict, is_dataclass
from typing import Any

from videoseg.dialogue.episode import Episode
from videoseg.dialogue.preset import Preset
from videoseg.dialogue.render import check_query
from videoseg.errors import UsageError
from videoseg.masks import Masklets
from videoseg.models.o3 import O3Model
from videoseg.models.session import Sampler, greedy
from videoseg.systems.base import System
from videoseg.systems.follow import FrameMask, Progress, Target, follow, stream
from videoseg.systems.images import ImageStore
from videoseg.systems.journal import Journal
from videoseg.systems.player import Dialogue, Notify, Player, View
from videoseg.systems.provenance import provenance
from videoseg.trace_json import trace_from_json, trace_to_json
from videoseg.types import MaskReason, Query, Result, Trace
from videoseg.video.reader import Video


class O3System(System):
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
        if self.preset.propagation == "original_sam2" and model.original_sam2 is None:
            raise UsageError("propagation original_sam2 needs Meta's unmodified weights: give original_sam2")

    def _check(self, text: str) -> None:
        check_query(text, self.model.text.tokenizer, self.preset)

    def _stream(self, video: Video, queries: Sequence[Query]) -> Iterator[FrameMask]:
        _, targets = self._answers(video, queries, None, None)
        yield from stream(self.model, self.preset, video, targets)

    def _segment(
        self,
        video: Video,
        queries: Sequence[Query],
        progress: Progress | None,
        notify: Notify | None,
        journal: Journal | None,
    ) -> list[Result]:
        started = time.perf_counter()
        traces, targets = self._answers(video, queries, notify, journal)
        if progress:
            progress("dialogue", len(queries), len(queries))
        masklets = follow(self.model, self.preset, video, targets, progress, journal)
        shared = provenance(
            self.model, self.model.text.source, self.preset, self.seed, time.perf_counter() - started
        )
        size = (len(video), *video.frame_size)
        return [
            Result(query, video.info, Masklets(*size, objects), trace, shared)
            for i, (query, trace) in enumerate(zip(queries, traces, strict=True))
            for objects in [(masklets[i],) if i in masklets else ()]
        ]

    def _answers(
        self, video: Video, queries: Sequence[Query], notify: Notify | None, journal: Journal | None
    ) -> tuple[list[Trace], list[Target]]:
        """Traces and targets of the queries: from the dialogues, or from those of an interrupted run."""
        kept = journal.dialogues() if journal else None
        if kept is not None:
            traces = [trace_from_json(trace) for trace in json.loads(kept["traces"])]
            return traces, [Target(*target) for target in kept["targets"]]
        dialogues = self.talk(video, queries, notify)
        traces = [self._trace(query, dialogue) for query, dialogue in zip(queries, dialogues, strict=True)]
        targets = [target for i, d in enumerate(dialogues) if (target := self._target(i, d))]
        if journal:
            plain = [(target.query, target.keyframe, target.embedding) for target in targets]
            written = json.dumps([trace_to_json(trace) for trace in traces])
            journal.keep_dialogues({"traces": written, "targets": plain})
        return traces, targets

    def talk(self, video: Video, queries: Sequence[Query], notify: Notify | None = None) -> list[Dialogue]:
        """Play the dialogues, at most `max_rows` at a time; images are encoded once for all."""
        renderer = self.model.text.renderer(video.frame_size, self.preset)
        view = View(renderer, ImageStore(self.model.vlm, renderer, video))
        dialogues: list[Dialogue] = []
        for start in range(0, len(queries), self._max_rows):
            # A copy, so that every call samples the same with the same seed.
            sampler = copy(self._sampler)
            player = Player(self.model, self.preset, sampler, _shifted(notify, start))
            batch = queries[start : start + self._max_rows]
            episodes = [Episode(len(video), query.text, self.preset) for query in batch]
            dialogues += player.play(episodes, [view] * len(episodes))
        return dialogues

    def _target(self, index: int, dialogue: Dialogue) -> Target | None:
        found = dialogue.seg_state(self.model.seg_id, self.preset.seg_rule)
        if found is None:
            return None
        return Target(index, dialogue.episode.keyframe(), self.model.embed(found[1])[None])

    def _head(self) -> dict[str, Any]:
        return {
            "model": self.model.text.source,
            "preset": asdict(self.preset),
            "sampler": repr(self._sampler) if is_dataclass(self._sampler) else "greedy",
        }

    def _trace(self, query: Query, dialogue: Dialogue) -> Trace:
        episode = dialogue.episode
        found = dialogue.seg_state(self.model.seg_id, self.preset.seg_rule)
        warnings = list(episode.warnings)
        if found and found[0] != len(dialogue.replies) - 1:
            warnings.append(f"the final turn has no [SEG]; the mask comes from the one of turn {found[0]}")
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


def _shifted(notify: Notify | None, start: int) -> Notify | None:
    return None if notify is None else lambda row, turn: notify(row + start, turn)
