"""The teacher-forced pass: what inference sees and draws, in one forward."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from builders import moving_square, random_o3, script
from videoseg.dialogue.episode import Episode
from videoseg.errors import AlignmentError, RenderError
from videoseg.models.o3 import O3Model
from videoseg.systems import load
from videoseg.systems.o3 import O3System
from videoseg.training.collate import DialogueRow, join_rows
from videoseg.training.dialogue_batch import MaskQuery
from videoseg.training.forward import TeacherForced
from videoseg.types import Query
from videoseg.video.reader import Video

SELECT = (
    '<think>Step 1: it moves.</think><select><VTG>{"start": 2, "end": 5, "keyframe": 3}</VTG>'
    "<RefSeg>[SEG]</RefSeg></select>"
)
ANSWER = SELECT.replace("select", "answer")


def row_of(
    model: O3Model,
    replies: Sequence[str],
    queries: Sequence[MaskQuery],
    frames: Sequence[int],
    query: str = "it",
) -> DialogueRow:
    """A dialogue on the moving square with mask queries on frames of that video."""
    video = moving_square()
    renderer = model.text.renderer(video.shape[1:3])
    episode = Episode(len(video), query, model.text.preset)
    turns = []
    for reply in replies:
        observation = episode.observation
        assert observation is not None
        turns.append((observation, renderer.encode_reply(reply)))
        episode.step(reply)
    chunk = renderer.dialogue(turns)
    patches = [torch.from_numpy(renderer.patches(image, video[image.frame])) for image in chunk.images]
    return DialogueRow(chunk, patches, [model.sam2.preprocess(video[frame]) for frame in frames], queries)


@pytest.fixture(scope="module")
def model() -> O3Model:
    return random_o3()


@torch.no_grad()
@pytest.mark.parametrize("name", ["random", "tiny"])
def test_equals_inference(model: O3Model, name: str) -> None:
    chosen = model if name == "random" else load("tiny").model
    system = O3System(chosen, sampler=script(chosen, [[SELECT, ANSWER]]))
    with Video(moving_square()) as video:
        dialogue = system.talk(video, [Query("it")])[0]
        played = dialogue.seg_state(chosen.seg_id, "assistant")
        assert played is not None
        features = chosen.sam2.encode(chosen.sam2.preprocess(video[3])[None])
        prompt = chosen.sam2.prompt_language(chosen.embed(played[1])[None])
        drawn = chosen.sam2.segment(features, prompt)
    batch = join_rows([row_of(chosen, [SELECT, ANSWER], [MaskQuery(0, 1, 0)], [3])], 0)
    output = TeacherForced(chosen)(batch)
    torch.testing.assert_close(output.seg_states[1], played[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(output.mask_logits, drawn.logits[:, 0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(output.iou, drawn.iou, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_every_seg_on_every_frame_in_order(model: O3Model) -> None:
    queries = [MaskQuery(0, seg, frame) for seg in (1, 0) for frame in (0, 1, 2)]
    rows = [
        row_of(model, [ANSWER], [MaskQuery(0, 0, 0)], [7], "another one that is longer"),
        row_of(model, [SELECT, ANSWER], queries, [0, 4, 9]),
    ]
    output = TeacherForced(model)(join_rows(rows, 0))
    assert output.mask_logits.shape == (7, 16, 16)
    assert output.seg_rows.tolist() == [0, 1, 1]
    for number, query in enumerate(queries, start=1):
        frame = rows[1].frames[query.frame]
        features = model.sam2.encode(frame[None])
        prompt = model.sam2.prompt_language(output.seg_embeddings[1 + query.seg][None])
        alone = model.sam2.segment(features, prompt)
        torch.testing.assert_close(output.mask_logits[number], alone.logits[0, 0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(output.iou[number], alone.iou[0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_frames_may_come_as_features_of_the_encoder(model: O3Model) -> None:
    row = row_of(model, [SELECT, ANSWER], [MaskQuery(0, 0, 0), MaskQuery(0, 1, 1)], [2, 5])
    cached = [row.frames[0], model.sam2.pyramid(row.frames[1][None])]
    plain, mixed = (
        TeacherForced(model)(join_rows([DialogueRow(row.chunk, row.patches, frames, row.masks)], 0))
        for frames in (row.frames, cached)
    )
    torch.testing.assert_close(plain.mask_logits, mixed.mask_logits)


def test_shared_images_and_frames_are_in_a_batch_once(model: O3Model) -> None:
    row = row_of(model, [ANSWER], [MaskQuery(0, 0, 0)], [3])
    batch = join_rows([row, row], 0)
    assert len(batch.patches) == len(row.patches)
    assert batch.images[0] == batch.images[1]
    assert len(batch.frames) == 1
    assert [query.row for query in batch.masks] == [0, 1]
    with torch.no_grad():
        output = TeacherForced(model)(batch)
    torch.testing.assert_close(output.mask_logits[0], output.mask_logits[1])


def test_a_batch_without_seg_touches_every_part() -> None:
    model = random_o3(1)
    with_seg, without = [SELECT, ANSWER], [ANSWER.replace("[SEG]", "")]
    touched = []
    for replies, queries in ((with_seg, [MaskQuery(0, 0, 0)]), (without, [])):
        model.zero_grad()
        output = TeacherForced(model)(join_rows([row_of(model, replies, queries, [3] if queries else [])], 0))
        loss = output.hidden.sum() + output.mask_logits.sum() + output.anchor
        loss.backward()
        touched.append({name for name, p in model.named_parameters() if p.grad is not None})
    assert float(output.anchor.detach()) == 0
    assert touched[0] == touched[1]
    assert any(name.startswith("sam2.model.mask_decoder.transformer") for name in touched[1])
    assert any(name.startswith("projector") for name in touched[1])
    assert len(output.mask_logits) == len(output.seg_embeddings) == 0


def test_frozen_encoders_leave_no_graph(model: O3Model) -> None:
    frozen = random_o3(2)
    frozen.vlm.model.model.visual.requires_grad_(False)
    frozen.sam2.model.vision_encoder.requires_grad_(False)
    output = TeacherForced(frozen)(join_rows([row_of(frozen, [ANSWER], [MaskQuery(0, 0, 0)], [3])], 0))
    assert not output.images[0].tokens.requires_grad
    output.mask_logits.sum().backward()
    assert frozen.sam2.model.mask_decoder.conv_s0.weight.grad is not None


def test_mistakes_are_named(model: O3Model) -> None:
    row = row_of(model, [ANSWER], [MaskQuery(0, 1, 0, turn=2)], [3])
    with pytest.raises(AlignmentError, match=r"row 0, turn 2: a mask of .* number 1"):
        TeacherForced(model)(join_rows([row], 0))
    short = DialogueRow(row.chunk, row.patches[:-1], name="clip 7")
    with pytest.raises(RenderError, match="clip 7: patches of"):
        join_rows([short], 0)
    turned = [np.zeros((1, 1)) for _ in row.patches]
    with pytest.raises(RenderError, match="clip 7, turn 0, frame 0: 1 patches"):
        join_rows([DialogueRow(row.chunk, turned, name="clip 7")], 0)
