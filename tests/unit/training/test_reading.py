"""Groups read with a shared stem: the same states, masks and gradients as row by row."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from grpo_builders import SMALL_BUDGET, Scripted
from videoseg.data.world.sampler import WorldSpec
from videoseg.errors import AlignmentError
from videoseg.models.causal_blocks import use_causal_blocks, use_stems
from videoseg.models.o3 import O3Model
from videoseg.models.sam2 import AllMasks, FrameFeatures, PromptTokens
from videoseg.training.dialogue_batch import DialogueBatch
from videoseg.training.grpo_update import make_part
from videoseg.training.policy import Policy, Reference
from videoseg.training.prompts import WorldPrompts
from videoseg.training.reading import pack
from videoseg.training.task import O3Task

GROUP = 3


@pytest.fixture
def batch(small_model: O3Model) -> DialogueBatch:
    """Two prompts with questions of different length, three ragged dialogues each; two are equal."""
    source = WorldPrompts(20, WorldSpec(families={"appearance": 0.5, "motion": 0.5}))
    prompts = [source[number] for number in (0, 3)]
    task = O3Task(small_model, small_model.text.preset.override(**SMALL_BUDGET), Scripted())
    rollouts = task.rollouts(prompts, GROUP, 0)
    rollouts[4] = rollouts[3]
    asked = [prompt for prompt in prompts for _ in range(GROUP)]
    return make_part(task, rollouts, asked, small_model.seg_id, small_model.end_id, GROUP).batch


def gradients(model: O3Model, batch: DialogueBatch) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Outputs of the policy, and what a loss on all of them gives every parameter."""
    model.zero_grad()
    output = Policy(model)(batch)
    weights = torch.linspace(0.5, 1.5, len(output.log_probs))
    (output.log_probs @ weights + output.mask_logits.square().mean() + output.anchor).backward()
    found = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    return [output.log_probs.detach(), output.entropy.detach(), output.mask_logits.detach()], found


@pytest.mark.parametrize("own_attention", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_shared_stem_changes_no_number(
    small_model: O3Model, batch: DialogueBatch, own_attention: bool, checkpointing: bool
) -> None:
    assert batch.twin == (0, 1, 2, 3, 3, 5)
    stems = pack(batch).stem.lengths
    assert stems[0] != stems[1]
    assert stems.min() > 40
    small_model.requires_grad_(True)
    alone, gradient = gradients(small_model, replace(batch, group=1, twin=()))
    (use_causal_blocks if own_attention else use_stems)(small_model.vlm.model.model.language_model)
    if checkpointing:
        small_model.train()
        small_model.vlm.model.gradient_checkpointing_enable({"use_reentrant": False})
    shared, shared_gradient = gradients(small_model, batch)
    for one, other in zip(alone, shared, strict=True):
        torch.testing.assert_close(other, one, atol=2e-5, rtol=1e-4)
    assert gradient.keys() == shared_gradient.keys()
    for name, value in gradient.items():
        torch.testing.assert_close(shared_gradient[name], value, atol=2e-4, rtol=2e-3, msg=name)


def test_the_reference_shares_too(small_model: O3Model, batch: DialogueBatch) -> None:
    with pytest.raises(RuntimeError, match="knows no stems"):
        Reference(small_model.vlm)(batch)
    use_stems(small_model.vlm.model.model.language_model)
    reference = Reference(small_model.vlm)
    torch.testing.assert_close(
        reference(batch), reference(replace(batch, group=1, twin=())), atol=2e-5, rtol=1e-4
    )


def test_masks_of_equal_rows_are_decoded_once(
    small_model: O3Model, batch: DialogueBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_stems(small_model.vlm.model.model.language_model)
    decode, counts = small_model.sam2.decode_all, []

    def counted(features: FrameFeatures, top: Tensor, prompts: PromptTokens) -> AllMasks:
        counts.append(len(features))
        return decode(features, top, prompts)

    monkeypatch.setattr(small_model.sam2, "decode_all", counted)
    Policy(small_model)(batch)
    again = sum(query.row == 4 for query in batch.masks)
    assert again > 0
    assert counts == [len({(q.row, q.seg, q.frame) for q in batch.masks}) - again]


def test_every_token_of_a_stem_is_packed_once(batch: DialogueBatch) -> None:
    packing = pack(batch)
    kept = packing.source[packing.real]
    assert len(kept.unique()) == len(kept)
    last = (batch.loss_mask * torch.arange(batch.ids.shape[1])).argmax(1)
    stems = packing.stem.lengths.repeat_interleave(GROUP)
    behind = last + 1 - stems
    assert len(kept) == int(behind.sum() - behind[4] + packing.stem.lengths.sum())
    unpacked = packing.gather(batch.ids).flatten()[packing.target]
    wanted = torch.arange(batch.ids.shape[1]) <= last[:, None]
    assert torch.equal(unpacked[wanted], batch.ids[wanted])


def test_rows_that_begin_otherwise_are_refused(batch: DialogueBatch) -> None:
    ids = batch.ids.clone()
    ids[5, 2] += 1
    with pytest.raises(AlignmentError, match="group 1: row 2 begins otherwise"):
        pack(replace(batch, ids=ids))
    with pytest.raises(AlignmentError, match="6 rows are not groups of 4"):
        pack(replace(batch, group=4))
