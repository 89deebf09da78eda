"""Tracking with bounded memory: equal to keeping everything, in all four modes."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sam2_builders import random_features, random_frames, random_sam2
from videoseg.errors import UsageError
from videoseg.models.sam2 import FrameFeatures, MaskPrediction, PromptTokens, Sam2
from videoseg.tracking.base import Tracker
from videoseg.tracking.sam2 import (
    Propagation,
    Sam2Tracker,
    TrackingJob,
    TrackingOptions,
    VideoFeatures,
    propagate,
    propagate_many,
)

INJECTING = (Propagation.INJECT_EVERY_FRAME, Propagation.INJECT_ONCE)


@pytest.fixture(scope="module")
def sam2() -> Sam2:
    return random_sam2()


@pytest.fixture(scope="module")
def features(sam2: Sam2) -> FrameFeatures:
    return random_features(sam2, 45)


@pytest.fixture(scope="module")
def embedding(sam2: Sam2) -> Tensor:
    return 3 * torch.randn(2, sam2.width, generator=torch.Generator().manual_seed(1))


def at(features: FrameFeatures) -> Callable[[int], FrameFeatures]:
    return lambda index: features.select([index])


def order(count: int, keyframe: int) -> list[int]:
    return [*range(keyframe, count), *range(keyframe - 1, -1, -1)]


def keep_everything(
    sam2: Sam2, features: FrameFeatures, count: int, keyframe: int, prompt: PromptTokens, every: bool
) -> dict[int, MaskPrediction]:
    """Propagation as stack.md §3.4 states it, with the memories of all frames kept."""
    answers: dict[int, MaskPrediction] = {}
    memories: dict[int, Tensor] = {}
    limit = min(count, sam2.num_pointers)
    for t in order(count, keyframe):
        frame = features.select([t])
        if t == keyframe:
            answers[t] = sam2.segment(frame, prompt)
        else:
            sign = 1 if t > keyframe else -1
            before = [(d, t - sign * d) for d in range(1, 100)]
            past = [(d, f) for d, f in before if f in memories and f != keyframe]
            maps = [(sam2.num_maps - 1, memories[keyframe])]
            maps += [(d - 1, memories[f]) for d, f in reversed(past) if d < sam2.num_maps]
            pointers = [(abs(t - keyframe), answers[keyframe].pointer)]
            pointers += [(d, answers[f].pointer) for d, f in past if d < limit]
            top = sam2.attend(frame, maps, pointers, limit)
            shown = prompt if every else sam2.prompt_empty(len(prompt.sparse))
            answers[t] = sam2.decode(frame, top, shown)
        memories[t] = sam2.remember(frame, answers[t])
    return answers


@pytest.mark.parametrize("mode", INJECTING)
@pytest.mark.parametrize("keyframe", [0, 3, 20, 44])
@torch.no_grad()
def test_bounded_memory_changes_nothing(
    sam2: Sam2, features: FrameFeatures, embedding: Tensor, keyframe: int, mode: Propagation
) -> None:
    prompt = sam2.prompt_language(embedding)
    every = mode is Propagation.INJECT_EVERY_FRAME
    expected = keep_everything(sam2, features, 45, keyframe, prompt, every)
    found = dict(propagate(sam2, at(features), 45, keyframe, embedding, mode))
    assert found.keys() == expected.keys()
    for t, answer in found.items():
        assert torch.equal(answer.logits, expected[t].logits)
        assert torch.equal(answer.pointer, expected[t].pointer)


@pytest.mark.parametrize("version", ["2.0", "2.1"])
@torch.no_grad()
def test_short_videos_and_streams(version: str, embedding: Tensor) -> None:
    """The scale of pointer distances depends on the length below 16 frames, and only in 2.1."""
    sam2 = random_sam2(version=version)
    prompt, features = sam2.prompt_language(embedding), random_features(sam2, 18)
    for count in (1, 2, 5, 18):
        expected = keep_everything(sam2, features, count, 0, prompt, every=True)
        found = dict(propagate(sam2, at(features), count, 0, embedding))
        stream = Sam2Tracker(sam2)
        streamed = {0: stream.start(features.select([0]), prompt, 0)}
        streamed |= {t: stream.step(features.select([t]), t) for t in range(1, count)}
        assert all(torch.equal(found[t].logits, expected[t].logits) for t in range(count))
        same = all(torch.equal(found[t].logits, streamed[t].logits) for t in range(count))
        assert same == (version == "2.0" or count in (1, 18))


@torch.no_grad()
def test_state_does_not_grow_with_the_video(sam2: Sam2, features: FrameFeatures, embedding: Tensor) -> None:
    largest = {}
    for count in (200, 2000):
        tracker = Sam2Tracker(sam2, Propagation.INJECT_ONCE, num_frames=count)
        prompt, seen = sam2.prompt_language(embedding[:1]), []
        for t in order(count, count // 2):
            frame = features.select([t % len(features)])
            tracker.start(frame, prompt, t) if t == count // 2 else tracker.step(frame, t)
            seen.append(tracker.live_memories)
        largest[count] = (max(s.maps for s in seen), max(s.pointers for s in seen))
        assert seen[-1].maps <= 7
        tracker.close()
        assert tracker.live_memories == (0, 0)
    assert largest[200] == largest[2000] == (12, 30)


@torch.no_grad()
def test_a_forward_stream_keeps_seven_maps(sam2: Sam2, features: FrameFeatures, embedding: Tensor) -> None:
    tracker = Sam2Tracker(sam2)
    tracker.start(features.select([0]), sam2.prompt_language(embedding), 0)
    for t in range(1, 40):
        tracker.step(features.select([t]), t)
    assert tracker.live_memories == (7, 16)


@torch.no_grad()
def test_objects_in_a_batch_do_not_touch_each_other() -> None:
    sam2 = random_sam2().double()
    features = random_features(sam2, 24)
    embedding = 3 * torch.randn(3, sam2.width, dtype=torch.float64)
    options = TrackingOptions(exact=True)
    together = dict(propagate(sam2, at(features), 24, 9, embedding, options=options))
    for index in range(3):
        alone = propagate(sam2, at(features), 24, 9, embedding[index : index + 1], options=options)
        for t, answer in alone:
            assert (answer.logits - together[t].row(index).logits).abs().max() < 2e-8


@torch.no_grad()
def test_features_are_asked_for_once_and_dropped(sam2: Sam2, embedding: Tensor) -> None:
    frames = random_frames(12)
    computed = VideoFeatures(sam2, lambda t: frames[t], cache=0)
    alive: list[weakref.ref[FrameFeatures]] = []
    asked = []

    def features(t: int) -> FrameFeatures:
        assert all(ref() is None for ref in alive)
        asked.append(t)
        result = computed(t)
        alive.append(weakref.ref(result))
        return result

    visited = [t for t, _ in propagate(sam2, features, 12, 4, embedding)]
    assert visited == asked == order(12, 4)


@torch.no_grad()
def test_several_queries_share_features(sam2: Sam2, features: FrameFeatures, embedding: Tensor) -> None:
    jobs = [TrackingJob(k, embedding + k) for k in (7, 0, 19, 7)]
    asked: list[int] = []

    def counted(t: int) -> FrameFeatures:
        asked.append(t)
        return features.select([t])

    found: dict[int, list[tuple[int, MaskPrediction]]] = {n: [] for n in range(len(jobs))}
    for number, t, answer in propagate_many(sam2, counted, 20, jobs):
        found[number].append((t, answer))
    assert asked == [*range(20), *range(18, -1, -1)]
    for number, job in enumerate(jobs):
        alone = list(propagate(sam2, at(features), 20, job.keyframe, job.embedding))
        assert [t for t, _ in alone] == [t for t, _ in found[number]]
        for (_, one), (_, other) in zip(alone, found[number], strict=True):
            assert torch.equal(one.logits, other.logits)
    assert list(propagate_many(sam2, counted, 20, [])) == []


@torch.no_grad()
def test_per_frame_uses_no_memory(sam2: Sam2, features: FrameFeatures, embedding: Tensor) -> None:
    prompt = sam2.prompt_language(embedding)
    found = propagate(sam2, at(features), 10, 6, embedding, "per_frame")
    for t, answer in found:
        assert torch.equal(answer.logits, sam2.segment(features.select([t]), prompt).logits)
    tracker = Sam2Tracker(sam2, "per_frame")
    tracker.start(features.select([0]), prompt, 0)
    tracker.step(features.select([1]), 1)
    assert tracker.live_memories == (0, 0)


@torch.no_grad()
def test_modes_differ_after_the_keyframe(sam2: Sam2, features: FrameFeatures, embedding: Tensor) -> None:
    runs = [dict(propagate(sam2, at(features), 6, 2, embedding, mode)) for mode in (*INJECTING, "per_frame")]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert torch.equal(runs[one][2].logits, runs[other][2].logits)
        assert not torch.allclose(runs[one][3].logits, runs[other][3].logits, atol=1e-3)


class TestOriginalSam2:
    """The mask of the fine-tuned decoder, carried on by an unmodified SAM2 (§8.3)."""

    @pytest.fixture(scope="class")
    def original(self, sam2: Sam2) -> Sam2:
        return sam2.with_decoder(random_sam2(seed=7).model.state_dict())

    @pytest.fixture(scope="class")
    def both(self, sam2: Sam2, original: Sam2) -> FrameFeatures:
        return random_features(sam2, 14, original=original)

    @torch.no_grad()
    def test_equals_stock_tracking_of_the_keyframe_mask(
        self, sam2: Sam2, original: Sam2, both: FrameFeatures, embedding: Tensor
    ) -> None:
        found = dict(propagate(sam2, at(both), 14, 5, embedding, "original_sam2", original=original))
        asked = sam2.segment(both.select([5]), sam2.prompt_language(embedding))
        assert torch.equal(found[5].logits, asked.logits)
        mask = sam2.upsample(asked.logits, (sam2.image_size, sam2.image_size)) > 0
        assert mask.any()
        stock = Sam2Tracker(original, "inject_once", num_frames=14, options=TrackingOptions(gate=True))
        plain = random_features(original, 14)
        stock.start(plain.select([5]), original.prompt_mask(mask), 5)
        for t in order(14, 5)[1:]:
            assert torch.equal(found[t].logits, stock.step(plain.select([t]), t).logits)

    @torch.no_grad()
    def test_gate_can_be_switched_off(
        self, sam2: Sam2, original: Sam2, both: FrameFeatures, embedding: Tensor
    ) -> None:
        def lowest(gate: bool | None) -> float:
            options = TrackingOptions(gate=gate)
            run = propagate(
                sam2, at(both), 14, 5, embedding, "original_sam2", original=original, options=options
            )
            return min(float(answer.logits.min()) for _, answer in run)

        assert lowest(None) == -1024
        assert lowest(False) > -1024

    def test_needs_the_original(self, sam2: Sam2, original: Sam2, features: FrameFeatures) -> None:
        with pytest.raises(UsageError, match="original="):
            Sam2Tracker(sam2, "original_sam2")
        tracker = Sam2Tracker(sam2, "original_sam2", original=original)
        with pytest.raises(UsageError, match="original="):
            tracker.start(features.select([0]), sam2.prompt_language(torch.zeros(1, sam2.width)), 0)


def test_gradients_reach_the_embedding_through_memory(sam2: Sam2, features: FrameFeatures) -> None:
    """Frames of `inject_once` see the language token only through the keyframe's memory."""
    embedding = torch.randn(1, sam2.width, requires_grad=True)
    found = dict(propagate(sam2, at(features), 4, 1, embedding, "inject_once"))
    for t in (0, 2, 3):
        (gradient,) = torch.autograd.grad(found[t].logits.square().mean(), embedding, retain_graph=True)
        assert gradient.abs().max() > 0


@torch.no_grad()
def test_several_tokens_per_object(sam2: Sam2, features: FrameFeatures) -> None:
    tokens = torch.randn(2, 3, sam2.width)
    found = dict(propagate(sam2, at(features), 3, 0, tokens))
    assert found[2].logits.shape[0] == 2
    first = dict(propagate(sam2, at(features), 3, 0, tokens[:, :1]))
    assert not torch.allclose(first[2].logits, found[2].logits, atol=1e-3)


def test_misuse_is_named(sam2: Sam2, features: FrameFeatures, embedding: Tensor) -> None:
    frame, prompt = features.select([0]), sam2.prompt_language(embedding)
    tracker: Tracker = Sam2Tracker(sam2)
    with pytest.raises(UsageError, match="call start"):
        tracker.step(frame, 1)
    with pytest.raises(UsageError, match="known are: inject_every_frame"):
        Sam2Tracker(sam2, "sometimes")
    with pytest.raises(UsageError, match=r"keyframe 9 .* 0\.\.4"):
        propagate(sam2, at(features), 5, 9, embedding)
    with torch.no_grad():
        tracker.start(frame, prompt, 5)
        tracker.step(frame, 6)
        for wrong in (5, 6, 8, 3):
            with pytest.raises(UsageError, match="expected 7 or 4"):
                tracker.step(frame, wrong)
        tracker.step(frame, 4)
        with pytest.raises(UsageError, match=r"expected 3$"):
            tracker.step(frame, 7)
        tracker.step(frame, 3)


@torch.no_grad()
def test_video_features_keep_what_the_cache_holds(sam2: Sam2) -> None:
    frames = random_frames(5)
    features = VideoFeatures(sam2, lambda t: frames[t], cache=2)
    first = features(0)
    assert features(0) is first
    features(1)
    features(2)
    assert features(1) is not first
    assert features.computed == 3
    assert features(0) is not first
    features.close()
    features(0)
    assert features.computed == 5
    assert torch.equal(features(0).top, first.top)


@torch.no_grad()
def test_tracks_in_bfloat16(sam2: Sam2, features: FrameFeatures, embedding: Tensor) -> None:
    small = random_sam2().bfloat16()
    frames = random_features(small, 6)
    expected = dict(propagate(sam2, at(features), 6, 2, embedding))
    found = dict(propagate(small, at(frames), 6, 2, embedding.bfloat16()))
    with torch.autocast("cpu", torch.bfloat16):
        cast = dict(propagate(sam2, at(random_features(sam2, 6)), 6, 2, embedding))
    scale = expected[5].logits.std()
    for run in (found, cast):
        assert run[5].logits.dtype == torch.bfloat16
        assert (run[5].logits - expected[5].logits).abs().mean() < 0.1 * scale
