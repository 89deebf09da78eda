"""The supervised loop: right targets, gradients where they belong, resumable, and it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from videoseg.data.world.sampler import WorldSpec, draw_sample
from videoseg.data.world.trace import name_of
from videoseg.errors import CheckpointError, UsageError
from videoseg.models.checkpoints.folder import load_folder, save_folder
from videoseg.models.o3 import O3Model
from videoseg.training.aids import Aids, distil_loss, gaze_loss
from videoseg.training.collate import collate, image_starts
from videoseg.training.config import LossWeights, SupervisedConfig, build_config, read_config
from videoseg.training.curves import read_records
from videoseg.training.examples import LOOKING, draw_example
from videoseg.training.supervised import Trainee, run
from videoseg.training.words import ANY, WordTable, draw_batch

SPEC = WorldSpec(lengths=(8,))


def image_id(model: O3Model) -> int:
    return model.vlm.config.image_token_id


def test_loss_is_on_replies_only(small_model: O3Model) -> None:
    example = draw_example(3, SPEC, small_model, masks=False)
    chunk = example.chunk
    text = small_model.text.tokenizer.decode(chunk.ids[chunk.loss_mask])
    assert text.startswith("<think>Step 1:")
    assert text.endswith("<|im_end|>")
    assert "Here are" not in text
    assert "<|image_pad|>" not in text
    assert len(example.patches) == len(chunk.images)
    assert len(example.looks) == chunk.num_image_tokens


def test_every_turn_has_its_seg_target(small_model: O3Model) -> None:
    for seed in range(12):
        example = draw_example(seed, SPEC, small_model)
        sample = draw_sample(seed, SPEC)
        for seg in example.segs:
            assert example.chunk.ids[seg.position] == small_model.seg_id
            assert seg.mask.shape == (64, 64)
            assert seg.cells.shape == (example.chunk.images[seg.shown].num_tokens,)
        expected = {"none": 0, "detail": 1}.get(sample.question.family, 2)
        assert len(example.segs) == expected


def test_padding_does_not_change_a_row(small_model: O3Model) -> None:
    examples = [draw_example(seed, SPEC, small_model, masks=False) for seed in range(4)]
    trainee = Trainee(small_model.eval(), LossWeights(distil=0), None, masks=False)
    with torch.no_grad():
        alone = [
            trainee(collate([example], 0, image_id(small_model)))["text"] * example.chunk.loss_mask.sum()
            for example in examples
        ]
        together = trainee(collate(examples, 0, image_id(small_model)))["text"]
    tokens = sum(int(example.chunk.loss_mask.sum()) for example in examples)
    torch.testing.assert_close(torch.stack(alone).sum() / tokens, together, rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_part(small_model: O3Model) -> None:
    table = WordTable(256)
    trainee = Trainee(small_model, LossWeights(dense=1, pointer=1, vec=1), table, masks=True)
    batch = collate([draw_example(seed, SPEC, small_model) for seed in range(3)], 0, image_id(small_model))
    trainee.total(trainee(batch)).backward()
    for name in (
        "vlm.model.model.visual",
        "vlm.model.model.language_model",
        "projector",
        "sam2.model.mask_decoder",
    ):
        grads = [p.grad for key, p in small_model.named_parameters() if key.startswith(name)]
        assert any(grad is not None and bool((grad != 0).any()) for grad in grads), name
    assert all(parameter.grad is None for parameter in table.parameters())


def test_mentions_point_at_what_they_speak_of(small_model: O3Model) -> None:
    tokenizer = small_model.text.tokenizer
    for seed in range(8):
        example = draw_example(seed, SPEC, small_model, masks=False)
        starts = image_starts(example, image_id(small_model))
        assert (example.chunk.ids[starts] == image_id(small_model)).all()
        assert len(example.mentions) >= len(draw_sample(seed, SPEC).scene.things)
        for mention in example.mentions:
            word = tokenizer.decode([int(example.chunk.ids[mention.position])]).strip()
            assert word in LOOKING
            looks = example.looks.split([image.num_tokens for image in example.chunk.images])[mention.shown]
            assert looks[mention.cells > 0.05].nansum() > 0


def test_recalls_lead_from_a_conclusion_to_its_ground(small_model: O3Model) -> None:
    decode = small_model.text.tokenizer.decode
    seen = 0
    for seed in range(20):
        example, sample = draw_example(seed, SPEC, small_model, masks=False), draw_sample(seed, SPEC)
        for number, (position, goal) in enumerate(example.recalls):
            seen += 1
            target = sample.scene.things[sample.question.targets[0]]
            ids = example.chunk.ids
            assert decode([ids[position]]).strip() == ("is" if number == 0 else target.colour)
            assert decode([ids[position + 1]]).strip() == (target.colour if number == 0 else target.size)
            assert name_of(target) in decode(ids[goal - 9 : goal + 1])
            assert goal < position
    assert seen > 10


def test_gaze_prefers_what_is_covered(small_model: O3Model) -> None:
    batch = collate([draw_example(1, SPEC, small_model, masks=False)], 0, image_id(small_model))
    mention = batch.mentions[0]
    start, best = batch.first_token[mention.shown], int(mention.cells.argmax())
    query, key = torch.zeros(1, batch.ids.shape[1], 4), torch.zeros(1, batch.ids.shape[1], 4)
    blind = gaze_loss(query, key, batch, 1.0)
    query[:, :, 0], key[:, start + best, 0] = 1, 3
    batch = replace(batch, mentions=[mention], mention_rows=torch.tensor([0]))
    assert gaze_loss(query, key, batch, 1.0) < blind


def test_a_batch_without_seg_trains_too(small_model: O3Model) -> None:
    seeds = [seed for seed in range(60) if draw_sample(seed, SPEC).question.family == "none"][:2]
    batch = collate([draw_example(seed, SPEC, small_model) for seed in seeds], 0, image_id(small_model))
    trainee = Trainee(small_model, LossWeights(distil=0), None, masks=True)
    assert trainee.total(trainee(batch)).isfinite()


def test_run_learns_saves_and_resumes(small_model: O3Model, tmp_path: Path) -> None:
    init = save_folder(small_model, tmp_path / "init", torch.float32)
    values = {"init": str(init), "batch": 2, "log_every": 1, "warmup": 1, "weights": {"distil": 0}}
    values |= {"families": {"appearance": 1.0}, "steps": 6, "bf16": False}
    run(build_config({**values, "out": str(tmp_path / "whole")}))
    whole = read_records(tmp_path / "whole" / "metrics.jsonl")
    assert [record["step"] for record in whole] == list(range(6))
    assert whole[-1]["text"] < whole[0]["text"]
    load_folder(tmp_path / "whole" / "model")
    resumed = run(build_config({**values, "out": str(tmp_path / "whole"), "steps": 7}))
    assert [record["step"] for record in read_records(tmp_path / "whole" / "metrics.jsonl")][6:] == [6]
    assert resumed == tmp_path / "whole" / "model"


def test_configurations_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("out: here\nsteps: 3\nweights: {distil: 0, bce: 4}\n")
    config = read_config(file, steps=5)
    assert (config.steps, config.weights.bce, config.weights.dice) == (5, 4, 0.5)
    with pytest.raises(UsageError, match="unknown field stepps"):
        build_config({"out": "x", "stepps": 3})
    with pytest.raises(UsageError, match="words"):
        SupervisedConfig(out="x")
    with pytest.raises(UsageError, match="cannot be read"):
        read_config(tmp_path / "missing.yaml")
    with pytest.raises(CheckpointError, match="stage 0"):
        run(SupervisedConfig(out=str(tmp_path), words=str(tmp_path / "none.pt"), steps=1))


def test_words_describe_what_is_there(small_model: O3Model) -> None:
    batch = draw_batch(range(8), SPEC, small_model.sam2, mask_size=32)
    assert batch.images.shape == (8, 3, 64, 64)
    assert len(batch.words) == len(batch.masks) == len(batch.frame)
    assert (batch.words[batch.twin, 1] != ANY).all()
    absent = batch.masks.flatten(1).sum(1) == 0
    assert absent.sum() >= 8


def test_distil_is_relative_to_the_table() -> None:
    goal = torch.randn(4, 8)
    assert distil_loss(goal, goal) == 0
    assert distil_loss(torch.zeros(4, 8), goal).item() == pytest.approx(1)


def test_unasked_looks_do_not_count() -> None:
    aids, tokens = Aids(8), torch.randn(5, 8)
    looks = torch.zeros(5, aids.dense.out_features)
    hidden = looks.clone()
    hidden[:, -1] = torch.nan
    changed = looks.clone()
    changed[:, -1] = 1
    assert aids.dense_loss(tokens, hidden).isfinite()
    assert aids.dense_loss(tokens, hidden) != aids.dense_loss(tokens, changed)
