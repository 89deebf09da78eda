"""Examples of the generated world and the aids that ask about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from videoseg.data.world.sampler import WorldSpec, draw_sample
from videoseg.data.world.wording import name_of
from videoseg.errors import CheckpointError
from videoseg.models.causal_blocks import use_causal_blocks
from videoseg.models.o3 import O3Model
from videoseg.training.aid_batch import image_starts, join_aids
from videoseg.training.aids import Aids, distil_loss, gaze_loss
from videoseg.training.batches import StageBatch, stage_batch
from videoseg.training.config import SupervisedConfig
from videoseg.training.curves import read_records
from videoseg.training.examples import LOOKING, draw_example
from videoseg.training.preparation import choose_trained
from videoseg.training.sources import WorldSource
from videoseg.training.supervised import Trainee, run
from videoseg.training.words import ANY, WordTable, draw_batch

Recipe = Callable[..., SupervisedConfig]
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
    spec = replace(SPEC, families={"appearance": 0.5, "motion": 0.5})
    seen = 0
    for seed in range(20):
        example, sample = draw_example(seed, spec, small_model, masks=False), draw_sample(seed, spec)
        for number, (position, goal) in enumerate(example.recalls):
            seen += 1
            target = sample.scene.things[sample.question.targets[0]]
            ids = example.chunk.ids
            assert decode([ids[position]]).strip() == ("is" if number == 0 else target.colour)
            assert decode([ids[position + 1]]).strip() == (target.colour if number == 0 else target.size)
            assert name_of(target) in decode(ids[goal - 9 : goal + 1])
            assert goal < position
    assert seen > 10


def test_words_describe_what_is_there(small_model: O3Model) -> None:
    batch = draw_batch(range(8), SPEC, small_model.sam2, mask_size=32)
    assert batch.images.shape == (8, 3, 64, 64)
    assert len(batch.words) == len(batch.masks) == len(batch.frame)
    for words, twin in zip(batch.words, batch.twin.tolist(), strict=True):
        assert not twin or all(size != ANY for _, size in words)
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


def batch_of(model: O3Model, config: SupervisedConfig, seeds: list[int]) -> StageBatch:
    """The dialogues of some seeds, as a run would get them."""
    source = WorldSource(model, config, 0)
    return stage_batch([source.item(seed) for seed in seeds], 0, model)


def test_padding_does_not_change_a_row(small_model: O3Model, recipe: Recipe) -> None:
    config = recipe(masks=False)
    trainee = Trainee(small_model, config).eval()
    with torch.no_grad():
        alone = [trainee(batch_of(small_model, config, [seed]))["text"] for seed in range(4)]
        together = trainee(batch_of(small_model, config, [0, 1, 2, 3]))["text"]
    torch.testing.assert_close(torch.stack(alone).mean(), together, rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_part(small_model: O3Model, recipe: Recipe) -> None:
    table = WordTable(256)
    weights = {"distil": 1, "dense": 1, "place": 1, "pointer": 1, "mention": 1, "gaze": 1, "vec": 1}
    config = recipe(weights=weights, words="given", mask_loss="candidates")
    use_causal_blocks(small_model.vlm.model.model.language_model)
    choose_trained(small_model, config)
    trainee = Trainee(small_model, config, table)
    trainee(batch_of(small_model, config, [0, 1, 2]))["loss"].backward()
    for name, parameter in trainee.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name
    for part in ("visual", "language_model", "projector", "sam2.model.mask_decoder", "aids.heads"):
        grads = [p.grad for name, p in trainee.named_parameters() if part in name and p.requires_grad]
        assert any(bool((grad != 0).any()) for grad in grads if grad is not None), part


def test_gaze_prefers_what_is_covered(small_model: O3Model) -> None:
    example = draw_example(1, SPEC, small_model, masks=False)
    batch, length = join_aids([example], image_id(small_model)), len(example.chunk.ids)
    mention = batch.mentions[0]
    start, best = batch.first_token[mention.shown], int(mention.cells.argmax())
    query, key = torch.zeros(1, length, 4), torch.zeros(1, length, 4)
    blind = gaze_loss(query, key, batch, 1.0)
    query[:, :, 0], key[:, start + best, 0] = 1, 3
    batch = replace(batch, mentions=[mention], mention_rows=torch.tensor([0]))
    assert gaze_loss(query, key, batch, 1.0) < blind


def test_a_batch_without_seg_trains_too(small_model: O3Model, recipe: Recipe) -> None:
    config = recipe(mask_loss="candidates", weights={"dense": 1.0})
    seeds = [seed for seed in range(90) if draw_sample(seed, WorldSpec()).question.family == "none"][:2]
    batch = batch_of(small_model, config, seeds)
    assert not batch.dialogue.masks
    assert Trainee(small_model, config)(batch)["loss"].isfinite()


def test_a_run_on_the_world_learns_with_both_optimizers(recipe: Recipe, tmp_path: Path) -> None:
    settings = {"families": {"appearance": 1.0}, "steps": 5, "batch": 2, "mask_loss": "candidates"}
    config = recipe(**settings, optimizer="muon", betas=[0.9, 0.98], lr=2e-3, weights={"dense": 1.0})
    run(config)
    logged = read_records(tmp_path / "run" / "metrics.jsonl")
    assert [record["step"] for record in logged] == list(range(5))
    assert logged[-1]["text"] < logged[0]["text"]
    assert logged[-1]["dense"] < logged[0]["dense"]


def test_missing_words_are_named(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="stage 0"):
        run(recipe(words=str(tmp_path / "none.pt")))
