"""Recipes: the published settings, overrides, errors that name the field, and the dry run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_builders import make_chat, make_mevis
from videoseg.cli.main import main
from videoseg.data.mix import RECIPES
from videoseg.data.readers import READERS
from videoseg.dialogue.preset import COLD_START_BUDGET, Budget, preset
from videoseg.errors import CheckpointError, DatasetError, UsageError
from videoseg.training.config import SupervisedConfig, build_config, read_config
from videoseg.training.dry_run import dry_run
from videoseg.training.settings import LoraSettings

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
Recipe = Callable[..., SupervisedConfig]
SIZES = ("2b", "4b")


@pytest.mark.parametrize("size", SIZES)
def test_sft_is_the_published_one(size: str) -> None:
    config = read_config(CONFIGS / f"o3-{size}-sft.yaml")
    assert {entry.share() for entry in config.data} == set(RECIPES["sft"])
    assert {entry.dataset for entry in config.data} <= set(READERS)
    assert (config.batch, config.accumulation, config.epochs, config.max_length) == (1, 8, 1, 8192)
    assert (config.lora, config.lr, config.betas) == (LoraSettings(128, 256, 0.05), 4e-5, (0.9, 0.999))
    assert (config.weight_decay, config.clip, config.warmup, config.final_lr) == (0.05, 1.0, 0.05, 0.0)
    assert (config.weights.bce, config.weights.dice, config.points) == (2.0, 0.5, 12_544)
    assert (config.mask_loss, config.optimizer, config.max_objects) == ("points", "adamw", 5)
    unit = 28 * 28
    assert config.pixels.image == (512 * unit, 2048 * unit)
    assert config.pixels.frames == (128 * unit, 512 * unit)
    assert config.pixels.grounding == (4 * unit, 64 * unit)


@pytest.mark.parametrize("size", SIZES)
def test_cold_start_is_the_published_one(size: str) -> None:
    config = read_config(CONFIGS / f"o3-{size}-coldstart.yaml")
    assert tuple(entry.share() for entry in config.data) == (
        RECIPES[f"coldstart-{size}"][0].__class__("vts-cot", 2 if size == "2b" else 1, 1, 5),
    )
    assert config.data[0].repeats == RECIPES[f"coldstart-{size}"][0].repeats
    assert (config.accumulation, config.lr, config.lora) == (4, 4e-5, LoraSettings())
    assert preset("default", **config.preset).budget == COLD_START_BUDGET != Budget()
    assert config.init == f"runs/o3-{size}-sft/model"


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "zero2"])
def test_accelerate_reads_its_files(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    loaded = load_config_from_file(str(CONFIGS / "accelerate" / f"{name}.yaml"))
    kind = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero2": "DEEPSPEED"}[name]
    assert loaded.distributed_type == kind
    assert loaded.mixed_precision == "bf16"


def test_overrides_reach_into_groups_and_replace_tables(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("out: here\nsteps: 3\nlora: {r: 4}\nfamilies: {motion: 1}\nweights: {bce: 4, dice: 1}\n")
    config = read_config(
        file, steps=5, **{"weights.bce": "3", "lora": {"alpha": 8}, "families": {"detail": 1.0}}
    )
    assert (config.steps, config.weights.bce, config.weights.dice) == (5, 3, 1)
    assert config.lora == LoraSettings(4, 8)
    assert config.families == {"detail": 1.0}
    assert read_config(file, lora=None).lora is None


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"stepps": 3}, "unknown field stepps; there are"),
        ({"weights": {"bcee": 1}}, r"unknown field weights\.bcee"),
        ({"data": [{"dataset": "mevis", "repeat": 1}]}, r"unknown field data\[0\]\.repeat"),
        ({"lr": "fast"}, "lr: Input should be a valid number"),
        ({"optimizer": "sgd"}, "optimizer: Input should be 'muon' or 'adamw'"),
        ({"weights": {"distil": 1}}, "needs `words`"),
        ({"steps": None}, "no end: give `steps`"),
        ({"batch": 0}, "must be positive"),
        ({"data": [{"dataset": "mevis"}], "weights": {"gaze": 1}}, "gaze: training aids know"),
        ({"data": [{"dataset": "mevis"}], "held_out": {"every": 5}}, "needs held_out.data"),
    ],
)
def test_mistakes_name_the_field(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build_config({"out": "x", "steps": 1, **values})


def test_a_dry_run_counts_and_looks(recipe: Recipe, tmp_path: Path) -> None:
    root = make_mevis(tmp_path / "mevis")
    make_chat(tmp_path / "chat")
    data = [
        {"dataset": "mevis", "folder": "mevis", "repeats": 3},
        {"dataset": "chat-univi", "folder": "chat"},
    ]
    found = dry_run(recipe(data=data, steps=None, accumulation=2))
    assert (found.rows, found.rows_per_update, found.updates) == ({"mevis": 6, "chat-univi": 1}, 2, 4)
    with pytest.raises(CheckpointError, match="no-such: not there, and no known name"):
        dry_run(recipe(data=data, init="no-such"))
    (root / "train/JPEGImages/v1/00001.jpg").unlink()
    with pytest.raises(DatasetError, match=r"mevis: 1 files of its first sample are missing.*00001"):
        dry_run(recipe(data=data))


def test_the_command_plans_and_names_what_is_missing(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for stage in ("sft", "coldstart"):
        file = str(CONFIGS / f"o3-2b-{stage}.yaml")
        assert main(["train", stage, file, "--plan", "--data-root", str(tmp_path)]) == 2
        told = capsys.readouterr().err
        assert "data sets cannot be opened; set data_root" in told
        assert ("timelens: " if stage == "sft" else "vts-cot: ") in told
    make_mevis(tmp_path / "mevis")
    file = tmp_path / "own.yaml"
    file.write_text("data: [{dataset: mevis, folder: mevis}]\nout: x\ninit: tiny\n")
    command = [
        "train",
        "sft",
        str(file),
        "--plan",
        "--data-root",
        str(tmp_path),
        "--overrides.accumulation",
        "2",
    ]
    assert main([*command, "--overrides.accumulation", "2", "--out", "there"]) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "mevis: 8 rows an epoch" in told
    assert "4 updates of 2 rows, from tiny, into there" in told
