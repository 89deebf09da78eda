"""The tiny model's whole way: world, masks from words, SFT, cold start, scores (docs/training-tiny.md)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from videoseg.errors import UsageError
from videoseg.training import pipeline
from videoseg.training.pipeline import PipelineConfig
from videoseg.training.settings import build_settings, read_settings

QUICK = Path(__file__).parents[2] / "configs" / "tiny-quick.yaml"


def shortened(out: Path, **values: Any) -> PipelineConfig:
    """The committed recipe with two or three updates per stage."""
    config = read_settings(PipelineConfig, QUICK)
    few = {"batch": 2, "log_every": 1, "bf16": False, "threads": 1}
    return replace(
        config,
        out=str(out),
        clips=1,
        words={**config.words, "steps": 2, "frames": 2, "valid_frames": 2, "threads": 1},
        sft={**config.sft, **few, "steps": 3},
        coldstart={**config.coldstart, **few, "steps": 2},
        **values,
    )


def test_every_stage_runs_once_and_hands_on(tmp_path: Path) -> None:
    config, heard = shortened(tmp_path), []
    summary = pipeline.run(config, lambda stage, record: heard.append(stage))
    assert set(heard) == {"words", "sft", "coldstart"}
    found = json.loads(summary.read_text())["scores"]
    assert set(found) == {"blind", "sft", "coldstart", "coldstart, one turn"}
    assert all(set(scores) == {"appearance", "none", "overall"} for scores in found.values())
    sft, cold = (tmp_path / stage / "model/model.safetensors" for stage in ("sft", "coldstart"))
    assert sft.read_bytes() != cold.read_bytes()

    before = summary.read_text()
    again: list[str] = []
    pipeline.run(config, lambda stage, record: again.append(stage) if "loss" in record else None)
    assert again == []
    assert summary.read_text() == before


def test_blind_guessing_is_perfect_masks_of_any_thing(tmp_path: Path) -> None:
    config = replace(shortened(tmp_path), clips=8, families=("appearance", "none"))
    scores = pipeline.blind_scores(config)
    assert scores["none"]["JF"] < 30  # frames without the thing are right
    assert 5 < scores["appearance"]["JF"] < 80


def test_fields_that_do_not_fit_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"sft: unknown field stepz"):
        replace(shortened(tmp_path), sft={"stepz": 1}).stages()
    with pytest.raises(UsageError, match="families: unknown sound"):
        build_settings(
            PipelineConfig, {"out": "x", "words": {}, "sft": {}, "coldstart": {}, "families": ["sound"]}
        )


@pytest.mark.slow
def test_losses_fall_and_scores_rise_above_chance(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The whole recipe, about a quarter of an hour: `pytest -m slow tests/system/test_pipeline.py`."""
    if "slow" not in str(request.config.getoption("markexpr")):
        pytest.skip("takes a quarter of an hour; run it with `pytest -m slow`")
    records: dict[str, list[dict[str, Any]]] = {"words": [], "sft": [], "coldstart": []}
    config = replace(read_settings(PipelineConfig, QUICK), out=str(tmp_path))
    summary = pipeline.run(config, lambda stage, record: records[stage].append(record))
    losses = {stage: [r["loss"] for r in rows if "loss" in r] for stage, rows in records.items()}
    for stage, values in losses.items():
        assert values[-1] < 0.7 * values[0], stage
    scores = json.loads(summary.read_text())["scores"]
    chance = scores["blind"]["appearance"]["JF"]
    assert scores["sft"]["appearance"]["JF"] > chance + 10
    assert scores["coldstart"]["appearance"]["JF"] > chance + 10
