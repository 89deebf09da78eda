"""The composed system on an untrained model with scripted replies: dialogue rules, sharing, memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from builders import Script, moving_square, random_o3, script
from videoseg import Query, Video
from videoseg.errors import QueryError, UsageError
from videoseg.models.o3 import O3Model
from videoseg.systems.o3 import O3System
from videoseg.types import MaskReason, Role, StopReason

STEP = '<VTG>{{"start": 2, "end": 8, "keyframe": {}}}</VTG><RefSeg>[SEG]</RefSeg>'
SELECT = f"<think>look</think><select>{STEP}</select>"
ANSWER = f"<think>sure</think><answer>{STEP}</answer>"
NOTHING = (
    '<think>none</think><answer><VTG>{"start": 0, "end": 9, "keyframe": 4}</VTG><RefSeg></RefSeg></answer>'
)


@pytest.fixture(scope="module")
def model() -> O3Model:
    return random_o3()


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return moving_square()


def run(model: O3Model, frames: np.ndarray, dialogues: list[list[str]], **overrides: Any) -> list[Any]:
    chosen = model.text.preset.override(**overrides)
    system = O3System(model, chosen, sampler=script(model, dialogues))
    return system.segment(frames, [f"object {i}" for i in range(len(dialogues))])


def test_a_select_shows_the_interval_and_the_keyframe(model: O3Model, frames: np.ndarray) -> None:
    (result,) = run(model, frames, [[SELECT.format(5), ANSWER.format(7)]])
    first, second = result.trace.turns
    assert {shown.role for shown in first.shown} == {Role.LOW, Role.HIGH}
    assert [shown.frame for shown in second.shown if shown.role is Role.KEYFRAME] == [5]
    assert all(2 <= shown.frame <= 8 for shown in second.shown)
    assert result.trace.stop is StopReason.ANSWER
    assert result.trace.keyframe == 5
    assert result.trace.seg_turn == 1
    assert len(result.masklets) == 1
    assert result.masklets.dense().shape == frames.shape[:3]


def test_no_seg_is_an_answer_without_objects(model: O3Model, frames: np.ndarray) -> None:
    (result,) = run(model, frames, [[NOTHING]])
    assert len(result.masklets) == 0
    assert result.trace.mask_reason is MaskReason.NO_SEG
    assert result.masklets.presence(3) == 0
    assert not result.masklets.dense().any()


def test_an_earlier_seg_is_used_with_a_warning(model: O3Model, frames: np.ndarray) -> None:
    (result,) = run(model, frames, [[SELECT.format(5), NOTHING]])
    assert result.trace.seg_turn == 0
    assert any("final turn has no [SEG]" in warning for warning in result.trace.warnings)


def test_a_seg_that_ends_a_cut_reply_has_a_state(model: O3Model, frames: np.ndarray) -> None:
    ids = [*model.text.tokenizer.encode("the red disc", add_special_tokens=False), model.seg_id]
    chosen = model.text.preset.override(max_new_tokens=len(ids))
    result = O3System(model, chosen, sampler=Script([[ids]])).segment(frames, "object 0")
    assert result.trace.stop is StopReason.LENGTH
    assert len(result.masklets) == 1
    released = chosen.override(seg_rule="anywhere")
    result = O3System(model, released, sampler=Script([[ids]])).segment(frames, "object 0")
    assert len(result.masklets) == 0


def test_several_queries_give_what_each_gives_alone(model: O3Model, frames: np.ndarray) -> None:
    dialogues = [
        [SELECT.format(5), ANSWER.format(5)],
        [ANSWER.format(0)],
        [SELECT.format(9), SELECT.format(3), ANSWER.format(3)],
        [NOTHING],
    ]
    together = run(model, frames, dialogues, propagation="inject_every_frame")
    for index, dialogue in enumerate(dialogues):
        system = O3System(
            model,
            model.text.preset.override(propagation="inject_every_frame"),
            sampler=script(model, [dialogue]),
        )
        alone = system.segment(frames, f"object {index}")
        both = together[index]
        assert both.trace.keyframe == alone.trace.keyframe
        assert [turn.text for turn in both.trace.turns] == dialogue
        assert len(both.masklets) == len(alone.masklets)
        for ours, theirs in zip(both.masklets, alone.masklets, strict=True):
            different = np.count_nonzero(ours.dense() != theirs.dense())
            assert different <= 1e-3 * ours.dense().size
            assert np.allclose(ours.presence, theirs.presence, atol=1e-3)


def test_frames_are_encoded_once_for_all_queries(
    model: O3Model, frames: np.ndarray, monkeypatch: Any
) -> None:
    images, masks = [], []
    encode_images, encode = model.vlm.encode_images, model.sam2.encode

    def count_images(patches: Any, grids: Any) -> Any:
        images.append(len(grids))
        return encode_images(patches, grids)

    def count_frames(pixels: Any, **options: Any) -> Any:
        masks.append(len(pixels))
        return encode(pixels, **options)

    monkeypatch.setattr(model.vlm, "encode_images", count_images)
    monkeypatch.setattr(model.sam2, "encode", count_frames)
    run(model, frames, [[ANSWER.format(4)]])
    alone = sum(images)
    images.clear()
    masks.clear()
    run(model, frames, [[ANSWER.format(4)]] * 3)
    assert sum(images) == alone
    assert sum(masks) == len(frames)
    masks.clear()
    run(model, frames, [[ANSWER.format(0)], [ANSWER.format(9)]])
    assert sum(masks) == 2 * len(frames) - 1


def test_a_reply_that_does_not_retokenise_is_encoded_again(model: O3Model, frames: np.ndarray) -> None:
    tokenizer = model.text.tokenizer
    normal = model.text.renderer((48, 64)).encode_reply(SELECT.format(5))
    # The same text spelled letter by letter where the tokenizer would merge.
    spelled = [i for token in normal[:-1] for i in _letters(tokenizer, token)] + normal[-1:]
    assert spelled != normal
    answer = model.text.renderer((48, 64)).encode_reply(ANSWER.format(5))
    states = []
    for first in (normal, spelled):
        system = O3System(model, model.text.preset, sampler=Script([[first, answer]]))
        with Video(frames) as video:
            (dialogue,) = system.talk(video, [Query("object 0")])
        assert dialogue.turns[0].text == SELECT.format(5)
        states.append(dialogue.seg_state(model.seg_id, "assistant"))
    torch.testing.assert_close(states[0][1], states[1][1], atol=1e-4, rtol=1e-4)


def test_an_earlier_seg_is_that_of_the_prompt_as_last_encoded(model: O3Model, frames: np.ndarray) -> None:
    """`released` strips a reply's leading newline, so the [SEG] behind it is read at another position."""
    chosen = model.text.preset.override(strip_history=True, seg_rule="anywhere")
    none = SELECT.format(3).replace("[SEG]", "")
    right, _ = _seg_states(model, chosen, frames, [SELECT.format(5), none, NOTHING])
    early, sampled = _seg_states(model, chosen, frames, ["\n" + SELECT.format(5), none, NOTHING])
    torch.testing.assert_close(early, right, atol=1e-4, rtol=1e-4)
    assert (sampled - right).abs().max() > 1e-3
    late, sampled = _seg_states(model, chosen, frames, [SELECT.format(5), "\n" + none, NOTHING])
    torch.testing.assert_close(late, right, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(sampled, right, atol=1e-4, rtol=1e-4)
    last, sampled = _seg_states(model, chosen, frames, ["\n" + none, SELECT.format(5), NOTHING])
    assert torch.equal(last, sampled)
    last, sampled = _seg_states(model, chosen, frames, ["\n" + SELECT.format(5), ANSWER.format(5)])
    assert torch.equal(last, sampled)


def _seg_states(model: O3Model, chosen: Any, frames: np.ndarray, replies: list[str]) -> list[Any]:
    """The [SEG] state by the rules `anywhere` and `assistant`, equal for two queries played together."""
    system = O3System(model, chosen, sampler=script(model, [replies, replies]))
    with Video(frames) as video:
        first, second = system.talk(video, [Query("object 0"), Query("object 0")])
    for rule in ("anywhere", "assistant"):
        ours, theirs = (dialogue.seg_state(model.seg_id, rule) for dialogue in (first, second))
        assert ours[0] == theirs[0] == max(i for i, reply in enumerate(replies) if "[SEG]" in reply)
        torch.testing.assert_close(ours[1], theirs[1], atol=1e-4, rtol=1e-4)
    return [first.seg_state(model.seg_id, rule)[1] for rule in ("anywhere", "assistant")]


def _letters(tokenizer: Any, token: int) -> list[int]:
    if token in tokenizer.all_special_ids:
        return [token]
    pieces = tokenizer.convert_ids_to_tokens(token)
    single = [tokenizer.convert_tokens_to_ids(letter) for letter in pieces]
    return single if all(isinstance(i, int) for i in single) else [token]


def test_memory_does_not_grow_with_the_video(model: O3Model) -> None:
    peaks = [_live_peak(model, moving_square(count)) for count in (20, 200)]
    assert 1 <= peaks[1] <= peaks[0] <= 3


def _live_peak(model: O3Model, frames: np.ndarray) -> int:
    """Most frame features alive at any time of a run."""
    import gc
    import weakref

    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    most = [0]
    encode = model.sam2.encode

    def watched(pixels: Any, **options: Any) -> Any:
        gc.collect(0)
        features = encode(pixels, **options)
        alive.add(features.top)
        most[0] = max(most[0], len(alive))
        return features

    model.sam2.encode = watched  # type: ignore[method-assign]
    try:
        system = O3System(
            model,
            model.text.preset.override(propagation="inject_every_frame"),
            sampler=script(model, [[ANSWER.format(4)]]),
        )
        system.segment(frames, "object 0")
    finally:
        del model.sam2.encode  # type: ignore[method-assign]
    return most[0]


def test_queries_are_checked_before_any_work(model: O3Model, frames: np.ndarray) -> None:
    system = O3System(model)
    with pytest.raises(QueryError, match="reserved"):
        system.segment(frames, ["a disc", "the [SEG] disc"])
    with pytest.raises(QueryError, match="empty"):
        system.segment(frames, "  ")
    with pytest.raises(UsageError, match="no query"):
        system.segment(frames, [])


def test_progress_counts_every_mask(model: O3Model, frames: np.ndarray) -> None:
    seen = []
    system = O3System(model, sampler=script(model, [[ANSWER.format(4)]] * 2))
    system.segment(frames, ["a", "b"], progress=lambda stage, done, total: seen.append((stage, done, total)))
    assert seen[0] == ("dialogue", 2, 2)
    assert seen[-1] == ("masks", 2 * len(frames), 2 * len(frames))
