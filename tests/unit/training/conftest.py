"""A small model for training tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from videoseg.models.checkpoints.folder import save_folder
from videoseg.models.o3 import O3Model
from videoseg.models.tiny import build_o3, world_corpus
from videoseg.training.config import SupervisedConfig, build_config

SMALL = {
    "trunk": "micro",
    "image_size": 64,
    "decoder_mlp": 64,
    "memory_layers": 1,
    "memory_mlp": 64,
    "fuser_mlp": 64,
}
PIXELS = {"image": [1024, 4096], "frames": [1024, 2048], "grounding": [1024, 1024]}
"""Budgets for pictures of 24 x 32 pixels."""


@pytest.fixture(scope="session")
def corpus() -> list[str]:
    return world_corpus(20)


@pytest.fixture
def small_model(corpus: list[str]) -> O3Model:
    return build_o3(corpus=corpus, sam2=SMALL)


@pytest.fixture(scope="session")
def small_folder(corpus: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the small model with fresh weights."""
    return save_folder(
        build_o3(corpus=corpus, sam2=SMALL), tmp_path_factory.mktemp("small") / "init", torch.float32
    )


@pytest.fixture
def recipe(small_folder: Path, tmp_path: Path) -> Callable[..., SupervisedConfig]:
    """`recipe(**fields)`: a run of the small model into `tmp_path / "run"`, every step logged."""

    def build(**fields: Any) -> SupervisedConfig:
        values: dict[str, Any] = {
            "out": str(tmp_path / "run"),
            "init": str(small_folder),
            "data_root": str(tmp_path),
            "pixels": PIXELS,
            "points": 64,
            "bf16": False,
            "device": "cpu",
            "lr": 1e-3,
            "steps": 2,
            "warmup": 1,
            "log_every": 1,
        }
        return build_config({**values, **fields})

    return build
