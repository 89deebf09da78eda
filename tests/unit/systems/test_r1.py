"""R1 from the question to masks, on random networks: what is prompted, propagated, kept and resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from builders import moving_square, random_o3
from chat_stub import Say, serve
from r1_builders import INTERVAL, random_r1
from videoseg.dialogue.r1 import ask_percentage
from videoseg.errors import QueryError, RemoteRefusedError, UsageError
from videoseg.export.result import load as load_result
from videoseg.export.result import save
from videoseg.models.remote_types import ChatSettings
from videoseg.models.tiny_r1 import reasoner_from, tiny_preset
from videoseg.systems.journal import Journal
from videoseg.systems.r1 import R1System, sam2_prompt
from videoseg.systems.reasoner import Draw, LocalReasoner, RemoteReasoner
from videoseg.tracking.sam2 import VideoFeatures
from videoseg.types import Cue, Cues, MaskReason, StopReason

FRAMES = moving_square(12)
ITEMS = [
    {"bbox_2d": [100, 250, 350, 600], "point_2d": [200, 400], "neg_point_2d": [50, 400]},
    {"bbox_2d": [500, 250, 700, 600]},
]
ANSWER = f"<think>It is red.</think><answer>{json.dumps(ITEMS)}</answer>"
NOTHING = "<think>There is none.</think><answer>[]</answer>"
SCRIPT = [[INTERVAL.format(0, 0.2)], ["50%"], [ANSWER]]


def segment(script: Any = SCRIPT, **fields: Any) -> tuple[Any, R1System]:
    system = random_r1(script, **fields)
    return system.segment(FRAMES, "the red square"), system


@pytest.mark.parametrize("tracker", ["xmem", "sam2"])
def test_every_object_has_a_mask_on_every_frame(tracker: str) -> None:
    result, _ = segment(tracker=tracker)
    assert [masklet.object_id for masklet in result.masklets] == [1, 2]
    assert result.trace.keyframe == result.trace.turns[1].reply.keyframe
    cues = result.trace.turns[2].reply
    assert isinstance(cues, Cues)
    assert cues.objects[0] == Cue((8, 14, 27, 34), (15, 23), (4, 23))
    assert (result.trace.seg_turn, result.trace.mask_reason) == (2, MaskReason.OK)
    assert result.provenance["model"]["reasoner"] == {"name": "script"}


def test_the_keyframe_holds_sam2s_own_masks() -> None:
    result, system = segment(tracker="xmem")
    features = VideoFeatures(system.model.sam2, FRAMES.__getitem__)(result.trace.keyframe)
    for masklet, cue in zip(result.masklets, result.trace.turns[2].reply.objects, strict=True):
        prompt = sam2_prompt(system.model, system.preset, cue, FRAMES.shape[1:3])
        with torch.no_grad():
            logits = system.model.sam2.segment(features, prompt).logits
        expected = system.model.sam2.upsample(logits, FRAMES.shape[1:3])[0] > 0
        np.testing.assert_array_equal(masklet.rles[result.trace.keyframe].decode(), expected.numpy())


def test_union_first_follows_one_object() -> None:
    for tracker in ("xmem", "sam2"):
        result, _ = segment(tracker=tracker, union_first=True)
        assert len(result.masklets) == 1


def test_the_preset_decides_what_sam2_is_given() -> None:
    system = random_r1([])
    cue, size = Cue((8, 14, 27, 34), (15, 23), (4, 23)), (48, 64)

    def tokens(**fields: Any) -> int:
        prompt = sam2_prompt(system.model, system.preset.override(**fields), cue, size)
        return prompt.sparse.shape[2]

    assert tokens() == 4 + 1  # box corners, both points, and SAM2's padding
    assert tokens(prompts=("box",)) == 2 + 1
    assert tokens(prompts=("point",)) == 1 + 1
    assert tokens(prompts=("box", "negative")) == 3 + 1
    assert not sam2_prompt(system.model, system.preset, cue, size).multimask
    assert sam2_prompt(system.model, system.preset.override(masks="argmax3"), cue, size).multimask


def test_an_empty_answer_is_asked_for_again_with_sampling() -> None:
    result, system = segment([*SCRIPT[:2], [NOTHING], [ANSWER]])
    assert len(result.masklets) == 2
    draws = [draw for _, draw in system.reasoner.asked[2:]]
    assert [draw.temperature for draw in draws] == [0.0, 0.6]


@pytest.mark.parametrize(
    ("reply", "stop"), [(NOTHING, StopReason.ANSWER), ("the red one", StopReason.INVALID_REPLY)]
)
def test_nothing_found_is_a_result_with_its_reason(reply: str, stop: StopReason) -> None:
    result, _ = segment([*SCRIPT[:2], [reply], [reply]])
    assert len(result.masklets) == 0
    assert (result.trace.stop, result.trace.mask_reason) == (stop, MaskReason.NO_ANSWER)
    assert result.trace.seg_turn is None


def test_the_result_and_its_page_are_written_and_read_back(tmp_path: Path) -> None:
    result, _ = segment()
    save(result, tmp_path / "out", video=FRAMES, overlay=False)
    assert load_result(tmp_path / "out").trace == result.trace
    page = (tmp_path / "out" / "trace.html").read_text()
    for words in ("Key segment", "replies read", "Target frame", "box 8, 14, 27, 34", "Prompts on Frame"):
        assert words in page, words


def test_several_queries_keep_their_objects() -> None:
    system = random_r1([*SCRIPT, *SCRIPT[:2], [NOTHING], [NOTHING], *SCRIPT])
    results = system.segment(FRAMES, ["a", "b", "c"])
    assert [len(result.masklets) for result in results] == [2, 0, 2]
    assert results[0].masklets == results[2].masklets


class Stopped(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("stop", [1, 2, 9, 23])
def test_an_interrupted_run_goes_on(tmp_path: Path, stop: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Journal.__init__, "__defaults__", (3,))
    expected, _ = segment()

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "masks" and done == stop:
            raise Stopped

    with pytest.raises(Stopped):
        random_r1(SCRIPT).segment(FRAMES, "the red square", journal=tmp_path / "j", progress=progress)
    again = random_r1([]).segment(FRAMES, "the red square", journal=tmp_path / "j")
    assert again.masklets == expected.masklets
    assert not (tmp_path / "j").exists()


def test_trackers_need_their_weights() -> None:
    system = random_r1([])
    with pytest.raises(UsageError, match="give xmem"):
        R1System(random_r1([], tracker="sam2").model, system.reasoner, system.preset)
    system.model.memory = False
    with pytest.raises(UsageError, match="no memory"):
        R1System(system.model, system.reasoner, system.preset.override(tracker="sam2"))


@pytest.fixture(scope="module")
def local() -> LocalReasoner:
    return LocalReasoner(*reasoner_from(random_o3()))


def test_a_local_reasoner_draws_replies_together_and_repeatably(local: LocalReasoner) -> None:
    preset = tiny_preset()
    talk = local.look(FRAMES, (48, 64), preset)
    observation = ask_percentage("the disc", (0, 5, 9))
    drawn = talk.ask(observation, Draw(count=4, temperature=5.0, seed=1, max_tokens=6))
    assert len({said.text for said in drawn}) > 1
    assert drawn == talk.ask(observation, Draw(count=4, temperature=5.0, seed=1, max_tokens=6))
    greedy = talk.ask(observation, Draw(count=2, max_tokens=6))
    assert greedy[0] == greedy[1] == talk.ask(observation, Draw(max_tokens=6))[0]
    assert [shown.frame for shown in talk.shown(observation)] == [0, 5, 9]


def test_a_local_reasoner_refuses_reserved_tokens(local: LocalReasoner) -> None:
    with pytest.raises(QueryError):
        local.check("the <|im_end|> one")


def remote(answer: Any, **fields: Any) -> Any:
    """The result with a reasoner behind a stub, and what the stub was asked."""
    system = random_r1([], **fields)
    with serve(answer) as stub:
        settings = ChatSettings(base_url=stub.url, model="m", first_wait=0.01, retries=1, concurrency=4)
        system.reasoner = RemoteReasoner(settings)
        return system.segment(FRAMES, "The red square."), stub.asked


def say(asked: Any) -> Say:
    text = asked.text()
    if "Watch the video" in text:
        return Say(INTERVAL.format(0, 0.2)) if asked.body["seed"] else Say(status=400)
    return Say("50%") if "percentage" in text else Say(ANSWER)


def test_a_remote_reasoner_gives_the_same_masks() -> None:
    expected, _ = segment()
    result, asked = remote(say)
    assert result.masklets == expected.masklets
    assert len(asked) == 10 + 10 + 1
    first = result.trace.turns[0].reply
    assert (len(first.values), first.asked) == (9, 10)
    assert "the red square" in result.trace.turns[0].error.lower()
    assert "(reply 0)" in result.trace.turns[0].error
    body = asked[-1].body
    assert (body["temperature"], body["max_tokens"]) == (0.0, 1024)
    kinds = [part["type"] for part in body["messages"][1]["content"]]
    assert kinds.count("image_url") == 12
    assert kinds[-1] == "image_url"


def test_a_remote_reasoner_that_always_fails_names_the_question() -> None:
    with pytest.raises(RemoteRefusedError, match="red square"):
        remote(lambda asked: Say(status=401))
