"""A small model for training tests."""

from __future__ import annotations

import pytest

from videoseg.models.o3 import O3Model
from videoseg.models.tiny import build_o3, world_corpus

SMALL = {
    "trunk": "micro",
    "image_size": 64,
    "decoder_mlp": 64,
    "memory_layers": 1,
    "memory_mlp": 64,
    "fuser_mlp": 64,
}


@pytest.fixture(scope="session")
def corpus() -> list[str]:
    return world_corpus(20)


@pytest.fixture
def small_model(corpus: list[str]) -> O3Model:
    return build_o3(corpus=corpus, sam2=SMALL)
