"""GRPO runs: what they leave behind, interruptions at any moment, several processes, stop rules, settings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from grpo_builders import SMALL_BUDGET, Scripted
from videoseg.errors import CollapseError, InputError, UsageError
from videoseg.models.checkpoints.folder import load_folder
from videoseg.training import grpo_parts
from videoseg.training.curves import read_records
from videoseg.training.dialogue_batch import DialogueBatch
from videoseg.training.export import export_state
from videoseg.training.grpo_config import GrpoConfig, StopRules
from videoseg.training.grpo_metrics import Guard
from videoseg.training.grpo_trainer import run_grpo
from videoseg.training.policy import Policy, PolicyOutput
from videoseg.training.prompts import open_prompts
from videoseg.training.settings import build_settings, read_settings

Recipe = Callable[..., GrpoConfig]
START = """
import json, sys
sys.path.insert(0, sys.argv[2])
from grpo_builders import Scripted
from videoseg.training import grpo_parts
from videoseg.training.grpo_config import GrpoConfig
from videoseg.training.grpo_trainer import run_grpo
from videoseg.training.prompts import open_prompts
from videoseg.training.settings import build_settings
config = build_settings(GrpoConfig, json.loads(sys.argv[1]))
if len(sys.argv) > 3:
    Scripted.silent = (open_prompts(config.prompts)[1].query,)
    grpo_parts.CachedGenerator = Scripted
run_grpo(config)
"""
REWARD = '''
from videoseg.training.rewards.base import reward

@reward("letters", low=0, high=10_000)
def letters(outcome):
    """Tells rollouts apart, whatever an untrained model says."""
    return float(sum(map(len, outcome.replies)))
'''


@pytest.fixture
def recipe(small_folder: Path, tmp_path: Path) -> Recipe:
    """`recipe(**fields)`: two prompts with two rollouts each, of the small model, into `tmp_path / "run"`."""
    (tmp_path / "letters.py").write_text(REWARD)

    def build(**fields: Any) -> GrpoConfig:
        values: dict[str, Any] = {
            "out": str(tmp_path / "run"),
            "init": str(small_folder),
            "prompts": {"families": {"appearance": 1.0}},
            "preset": SMALL_BUDGET,
            "steps": 2,
            "batch": 2,
            "group": 2,
            "sampling": {"temperature": 1.0, "top_p": 1.0, "top_k": 0},
            "rewards": {"format": 1.0, "mask_iou": 1.0, "letters": 0.1},
            "reward_files": [str(tmp_path / "letters.py")],
            "lr": 1e-3,
            "bf16": False,
            "device": "cpu",
            "threads": 1,
            "page_every": 0,
            "stop": {"window": 100},
        }
        return build_settings(GrpoConfig, {**values, **fields})

    return build


def curve(out: str) -> list[dict[str, Any]]:
    """The records without what depends on the clock and the process."""
    found = read_records(Path(out) / "metrics.jsonl")
    return [{n: v for n, v in one.items() if not n.startswith(("seconds", "memory"))} for one in found]


def test_a_reward_rises_when_it_is_trained_on(recipe: Recipe) -> None:
    """The whole loop on a real network: sampled replies grow longer, for length is all that is rewarded."""
    config = recipe(
        rewards={"letters": 0.1},
        preset={**SMALL_BUDGET, "max_turns": 1},
        steps=20,
        group=8,
        groups_per_pass=2,
        calibration=None,
        mask_weight=0.0,
        objective={"beta": 0.0},
        stop={"window": 1000},
    )
    told: list[dict[str, Any]] = []
    run_grpo(config, told.append)
    rewards = [record["reward/mean"] for record in told]
    assert sum(rewards[-5:]) > 1.5 * sum(rewards[:5])


def test_a_run_leaves_model_metrics_rollouts_and_pages(recipe: Recipe, monkeypatch: Any) -> None:
    monkeypatch.setattr(grpo_parts, "CachedGenerator", Scripted)
    held = {"families": {"appearance": 1.0}, "first_seed": 50}
    config = recipe(page_every=1, held_out=held, eval_every=2, eval_prompts=3, group=3, calibration={})
    told: list[dict[str, Any]] = []
    folder = run_grpo(config, told.append)
    before, after = (load_folder(Path(path)).state_dict() for path in (config.init, folder))
    before = {name: weight.bfloat16().float() for name, weight in before.items()}  # as it is saved
    assert any(not torch.equal(before[name], after[name]) for name in before if "mask_decoder" in name)
    assert any(not torch.equal(before[name], after[name]) for name in before if "lm_head" in name)
    assert all(torch.equal(before[name], after[name]) for name in before if "vision_encoder" in name)
    assert [record["step"] for record in told] == [0, 1]
    wanted = ("reward/mean", "reward/format/std", "turns", "tokens_per_turn", "well_formed", "kl", "entropy")
    wanted += ("clipped", "zero_variance", "keyframe_iou", "stop/answer", "calibration", "seconds/rollout")
    assert set(wanted) <= set(told[0])
    assert told[0]["turns"] == 2
    assert told[0]["well_formed"] == 1
    assert told[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert told[1]["kl"] > 0
    assert {"held_out/frames_iou"} <= set(told[0]) & set(told[1])
    lines = (Path(config.out) / "rollouts" / "000001.0-of-1.jsonl").read_text().splitlines()
    assert [len(json.loads(line)["ids"]) for line in lines] == [1, 2, 3] * 2
    assert json.loads(lines[0])["rewards"]["format"] == 1
    page = (Path(config.out) / "pages" / "step-000001.html").read_text()
    assert "data:image/jpeg" in page
    assert "http" not in page
    assert "[SEG]" in page
    assert len(json.loads((Path(config.out) / "held_out" / "000002.json").read_text())) == 3
    exported = export_state(Path(config.out), Path(config.out) / "again")
    for name, weight in load_folder(exported).state_dict().items():
        assert torch.equal(weight, after[name]), name


def test_adapters_learn_alone_and_are_merged(recipe: Recipe, monkeypatch: Any) -> None:
    monkeypatch.setattr(grpo_parts, "CachedGenerator", Scripted)
    lora = {"r": 4, "alpha": 8, "dropout": 0.0}
    told: list[dict[str, Any]] = []
    train = ["projector", "sam2.model.mask_decoder"]
    config = recipe(lora=lora, train=train, gradient_checkpointing=True, group=3, lr=1e-2)
    folder = run_grpo(config, told.append)
    assert told[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert told[1]["kl"] > 1e-6
    before, after = (load_folder(Path(path)).state_dict() for path in (config.init, folder))
    assert before.keys() == after.keys()
    before = {name: weight.bfloat16().float() for name, weight in before.items()}
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert any("language_model.layers.0.mlp" in name for name in changed)
    assert not any("embed_tokens" in name or "visual" in name for name in changed)
    with pytest.raises(UsageError, match="dropout must be 0"):
        recipe(lora={"r": 4})


def test_a_group_is_handed_over_as_one(recipe: Recipe, monkeypatch: Any) -> None:
    """Groups and equal rollouts are known to the pass, which reads what they share once."""
    monkeypatch.setattr(grpo_parts, "CachedGenerator", Scripted)
    forward, groups = Policy.forward, []

    def watched(policy: Policy, batch: DialogueBatch) -> PolicyOutput:
        groups.append((batch.group, len(batch.twin)))
        return forward(policy, batch)

    monkeypatch.setattr(Policy, "forward", watched)
    run_grpo(recipe(steps=1, group=3))
    assert groups == [(3, 3), (3, 3)]


def test_several_updates_on_one_batch(recipe: Recipe, monkeypatch: Any) -> None:
    monkeypatch.setattr(grpo_parts, "CachedGenerator", Scripted)
    told: list[dict[str, Any]] = []
    config = recipe(updates=2, objective={"clip": [0.2, 0.2], "beta": 0.0}, group=3, steps=1, lr=1e-2)
    run_grpo(config, told.append)
    assert told[0]["ratio"] != 1
    assert told[0]["clipped"] > 0


@pytest.mark.slow
def test_kills_at_any_moment_leave_the_curve(recipe: Recipe, tmp_path: Path) -> None:
    """Killed three times: after sampling, between steps, in an update. The curve is that of a whole run."""
    whole = recipe(steps=6, out=str(tmp_path / "whole"), save_minutes=0)
    run_grpo(whole)
    killed = replace(whole, out=str(tmp_path / "killed"))
    rollouts, metrics = Path(killed.out) / "rollouts", Path(killed.out) / "metrics.jsonl"

    def until(reached: Callable[[], bool]) -> None:
        process = start(killed)
        while process.poll() is None and not reached():
            time.sleep(0.01)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it must not have come to its end"

    until(lambda: (rollouts / "000001.0-of-1.jsonl").exists())
    until(lambda: metrics.exists() and metrics.read_text().count("\n") >= 3)
    until(lambda: (rollouts / "000004.0-of-1.jsonl").exists())
    written = {path.name: path.read_text() for path in rollouts.glob("*.jsonl")}
    run_grpo(killed)
    assert curve(killed.out) == curve(whole.out)
    names = sorted(path.name for path in rollouts.glob("*.jsonl"))
    assert names == [f"{step:06d}.0-of-1.jsonl" for step in range(6)]
    for name, text in written.items():
        kept = [json.loads(line)["ids"] for line in (rollouts / name).read_text().splitlines()]
        assert kept == [json.loads(line)["ids"] for line in text.splitlines()], f"{name} was sampled anew"


@pytest.mark.slow
def test_two_processes_make_the_update_of_one(recipe: Recipe, tmp_path: Path, monkeypatch: Any) -> None:
    """Uneven turns, and no [SEG] at all on the second process."""
    one = recipe(group=3, out=str(tmp_path / "one"), calibration={})
    monkeypatch.setattr(grpo_parts, "CachedGenerator", Scripted)
    monkeypatch.setattr(Scripted, "silent", (open_prompts(one.prompts)[1].query,))
    run_grpo(one)
    two = replace(one, out=str(tmp_path / "two"))
    script = tmp_path / "go.py"
    script.write_text(START)
    launch = "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no"
    command = [sys.executable, "-m", *launch.split(), "--dynamo_backend", "no", "--main_process_port", "0"]
    done = subprocess.run(
        [*command, str(script), json.dumps(asdict(two)), str(Path(__file__).parents[2]), "scripted"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for ours, theirs in zip(curve(one.out), curve(two.out), strict=True):
        for name in ("reward/mean", "turns", "zero_variance", "entropy", "loss", "kl", "norm"):
            assert theirs[name] == pytest.approx(ours[name], rel=1e-3, abs=1e-5), name
    before, after = (load_folder(Path(out) / "model").state_dict() for out in (one.out, two.out))
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight, rtol=1e-2, atol=2e-4, msg=name)


def start(config: GrpoConfig, *more: str) -> subprocess.Popen[str]:
    """The same run in a process of its own."""
    command = [sys.executable, "-c", START, json.dumps(asdict(config)), str(Path(__file__).parents[2]), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def test_rollouts_of_another_run_are_refused(recipe: Recipe, monkeypatch: Any) -> None:
    monkeypatch.setattr(grpo_parts, "CachedGenerator", Scripted)
    config = recipe(steps=1)
    run_grpo(config)
    with pytest.raises(UsageError, match="cannot go on"):
        run_grpo(replace(config, lr=1.0))
    for state in (Path(config.out) / "state").iterdir():
        state.rename(Path(config.out) / "elsewhere")
    with pytest.raises(InputError, match="other prompts"):
        run_grpo(replace(config, prompts=replace(config.prompts, first_seed=3)))


def test_the_stop_rules(recipe: Recipe, monkeypatch: Any) -> None:
    guard = Guard(StopRules(window=2, least_format=0.5, most_kl=1.0, least_entropy=0.1))
    fine = {"well_formed": 1.0, "kl": 0.5, "entropy": 0.5}
    guard.watch({**fine, "well_formed": 0.0})
    guard.watch(fine)
    with pytest.raises(CollapseError, match=r"0\.49 of the rollouts.*KL per token is 3.*entropy is 0\.05"):
        guard.watch({"well_formed": -0.02, "kl": 5.5, "entropy": -0.4})
    config = recipe(stop={"window": 1, "least_format": 0.9})  # an untrained model keeps to no format
    with pytest.raises(CollapseError, match="well formed"):
        run_grpo(config)
    assert list((Path(config.out) / "state").glob("step-*")), "the state is kept"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"group": 1}, "at least 2 rollouts"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"eval_every": 5}, "needs `held_out`"),
        ({"rewards": {}}, "name at least one"),
        ({"objective": {"bet": 1}}, r"objective\.bet"),
        ({"calibration": {"grid": "x"}}, r"calibration.*grid"),
    ],
)
def test_settings_are_checked(recipe: Recipe, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        recipe(**fields)


def test_passes_must_come_out_even(recipe: Recipe) -> None:
    with pytest.raises(UsageError, match="must be a multiple of processes x groups_per_pass"):
        run_grpo(recipe(batch=3, groups_per_pass=2))


@pytest.mark.parametrize("name", ["tiny-grpo", "o3-2b-grpo", "o3-4b-grpo"])
def test_the_recipes_can_be_read(name: str) -> None:
    config = read_settings(GrpoConfig, Path(__file__).parents[3] / "configs" / f"{name}.yaml")
    if name.startswith("o3"):
        assert (config.steps, config.batch, config.group, config.lr) == (1000, 16, 4, 3e-6)
        assert config.objective.beta == 0.04
        assert config.mask_weight == 0.2
        assert config.sampling.temperature == config.sampling.top_p == 0.9
        assert config.preset["max_new_tokens"] == 512
        assert config.preset["high_frames"] == 5
