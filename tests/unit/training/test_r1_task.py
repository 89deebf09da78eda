"""R1 on the GRPO trainer: rollouts, rows and rewards of one group, and a step that learns from them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from builders import random_o3
from data_builders import edit_json, make_mevis, make_rl
from videoseg.data.world.sampler import WorldSpec
from videoseg.dialogue.r1 import R1Preset
from videoseg.errors import UsageError
from videoseg.models.checkpoints.folder import load_folder
from videoseg.models.checkpoints.hub import ASSETS
from videoseg.models.checkpoints.r1 import load_reasoner, save_reasoner
from videoseg.models.tiny_r1 import reasoner_from, tiny_preset
from videoseg.training.config import DataEntry
from videoseg.training.grpo import Objective
from videoseg.training.grpo_update import Method, Totals, make_part, step
from videoseg.training.length import LengthControl
from videoseg.training.prompts import Prompt, PromptConfig, WorldPrompts, open_prompts
from videoseg.training.r1_examples import draw_r1
from videoseg.training.r1_task import R1Policy, R1Task
from videoseg.training.rewards import r1
from videoseg.training.rollout import Said, Sampling
from videoseg.types import Role, StopReason

SPEC = WorldSpec(families={"appearance": 0.5, "several": 0.5})
SAMPLING = Sampling(1.0, 1.0, 0)


@pytest.fixture(scope="module")
def policy() -> R1Policy:
    return R1Policy(*reasoner_from(random_o3()))


@pytest.fixture(scope="module")
def preset() -> R1Preset:
    return tiny_preset().override(context_frames=2, segment_frames=1, side=64, max_new_tokens=6)


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    source = WorldPrompts(77, SPEC)
    return [source[0], source[1]]


def test_a_group_shares_one_question_and_its_log_probs_are_those_it_was_sampled_with(
    policy: R1Policy, preset: R1Preset, prompts: list[Prompt]
) -> None:
    task = R1Task(policy, preset, SAMPLING)
    rollouts = task.rollouts(prompts, 3, seed=5)
    assert [rollout.group for rollout in rollouts] == [0, 0, 0, 1, 1, 1]
    assert len({rollout.turns[0].observation for rollout in rollouts[:3]}) == 1
    assert len({rollout.turns[0].ids for rollout in rollouts}) > 1
    target = rollouts[0].turns[0].observation.images[-1]
    assert target.role is Role.TARGET
    assert prompts[0].presence[target.frame]
    again = [Said([list(rollout.turns[0].ids)], [not rollout.turns[0].truncated]) for rollout in rollouts]
    assert task.restored(again, prompts) == rollouts
    # The same seed gives the same replies, so teacher-forced probabilities must name them again.
    part = make_part(task, rollouts, [prompts[i // 3] for i in range(6)], policy.seg_id, policy.end_id)
    with torch.no_grad():
        output = policy(part.batch)
    assert output.log_probs.shape == (sum(rollout.num_tokens for rollout in rollouts),)
    greedy = R1Task(policy, preset, Sampling(0.0)).rollouts(prompts[:1], 2, seed=0)
    row = make_part(task, greedy, prompts[:1] * 2, policy.seg_id, policy.end_id)
    with torch.no_grad():
        best = policy(row.batch).log_probs.reshape(2, -1)
    assert torch.allclose(best[0], best[1])
    assert best.exp().min() > 1 / len(policy.text.tokenizer)


def test_a_step_learns_from_the_better_answer(
    policy: R1Policy, preset: R1Preset, prompts: list[Prompt]
) -> None:
    task = R1Task(policy, preset, SAMPLING, length=LengthControl(), difficulty={prompts[0].key: 9.0})
    renderer = task._scene(prompts[0]).renderer
    truth = task._scene(prompts[0]).truth
    x1, y1, x2, y2 = (truth.boxes[0] / 840 * 99).round().astype(int).tolist()
    good = [
        {"bbox_2d": [x1, y1, x2, y2], "point_2d": [(x1 + x2) // 2, (y1 + y2) // 2], "neg_point_2d": [0, 0]}
    ]
    texts = [f"<think>a</think><answer>{json.dumps(good)}</answer>", "<think>a</think>it is gone"]
    said = [Said([renderer.encode_reply(text)], [True]) for text in texts]
    rollouts = task.restored(said, prompts[:1])
    assert [rollout.stop for rollout in rollouts] == [StopReason.ANSWER, StopReason.INVALID_REPLY]
    part = make_part(task, rollouts, prompts[:1] * 2, policy.seg_id, policy.end_id)
    method = Method(Objective(beta=0.0), None, 0.0, 2)
    made = step(part, policy(part.batch), task, (*r1.R1, r1.R1_LENGTH), method, Totals(2, 10))
    scores = made.memory.scores
    assert scores.names[-1] == "r1_length"
    assert scores.total[0] > 6 > 1 >= scores.total[1]
    assert made.memory.outcomes[0].columns["difficulty"] == 9.0
    policy.zero_grad()
    made.loss.backward()
    with torch.no_grad():
        before = policy(part.batch).log_probs
        for parameter in policy.parameters():
            if parameter.grad is not None:
                parameter -= 0.05 * parameter.grad
        after = policy(part.batch).log_probs
        for parameter in policy.parameters():
            if parameter.grad is not None:
                parameter += 0.05 * parameter.grad
    first = part.rows == 0
    assert (after - before)[first].mean() > (after - before)[~first].mean()


def test_several_objects_are_several_truths(policy: R1Policy, preset: R1Preset) -> None:
    task = R1Task(policy, preset, SAMPLING)
    source = WorldPrompts(0, WorldSpec(families={"several": 1.0}))
    counts = [len(task._scene(source[number]).truth.boxes) for number in range(6)]
    assert max(counts) > 1


def test_rl_files_tell_every_object(policy: R1Policy, preset: R1Preset, tmp_path: Path) -> None:
    root = make_rl(tmp_path)
    edit_json(
        root / "VideoSEG-O3-RL/rl_revos_data.json",
        lambda data: data[0][0].update(anno_id=[42, 43], mask_existence=[1, 1]),
    )
    prompt = open_prompts(PromptConfig(kind="rl", folder=str(root), split="revos"))[0]
    assert prompt.objects
    assert [[bool(mask.any()) for mask in prompt.objects(frame)] for frame in (0, 1)] == [
        [True] * 2,
        [False, True],
    ]
    task = R1Task(policy, preset, SAMPLING)
    (rollout,) = task.rollouts([prompt], 1, seed=0)
    frame = rollout.turns[0].observation.images[-1].frame
    both = [[105, 210, 315, 490], [472, 210, 682, 490]]  # of squares at 4 and 18 of 32, 6 of 24 pixels
    assert task._scene(prompt).truth.boxes.tolist() == both[frame:]
    part = make_part(task, [rollout], [prompt], policy.seg_id, policy.end_id)
    judged = task.judge(rollout, prompt, task.row(rollout, prompt), torch.zeros(0))
    assert part.batch.ids.shape[0] == 1
    assert 0 <= sum(reward(judged.outcome) for reward in r1.R1) <= 9


def test_sets_give_one_query_of_a_video_at_a_time(tmp_path: Path) -> None:
    make_mevis(tmp_path / "mevis")
    config = PromptConfig(kind="sets", folder=str(tmp_path), data=(DataEntry("mevis", "mevis", repeats=1),))
    source = open_prompts(config)
    drawn = {prompt.query: prompt for prompt in (source[number] for number in range(24))}
    assert set(drawn) == {"The square that stays", "The square that leaves", "Both squares", "what moves"}
    assert drawn["The square that leaves"].presence == (True, False, False)
    both = drawn["Both squares"].objects
    assert both
    assert [mask.sum() for mask in both(0)] == [64, 64]
    assert source[5].key == open_prompts(config)[5].key
    with pytest.raises(UsageError, match=r"1 of 1 data sets cannot be opened"):
        open_prompts(replace(config, folder=str(tmp_path / "mevis")))
    with pytest.raises(UsageError, match="`folder`"):
        open_prompts(replace(config, folder=""))


def test_examples_of_the_world_are_true_answers() -> None:
    _, told = reasoner_from(load_folder(ASSETS / "tiny"))  # aids need a tokenizer that knows the words
    preset, kinds = tiny_preset(), set()
    for seed in range(16):
        example = draw_r1(seed, SPEC, told, preset)
        roles = {image.role for image in example.chunk.images}
        text = told.tokenizer.decode(example.chunk.ids[example.chunk.loss_mask].tolist())
        kinds.add("answer" if "<answer>" in text else "span" if "happens" in text else "share")
        if Role.TARGET in roles:
            assert r1.think_format(text.removesuffix("<|im_end|>")) == 1
            asked = ~example.boxes.isnan()
            assert asked.any()
            assert ((example.boxes >= 0) & (example.boxes <= 1))[asked].all()
    assert kinds == {"answer", "span", "share"}


def test_a_saved_reasoner_reads_the_same(policy: R1Policy, tmp_path: Path) -> None:
    save_reasoner(policy.vlm, policy.text, tmp_path)
    vlm, text = load_reasoner(tmp_path)
    assert text.config["videoseg"]["r1"] == policy.text.config["videoseg"]["r1"]
    assert text.tokenizer.get_vocab() == policy.text.tokenizer.get_vocab()
    for (name, mine), theirs in zip(policy.vlm.state_dict().items(), vlm.state_dict().values(), strict=True):
        np.testing.assert_array_equal(mine.bfloat16().float().numpy(), theirs.numpy(), err_msg=name)
