"""VideoSeg-R1, composed: choose frames, reason about the target frame, prompt SAM2, propagate both ways.

Follow `R1System._segment` from top to bottom: that is the system (R1 specification §1).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from videoseg.dialogue.cues import parse_cues
from videoseg.dialogue.r1 import R1Preset, answer_map, ask_target, context_frames
from videoseg.errors import ReplyError, UsageError
from videoseg.masks import Masklet, Masklets, Rle, masklet_from_frames
from videoseg.models.r1 import R1Model
from videoseg.models.sam2 import PromptTokens
from videoseg.systems.base import System
from videoseg.systems.follow import FrameMask, FrameWalk, Progress
from videoseg.systems.frame_sampler import Chosen, FrameSampler
from videoseg.systems.journal import Journal
from videoseg.systems.player import Notify
from videoseg.systems.provenance import provenance
from videoseg.systems.reasoner import Draw, Reasoner, Said, Talk
from videoseg.trace_json import trace_from_json, trace_to_json
from videoseg.tracking.run import Job, TrackingRun
from videoseg.tracking.sam2 import Sam2Tracker, VideoFeatures
from videoseg.tracking.xmem import XMemFrames, XMemTracker
from videoseg.types import Cue, Cues, MaskReason, Query, Result, StopReason, Trace, Turn
from videoseg.video.reader import Video


class R1System(System):
    """A reasoner, SAM2 and a tracker with a preset, ready to answer questions about videos."""

    def __init__(
        self, model: R1Model, reasoner: Reasoner, preset: R1Preset | None = None, *, seed: int = 0
    ) -> None:
        self.model = model.eval()
        self.reasoner = reasoner
        self.preset = preset or R1Preset()
        self.seed = seed
        if self.preset.tracker == "xmem" and model.xmem is None:
            raise UsageError("tracker xmem needs the weights of XMem: give xmem")
        if self.preset.tracker == "sam2" and not model.memory:
            raise UsageError("these SAM2 weights hold no memory to track with: use tracker xmem")

    def _check(self, text: str) -> None:
        self.reasoner.check(text)

    def _segment(
        self,
        video: Video,
        queries: Sequence[Query],
        progress: Progress | None,
        notify: Notify | None,
        journal: Journal | None,
    ) -> list[Result]:
        started = time.perf_counter()
        traces = self._traces(video, queries, notify, journal)
        if progress:
            progress("dialogue", len(queries), len(queries))
        masklets = self._follow(video, traces, progress, journal)
        source = {"reasoner": self.reasoner.source, **self.model.source}
        shared = provenance(self.model, source, self.preset, self.seed, time.perf_counter() - started)
        size = (len(video), *video.frame_size)
        return [
            Result(query, video.info, Masklets(*size, objects), trace, shared)
            for query, trace, objects in zip(queries, traces, masklets, strict=True)
        ]

    def _traces(
        self, video: Video, queries: Sequence[Query], notify: Notify | None, journal: Journal | None
    ) -> list[Trace]:
        """What was reasoned about each query, now or by an interrupted run."""
        kept = journal.dialogues() if journal else None
        if kept is not None:
            return [trace_from_json(trace) for trace in json.loads(kept["traces"])]
        talk = self.reasoner.look(video, video.frame_size, self.preset)
        hear = [None if notify is None else partial(notify, row) for row in range(len(queries))]
        traces = [self._reason(video, talk, query, h) for query, h in zip(queries, hear, strict=True)]
        if journal:
            journal.keep_dialogues({"traces": json.dumps([trace_to_json(trace) for trace in traces])})
        return traces

    def _reason(self, video: Video, talk: Talk, query: Query, notify: Any) -> Trace:
        """Frames, then where the target is; once more with sampling if that names no object (§9 no. 24)."""
        sampler = FrameSampler(talk, len(video), video.info.fps, self.preset, self.seed, notify)
        chosen = sampler.choose(query.text)
        turns = list(chosen.turns)
        draw = Draw(max_tokens=self.preset.max_new_tokens, seed=self.seed)
        sampled = replace(draw, temperature=self.preset.temperature or 0.6, top_p=self.preset.top_p)
        for each in (draw, sampled) if self.preset.retry else (draw,):
            turn, stop = self._ask(video, talk, query, chosen, each)
            turns.append(replace(turn, index=len(turns)))
            if notify:
                notify(turns[-1])
            if objects_of(turn):
                break
        found = bool(objects_of(turns[-1]))
        return Trace(
            query=query,
            turns=tuple(turns),
            stop=stop,
            keyframe=chosen.target,
            seg_turn=len(turns) - 1 if found else None,
            mask_reason=MaskReason.OK if found else MaskReason.NO_ANSWER,
        )

    def _ask(
        self, video: Video, talk: Talk, query: Query, chosen: Chosen, draw: Draw
    ) -> tuple[Turn, StopReason]:
        started = time.perf_counter()
        context = context_frames(chosen.segment, chosen.target, len(video), self.preset)
        observation = ask_target(query.text, context, chosen.target, self.preset)
        said = talk.ask(observation, draw)[0]
        cues, error = self._read(said, video.frame_size)
        turn = Turn(
            index=0,
            shown=talk.shown(observation),
            text=said.text,
            reply=cues,
            error=error,
            steps=(("Thought", cues.think.strip()),) if cues and cues.think.strip() else (),
            num_tokens=said.num_tokens,
            seconds=time.perf_counter() - started,
        )
        if cues:
            return turn, StopReason.ANSWER
        return turn, StopReason.LENGTH if said.truncated else StopReason.INVALID_REPLY

    def _read(self, said: Said, size: tuple[int, int]) -> tuple[Cues | None, str | None]:
        try:
            return parse_cues(said.text, answer_map(size, self.preset), size), None
        except ReplyError as error:
            return None, str(error)

    def _follow(
        self, video: Video, traces: Sequence[Trace], progress: Progress | None, journal: Journal | None
    ) -> list[tuple[Masklet, ...]]:
        """The masklets of every query, its objects numbered from 1."""
        slots = self._slots(traces)
        found: list[list[tuple[int, Rle, float, float]]] = [[] for _ in slots]
        total = len(slots) * len(video)
        for done, mask in enumerate(self._sweep(video, traces, slots, journal), start=1):
            found[mask.query].append((mask.frame, mask.code, mask.presence, mask.score))
            if progress:
                progress("masks", done, total)
        made = [
            masklet_from_frames(number + 1, masks, len(video))
            for (_, number), masks in zip(slots, found, strict=True)
        ]
        return [
            tuple(m for m, (owner, _) in zip(made, slots, strict=True) if owner == query)
            for query in range(len(traces))
        ]

    def _stream(self, video: Video, queries: Sequence[Query]) -> Iterator[FrameMask]:
        """Of a query with several objects one mask per object and frame."""
        traces = self._traces(video, queries, None, None)
        slots = self._slots(traces)
        for mask in self._sweep(video, traces, slots, None):
            yield replace(mask, query=slots[mask.query][0])

    def _slots(self, traces: Sequence[Trace]) -> list[tuple[int, int]]:
        """(query, number of the object) of every object, query by query."""
        counts = [len(cues_of(trace)) for trace in traces]
        most = 1 if self.preset.union_first else max(counts, default=0)
        return [(query, number) for query, count in enumerate(counts) for number in range(min(count, most))]

    @torch.no_grad()
    def _sweep(
        self, video: Video, traces: Sequence[Trace], slots: Sequence[tuple[int, int]], journal: Journal | None
    ) -> Iterator[FrameMask]:
        """Masks as they are made; `FrameMask.query` counts the objects of all queries."""
        run, owners = self._tracking(video, traces, slots)
        if journal is not None:
            for slot, frame, code, presence, score in journal.masks(run):
                yield FrameMask(slot, frame, Rle.from_coco(code), presence, score)
        for job, frame, prediction in run:
            made = self._codes(prediction, video.frame_size)
            for slot, (rle, *numbers) in zip(owners[job], made, strict=True):
                mask = FrameMask(slot, frame, rle, *numbers)
                if journal is not None:
                    more = slot != owners[job][-1]
                    journal.add(run, slot, frame, mask.code.to_coco(), mask.presence, mask.score, more=more)
                yield mask

    def _tracking(
        self, video: Video, traces: Sequence[Trace], slots: Sequence[tuple[int, int]]
    ) -> tuple[TrackingRun[Any, Any, Any], list[list[int]]]:
        """The run through the video, and which objects each of its jobs follows.

        XMem follows all objects of a query together, because its labels compete; SAM2 each by itself.
        """
        sam2, walk = self.model.sam2, FrameWalk(video)
        of_query = {q: [s for s, (owner, _) in enumerate(slots) if owner == q] for q, _ in slots}
        jobs: list[Job[Any, Any, Any]] = []
        if self.preset.tracker == "xmem" and self.model.xmem is not None:
            for q in of_query:
                tracker = XMemTracker(self.model.xmem, num_frames=len(video))
                jobs.append(Job(traces[q].keyframe, tracker, partial(self._masks, video, traces[q])))
            return TrackingRun(jobs, XMemFrames(self.model.xmem, walk), len(video)), list(of_query.values())
        for q, number in slots:
            prompt = partial(self._sam2_prompt, video, traces[q], number)
            jobs.append(
                Job(traces[q].keyframe, Sam2Tracker(sam2, "inject_once", num_frames=len(video)), prompt)
            )
        return TrackingRun(jobs, VideoFeatures(sam2, walk), len(video)), [[s] for s in range(len(slots))]

    def _masks(self, video: Video, trace: Trace) -> Tensor:
        """Masks bool [N, H, W] of a query's objects on its target frame (Eq. 3)."""
        features = VideoFeatures(self.model.sam2, video.__getitem__)(trace.keyframe)
        size = video.frame_size
        masks = torch.cat(
            [
                self.model.sam2.upsample(self.model.sam2.segment(features, prompt).logits, size) > 0
                for prompt in self._prompts(cues_of(trace), size)
            ]
        )
        return masks.any(0, keepdim=True) if self.preset.union_first else masks

    def _sam2_prompt(self, video: Video, trace: Trace, number: int) -> PromptTokens:
        if self.preset.union_first:
            return self.model.sam2.prompt_mask(self._masks(video, trace))
        return self._prompts(cues_of(trace), video.frame_size)[number]

    def _prompts(self, cues: Sequence[Cue], size: tuple[int, int]) -> list[PromptTokens]:
        return [sam2_prompt(self.model, self.preset, cue, size) for cue in cues]

    def _codes(self, prediction: Any, size: tuple[int, int]) -> list[tuple[Rle, float, float]]:
        """Code, presence and score of every object of a prediction."""
        if self.preset.tracker == "xmem":
            masks, presence, score = prediction.masks(size), prediction.presence, prediction.score
        else:
            masks = self.model.sam2.upsample(prediction.logits, size) > 0
            presence, score = prediction.score.float().sigmoid(), prediction.iou
        rows = zip(masks.cpu().numpy(), presence.tolist(), score.tolist(), strict=True)
        return [(Rle.encode(mask), float(p), float(s)) for mask, p, s in rows]

    def _head(self) -> dict[str, Any]:
        return {
            "system": "r1",
            "model": {"reasoner": self.reasoner.source, **self.model.source},
            "preset": asdict(self.preset),
            "seed": self.seed,
        }


def sam2_prompt(model: R1Model, preset: R1Preset, cue: Cue, size: tuple[int, int]) -> PromptTokens:
    """Box, point and negative point of one object on a frame of (height, width), as SAM2's prompt (§6).

    Which of them are given, and whether the best of three masks counts, are the preset's.
    """
    scale = torch.tensor([model.sam2.image_size / size[1], model.sam2.image_size / size[0]])
    clicks = [(cue.point, 1)] * ("point" in preset.prompts) + [(cue.negative, 0)] * (
        "negative" in preset.prompts
    )
    given = [(point, label) for point, label in clicks if point is not None]
    points = torch.tensor([[point for point, _ in given]], dtype=torch.float32).reshape(1, -1, 2) * scale
    labels = torch.tensor([[label for _, label in given]], dtype=torch.int64)
    if "box" in preset.prompts or not given:
        box = torch.tensor([cue.box], dtype=torch.float32) * scale.repeat(2)
        prompt = model.sam2.prompt_box(box, points, labels)
    else:
        prompt = model.sam2.prompt_points(points, labels)
    return replace(prompt, multimask=preset.masks == "argmax3")


def objects_of(turn: Turn) -> tuple[Cue, ...]:
    """The objects that a turn names."""
    return turn.reply.objects if isinstance(turn.reply, Cues) else ()


def cues_of(trace: Trace) -> tuple[Cue, ...]:
    """The objects that were prompted for."""
    return () if trace.seg_turn is None else objects_of(trace.turns[trace.seg_turn])
