"""The plan counts what the run would have."""

from __future__ import annotations

from pathlib import Path

import pytest

from videoseg.errors import UsageError
from videoseg.models.checkpoints.folder import load_folder
from videoseg.training.grpo_config import GrpoConfig
from videoseg.training.grpo_plan import plan_of
from videoseg.training.preparation import choose_trained
from videoseg.training.settings import LoraSettings, read_settings

CONFIGS = Path(__file__).parents[3] / "configs"


@pytest.mark.parametrize("lora", [None, LoraSettings(r=4, dropout=0.0)])
def test_parameters_are_those_of_the_model(small_folder: Path, lora: LoraSettings | None) -> None:
    config = GrpoConfig(out="x", init=str(small_folder), batch=4, lora=lora)
    plan = plan_of(config)
    model = load_folder(small_folder)
    choose_trained(model, config)
    assert plan.trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert (plan.processes, plan.passes, plan.rollouts) == (1, 4, 16)
    if not lora:
        assert plan.memory["reference"] == 4 * sum(p.numel() for p in model.vlm.parameters())


def test_adapters_alone_need_no_copy(small_folder: Path) -> None:
    train = ("projector", "sam2.model.mask_decoder")
    config = GrpoConfig(out="x", init=str(small_folder), lora=LoraSettings(r=4, dropout=0.0), train=train)
    assert plan_of(config).memory["reference"] == 0


def test_the_published_run() -> None:
    """2B on 8 GPUs: 2.2 G parameters of Qwen3-VL-2B with its head, and SAM2's decoder, learn."""
    plan = plan_of(read_settings(GrpoConfig, CONFIGS / "o3-2b-grpo.yaml"))
    assert (plan.processes, plan.rollouts, plan.passes) == (8, 8, 2)
    assert plan.trained == pytest.approx(2.45e9, rel=0.05)
    assert plan.frozen == pytest.approx(2.2e8, rel=0.1)
    assert plan.length.new == 3 * 512
    assert 1800 < plan.length.stem + plan.length.later < 2600
    rest = plan.length.later + plan.length.new
    assert plan.tokens == 2 * plan.length.stem + 8 * rest  # two groups of four
    assert plan.length.packed(1) == plan.length.stem + rest
    text = "\n".join(plan.lines())
    assert "GiB" in text
    assert "reference" in text


@pytest.mark.parametrize(("size", "weights"), [("3b", 3.75e9), ("7b", 8.29e9)])
def test_the_runs_of_r1(size: str, weights: float) -> None:
    """Qwen2.5-VL as a whole learns, and nothing else is there; 16 prompts of 8 on 8 GPUs."""
    plan = plan_of(read_settings(GrpoConfig, CONFIGS / f"r1-{size}-grpo.yaml"))
    assert (plan.processes, plan.rollouts, plan.passes, plan.length.new) == (8, 16, 2, 1024)
    assert plan.trained == pytest.approx(weights, rel=0.005)
    assert (plan.frozen, plan.masks) == (0, 0)
    # 900 tokens of the target, and 12 frames of 420 x 224 (15 x 8 tokens).
    assert (plan.length.stem, plan.length.later) == (902 + 12 * 122 + 250, 0)


def test_the_bundled_r1() -> None:
    plan = plan_of(GrpoConfig(out="x", system="r1", init="tiny-r1", batch=4, freeze=()))
    assert plan.length.new == 192
    assert 3e6 < plan.trained < 5e6


def test_an_unknown_checkpoint() -> None:
    with pytest.raises(UsageError, match="tells no size"):
        plan_of(GrpoConfig(out="x", init="nowhere"))
