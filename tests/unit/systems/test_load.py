"""Loading by name with types, devices, presets and overrides."""

from __future__ import annotations

import pytest
import torch

import videoseg
from videoseg.data.world.truth import read_truth
from videoseg.errors import UsageError
from videoseg.models.checkpoints.hub import ASSETS
from videoseg.systems import choose_device

DEMO = str(ASSETS / "tiny" / "demo.mp4")
QUERY = read_truth(ASSETS / "tiny" / "demo_truth.json")[0].query


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_type_runs(dtype: str) -> None:
    system = videoseg.load("tiny", dtype=dtype, device="cpu", max_new_tokens=200)
    result = system.segment(DEMO, QUERY)
    assert result.provenance["dtype"] == dtype
    assert result.provenance["model"]["name"] == "tiny"
    assert len(result.provenance["model"]["sha256"]["model.safetensors"]) == 64
    assert result.trace.turns[0].reply is not None


def test_a_device_map_spreads_the_language_model() -> None:
    pytest.importorskip("accelerate")
    placed = videoseg.load("tiny", device="cpu", device_map={"": "cpu"}).segment(DEMO, QUERY)
    plain = videoseg.load("tiny", device="cpu").segment(DEMO, QUERY)
    assert placed.masklets == plain.masklets


def test_overrides_reach_the_preset() -> None:
    system = videoseg.load("tiny", propagation="inject_once", max_turns=1)
    assert system.preset.propagation == "inject_once"
    assert system.preset.budget.max_turns == 1
    assert system.preset.budget.low_frames == videoseg.load("tiny").preset.budget.low_frames
    assert videoseg.load("tiny", preset="released").preset.keyframe_policy == "last_select"
    with pytest.raises(UsageError, match="bogus"):
        videoseg.load("tiny", bogus=1)


def test_sampling_is_the_same_for_the_same_seed() -> None:
    system = videoseg.load("tiny", temperature=8.0, seed=3, max_new_tokens=40)
    first, second = (system.segment(DEMO, QUERY).trace.turns[0].text for _ in range(2))
    other = videoseg.load("tiny", temperature=8.0, seed=4, max_new_tokens=40)
    assert first == second != other.segment(DEMO, QUERY).trace.turns[0].text


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_the_best_device_is_chosen(
    cuda: bool, mps: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert choose_device("auto") == chosen
    assert choose_device("cuda:1") == "cuda:1"


def test_masks_can_be_streamed() -> None:
    system = videoseg.load("tiny")
    whole = system.segment(DEMO, QUERY)
    streamed = list(system.stream(DEMO, QUERY))
    assert streamed[0].frame == whole.trace.keyframe
    (masklet,) = whole.masklets
    assert {m.frame: m.code for m in streamed} == dict(enumerate(masklet.rles))
