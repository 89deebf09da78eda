"""SAM2 with prompts of all kinds: shapes, choices, gradients, and transformers' own session as oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from sam2_builders import random_features, random_frames, random_sam2
from videoseg.errors import CheckpointKeysError, UsageError
from videoseg.models.sam2 import ABSENT_LOGIT, MaskPrediction, Sam2
from videoseg.tracking.sam2 import Sam2Tracker, TrackingOptions


@pytest.fixture(scope="module")
def sam2() -> Sam2:
    return random_sam2()


def test_stays_in_eval_mode(sam2: Sam2) -> None:
    torch.nn.Sequential(sam2).train()
    assert not any(module.training for module in sam2.modules())


def test_both_position_tables_are_equal(sam2: Sam2) -> None:
    model = sam2.model
    assert torch.equal(
        model.shared_image_embedding.positional_embedding,
        model.prompt_encoder.shared_embedding.positional_embedding,
    )


@torch.no_grad()
def test_encode_equals_transformers(sam2: Sam2) -> None:
    images = torch.stack([sam2.preprocess(frame) for frame in random_frames(2)])
    features = sam2.encode(images)
    reference = sam2.model.get_image_features(images, return_dict=True).fpn_hidden_states
    for ours, theirs in zip((features.fine, features.middle, features.top), reference, strict=True):
        torch.testing.assert_close(ours.flatten(2).permute(2, 0, 1), theirs, atol=0, rtol=0)


def session_logits(
    sam2: Sam2, images: torch.Tensor, keyframe: int, points: torch.Tensor, labels: torch.Tensor
) -> dict[int, torch.Tensor]:
    """Logits of transformers' own inference session: clicks on the keyframe, both directions."""
    size = sam2.image_size
    session = Sam2VideoInferenceSession(images, size, size, dtype=torch.float32)
    index = session.obj_id_to_idx(1)
    session.add_point_inputs(
        index, keyframe, {"point_coords": points[:, None], "point_labels": labels[:, None]}
    )
    session.obj_with_new_inputs = [1]
    sam2.model(session, frame_idx=keyframe)
    for reverse in (False, True):
        for _ in sam2.model.propagate_in_video_iterator(session, start_frame_idx=keyframe, reverse=reverse):
            pass
    stored = session.output_dict_per_obj[index]
    outputs = {**stored["cond_frame_outputs"], **stored["non_cond_frame_outputs"]}
    return {frame: output["pred_masks"] for frame, output in outputs.items()}


def tracked(
    sam2: Sam2, images: torch.Tensor, keyframe: int, points: torch.Tensor, labels: torch.Tensor
) -> dict[int, MaskPrediction]:
    """The same by our tracker."""
    features, count = sam2.encode(images), len(images)
    options = TrackingOptions(gate=True)
    tracker = Sam2Tracker(sam2, "inject_once", num_frames=count, options=options)
    prompt = sam2.prompt_points(points, labels)
    found = {keyframe: tracker.start(features.select([keyframe]), prompt, keyframe)}
    for frame in [*range(keyframe + 1, count), *range(keyframe - 1, -1, -1)]:
        found[frame] = tracker.step(features.select([frame]), frame)
    return found


@pytest.mark.parametrize("version", ["2.0", "2.1"])
@pytest.mark.parametrize("clicks", [1, 3])
@torch.no_grad()
def test_stock_tracking_equals_transformers(version: str, clicks: int) -> None:
    sam2 = random_sam2(seed=3, version=version, width=128)  # transformers' session fails at 64
    images = torch.stack([sam2.preprocess(frame) for frame in random_frames(20)])
    points = torch.rand(1, clicks, 2) * sam2.image_size
    labels = torch.tensor([[1, 0, 1]])[:, :clicks]
    scores = [float(answer.score) for answer in tracked(sam2, images, 8, points, labels).values()]
    sam2.model.mask_decoder.pred_obj_score_head.proj_out.bias -= sum(scores) / len(scores)
    found = tracked(sam2, images, 8, points, labels)
    expected = session_logits(sam2, images, 8, points, labels)
    assert {bool(answer.score > 0) for answer in found.values()} == {True, False}
    assert found.keys() == expected.keys()
    for frame, answer in found.items():
        torch.testing.assert_close(answer.logits, expected[frame], atol=2e-3, rtol=1e-3)


@torch.no_grad()
def test_decode_keeps_the_mask_of_highest_iou(sam2: Sam2) -> None:
    features = random_features(sam2, 6)
    prompt = sam2.prompt_language(4 * torch.randn(6, sam2.width))
    answer = sam2.segment(features, prompt)
    masks = sam2.decode_all(features, sam2.unconditioned(features), prompt)
    assert answer.logits.shape == (6, 1, 8, 8)
    assert masks.logits.shape == (6, 3, 8, 8)
    assert answer.all_iou.shape == (6, 3)
    assert len(set(masks.iou.argmax(1).tolist())) > 1
    for row, best in enumerate(masks.iou.argmax(1)):
        assert torch.equal(answer.logits[row, 0], masks.logits[row, best])
        assert answer.iou[row] == masks.iou[row].max()


@torch.no_grad()
def test_the_gate_touches_absent_objects_only(sam2: Sam2) -> None:
    features = random_features(sam2, 12)
    prompt = sam2.prompt_language(4 * torch.randn(12, sam2.width))
    free, gated = sam2.segment(features, prompt), sam2.segment(features, prompt, gate=True)
    present = free.score > 0
    assert 0 < present.sum() < 12
    assert torch.equal(gated.logits[present], free.logits[present])
    assert (gated.logits[~present] == ABSENT_LOGIT).all()
    assert free.logits.min() > ABSENT_LOGIT
    assert torch.equal(free.pointer[~present], sam2.model.no_object_pointer.expand((~present).sum(), -1))


@torch.no_grad()
def test_one_frame_serves_several_prompts(sam2: Sam2) -> None:
    features = random_features(sam2, 3)
    embedding = torch.randn(4, sam2.width)
    frames = [2, 0, 0, 1]
    together = sam2.segment(features.select(frames), sam2.prompt_language(embedding))
    for row, frame in enumerate(frames):
        alone = sam2.segment(features.select([frame]), sam2.prompt_language(embedding[row][None]))
        torch.testing.assert_close(alone.logits, together.row(row).logits, atol=1e-5, rtol=1e-5)
    shared = sam2.segment(features.select([0]), sam2.prompt_language(embedding))
    torch.testing.assert_close(shared.logits[1:3], together.logits[1:3], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_language_tokens_follow_the_empty_ones(sam2: Sam2) -> None:
    embedding = torch.randn(2, 3, sam2.width)
    prompt = sam2.prompt_language(embedding)
    points, labels = torch.zeros(2, 1, 1, 2), -torch.ones(2, 1, 1, dtype=torch.int32)
    empty, dense = sam2.model.prompt_encoder(points, labels, None, None)
    assert prompt.multimask
    assert torch.equal(prompt.sparse[:, :, :2], empty)
    assert torch.equal(prompt.sparse[:, 0, 2:], embedding)
    assert torch.equal(prompt.dense, dense)


@torch.no_grad()
def test_boxes_are_two_corner_points(sam2: Sam2) -> None:
    box = torch.tensor([[3.0, 4.0, 20.0, 25.0]])
    corners = sam2.prompt_points(box.reshape(1, 2, 2), torch.tensor([[2, 3]]))
    assert torch.equal(sam2.prompt_box(box).sparse, corners.sparse)
    assert not sam2.prompt_box(box).multimask
    click = (torch.tensor([[[9.0, 9.0]]]), torch.tensor([[1]]))
    assert sam2.prompt_points(*click).multimask
    assert sam2.prompt_box(box, *click).sparse.shape[2] == 4
    with pytest.raises(UsageError, match="do not fit"):
        sam2.prompt_points(torch.zeros(1, 2, 2), torch.ones(1, 3))


@torch.no_grad()
def test_a_mask_prompt_is_its_own_answer(sam2: Sam2) -> None:
    mask = torch.zeros(2, 64, 48, dtype=torch.bool)
    mask[0, 16:48, 12:36] = True
    answer = sam2.segment(random_features(sam2, 1), sam2.prompt_mask(mask))
    assert answer.logits[0].max() == pytest.approx(10)
    assert answer.logits[0].min() == pytest.approx(-10)
    assert answer.logits[1].max() == pytest.approx(-10)
    assert answer.score.tolist() == [10, -10]
    assert torch.equal(answer.pointer[1], sam2.model.no_object_pointer[0])
    found = sam2.upsample(answer.logits, (64, 48))[0] > 0
    assert (found & mask[0]).sum() / (found | mask[0]).sum() > 0.9


def test_gradients_reach_embedding_decoder_and_trunk(sam2: Sam2) -> None:
    images = torch.stack([sam2.preprocess(frame) for frame in random_frames(1)])
    embedding = torch.randn(1, sam2.width, requires_grad=True)
    sam2.segment(sam2.encode(images), sam2.prompt_language(embedding)).logits.mean().backward()
    model = sam2.model
    trained = [embedding, model.mask_decoder.conv_s0.weight, model.vision_encoder.backbone.pos_embed]
    assert all(tensor.grad is not None and tensor.grad.abs().max() > 0 for tensor in trained)
    sam2.zero_grad()


def test_positions_cached_in_inference_still_serve_training() -> None:
    sam2 = random_sam2()
    with torch.inference_mode():
        sam2.memory_position()
    assert not sam2.memory_position().is_inference()


@torch.no_grad()
def test_memories_are_rounded_unless_exact(sam2: Sam2) -> None:
    features = random_features(sam2, 1)
    answer = sam2.segment(features, sam2.prompt_language(torch.randn(2, sam2.width)))
    rounded, exact = sam2.remember(features, answer), sam2.remember(features, answer, exact=True)
    assert rounded.shape == (4, 2, 64)
    assert rounded.dtype == torch.bfloat16
    assert torch.equal(exact.bfloat16(), rounded)
    hard = sam2.remember(features, answer, is_mask_from_points=True, exact=True)
    assert not torch.allclose(hard, exact, atol=1e-3)


def test_preprocess(sam2: Sam2) -> None:
    frame = np.full((7, 9, 3), 255, dtype=np.uint8)
    exact, rounded = sam2.preprocess(frame), sam2.preprocess(frame, exact_normalization=False)
    assert exact.shape == (3, 32, 32)
    assert exact.dtype == torch.float32
    torch.testing.assert_close(exact[0], torch.full((32, 32), (1 - 0.485) / 0.229))
    assert 1e-4 < (exact - rounded).abs().max() < 0.02


def test_upsample_goes_through_the_input_size(sam2: Sam2) -> None:
    logits = torch.randn(2, 1, 8, 8)
    resize = torch.nn.functional.interpolate
    expected = resize(resize(logits, (32, 32), mode="bilinear"), (20, 50), mode="bilinear")[:, 0]
    assert torch.equal(sam2.upsample(logits, (20, 50)), expected)


def test_the_original_shares_all_but_the_decoder(sam2: Sam2) -> None:
    state = random_sam2(seed=5).model.state_dict()
    original = sam2.with_decoder(state)
    decoder = ("prompt_encoder.", "mask_decoder.")
    for name, parameter in original.model.named_parameters():
        own = sam2.model.get_parameter(name)
        if name.startswith(decoder):
            assert parameter is not own
            assert torch.equal(parameter, state[name])
        else:
            assert parameter is own
    with pytest.raises(CheckpointKeysError, match=r"original SAM2's prompt_encoder.*missing"):
        sam2.with_decoder({})


@torch.no_grad()
def test_features_for_the_original_use_its_projections(sam2: Sam2) -> None:
    original = sam2.with_decoder(random_sam2(seed=5).model.state_dict())
    both, alone = random_features(sam2, 2, original=original), random_features(original, 2)
    other = both.select([1, 1]).as_original()
    assert torch.equal(other.fine, alone.fine[[1, 1]])
    assert torch.equal(other.middle, alone.middle[[1, 1]])
    assert not torch.equal(both.fine, alone.fine)
    with pytest.raises(UsageError, match="original="):
        alone.as_original()
