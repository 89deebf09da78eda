"""The mask log-likelihood m and its gradient equal the official ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from videoseg.errors import AlignmentError
from videoseg.training.calibration import Calibration, TurnMasks, dialogue_values, mask_log_likelihood

pytestmark = pytest.mark.parity
M_TOLERANCE, GRADIENT_TOLERANCE = 1e-6, 1e-8
THRESHOLDS = {"thr05": 0.5, "thr0": 0.0}

Fixture = tuple[dict[str, Any], dict[str, Tensor]]


@pytest.fixture
def fixture(golden: Callable[[str], Path]) -> Fixture:
    folder = golden("calibration")
    return json.loads((folder / "cases.json").read_text()), load_file(folder / "cases.safetensors")


def _settings(table: dict[str, Any], name: str) -> Calibration:
    assert table["grid"][0] == table["grid"][1]
    return Calibration(threshold=THRESHOLDS[name], grid=table["grid"][0])


@pytest.mark.parametrize("name", THRESHOLDS)
def test_every_case(fixture: Fixture, name: str) -> None:
    table, tensors = fixture
    assert table["cases"]
    for key in (case["key"] for case in table["cases"]):
        policy = tensors[f"{key}.policy"].clone().requires_grad_()
        m = mask_log_likelihood(policy, tensors[f"{key}.rollout"], _settings(table, name))
        (gradient,) = torch.autograd.grad(m.sum(), policy)
        assert (m - tensors[f"{key}.m_{name}"]).abs().max() <= M_TOLERANCE, key
        assert (gradient - tensors[f"{key}.grad_{name}"]).abs().max() <= GRADIENT_TOLERANCE, key


@pytest.mark.parametrize("name", THRESHOLDS)
def test_the_batch(fixture: Fixture, name: str) -> None:
    table, tensors = fixture
    samples, expected = table["batch"]["samples"], table["batch"]["expected_m"][name]
    settings = _settings(table, name)
    assert len(samples) == len(expected) > 0
    for sample, wanted in zip(samples, expected, strict=True):
        turns = [_turn(turn, tensors) for turn in sample]
        values = dialogue_values(turns, settings, mismatch="zero")
        assert len(values) == len(wanted)
        assert torch.allclose(values, torch.tensor(wanted), rtol=0, atol=M_TOLERANCE)
        if any(_disagrees(turn) for turn in turns):
            with pytest.raises(AlignmentError):
                dialogue_values(turns, settings)
        else:
            assert torch.equal(dialogue_values(turns, settings), values)


def _turn(turn: dict[str, Any], tensors: dict[str, Tensor]) -> TurnMasks:
    policy, rollout = (None if turn[part] is None else tensors[turn[part]] for part in ("policy", "rollout"))
    return TurnMasks(turn["count"], policy, rollout)


def _disagrees(turn: TurnMasks) -> bool:
    if turn.policy is None or turn.rollout is None:
        return False
    return not len(turn.policy) == len(turn.rollout) == turn.count
