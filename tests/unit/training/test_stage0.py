"""Stage 0: SAM2 learns masks from words."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from videoseg.errors import CheckpointError, InterruptedRunError, UsageError
from videoseg.training import stage0
from videoseg.training.config import read_config
from videoseg.training.curves import read_records
from videoseg.training.stage0 import WordsConfig, load_words, read_words_config, run


@pytest.fixture(autouse=True)
def small_sam2(monkeypatch: pytest.MonkeyPatch) -> None:
    from videoseg.models.tiny import build_sam2

    sizes = {"trunk": "micro", "image_size": 64, "decoder_mlp": 64, "memory_layers": 1, "memory_mlp": 64}
    monkeypatch.setattr(stage0, "build_sam2", lambda: build_sam2(**sizes))


def test_it_learns_and_goes_on_with_the_same_table(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"frames": 4, "valid_frames": 4, "log_every": 1, "warmup": 1, "bf16": False}
    first = load_words(run(WordsConfig(str(tmp_path / "a"), steps=12, **settings)))
    logged = read_records(tmp_path / "a" / "metrics.jsonl")
    assert logged[-1]["loss"] < logged[0]["loss"]
    assert {"valid_iou", "valid_absent"} <= logged[0].keys()
    init = str(tmp_path / "a" / "words.pt")
    again = WordsConfig(str(tmp_path / "b"), init=init, steps=1, **settings)
    second = load_words(run(again))
    assert all(torch.equal(value, second["table"][name]) for name, value in first["table"].items())
    assert any(not torch.equal(value, second["sam2"][name]) for name, value in first["sam2"].items())


def test_an_interrupted_run_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"frames": 2, "valid_frames": 2, "log_every": 1, "warmup": 1, "steps": 4}
    whole = run(WordsConfig(str(tmp_path / "a"), **settings))

    def stop(record: dict[str, Any]) -> None:
        if record["step"] == 1:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(InterruptedRunError):
        run(WordsConfig(str(tmp_path / "b"), **settings), stop)
    assert not (tmp_path / "b" / "words.pt").exists()
    again = run(WordsConfig(str(tmp_path / "b"), **settings))
    one, two = load_words(whole), load_words(again)
    assert all(torch.equal(value, two["sam2"][name]) for name, value in one["sam2"].items())
    losses = [[record["loss"] for record in read_records(tmp_path / name / "metrics.jsonl")] for name in "ab"]
    assert losses[0] == losses[1]


def test_every_tiny_configuration_can_be_read() -> None:
    folder = Path(__file__).resolve().parents[3] / "configs"
    for path in sorted(folder.glob("tiny-words*.yaml")):
        assert read_words_config(path).steps > 0
    for name in ("tiny-text", "tiny-masks", "tiny-sft", "tiny-coldstart", "tiny-coldstart-masks"):
        assert read_config(folder / f"{name}.yaml").words
    with pytest.raises(UsageError, match="unknown field frames"):
        read_config(folder / "tiny-words.yaml", frames=1)


def test_bad_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        WordsConfig(str(tmp_path), steps=0)
    with pytest.raises(CheckpointError, match="stage 0"):
        run(WordsConfig(str(tmp_path), init=str(tmp_path / "none.pt")))
