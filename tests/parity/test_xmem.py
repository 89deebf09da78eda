"""XMem against the reference implementation (golden `xmem`): every probability, every memory size."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from conftest import golden_root
from videoseg.models.sam2 import MEAN, STD
from videoseg.models.xmem.memory import MemoryOptions
from videoseg.models.xmem.network import XMem
from videoseg.models.xmem.session import XMemSession
from videoseg.models.xmem.sizes import XMemSizes, infer_sizes

pytestmark = pytest.mark.parity

TOLERANCE = 1e-4


def recipe(name: str, shape: list[int], seed: str) -> Tensor:
    """The value of one parameter, as the fixture's README describes it."""
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}:{name}".encode()))
    u = torch.rand(shape, generator=generator) * 2 - 1
    if len(shape) > 1:
        gain = 6.0 if name == "key_proj.key_proj.weight" else 1.5
        return u * (3 * gain / u[0].numel()) ** 0.5
    if name.endswith("running_mean"):
        return 0.1 * u
    if name.endswith("running_var"):
        return 1 + 0.5 * u
    return 0.7 + 0.2 * u if name.endswith("weight") else 0.1 * u


class Fixture:
    def __init__(self, folder: Path) -> None:
        data = json.loads((folder / "cases.json").read_text())
        self.cases: dict[str, dict[str, Any]] = {case["name"]: case for case in data["cases"]}
        self.parameters = json.loads((folder / "parameters.json").read_text())
        self.inputs = load_file(folder / "inputs.safetensors")
        self.outputs = load_file(folder / "outputs.safetensors")
        self.state = {name: recipe(name, p["shape"], data["seed"]) for name, p in self.parameters.items()}
        self.xmem = XMem(infer_sizes(self.state)).eval()
        self.xmem.load_state_dict(self.state)


@pytest.fixture(scope="module")
def fixture(golden: Callable[[str], Path]) -> Fixture:
    return Fixture(golden("xmem"))


def case_names() -> list[str]:
    path = golden_root() / "xmem" / "cases.json"
    return [case["name"] for case in json.loads(path.read_text())["cases"]] if path.is_file() else ["absent"]


def frames_and_masks(fixture: Fixture, case: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Normalised images [T, 3, H, W] and object masks [2, N, H, W] of frames 0 and 5."""
    video = case["video"].removesuffix("_crop")
    frames, masks = fixture.inputs[f"frames.{video}"], fixture.inputs[f"masks.{video}"].float()
    rows, columns = (frames.shape[1] - case["height"]) // 2, (frames.shape[2] - case["width"]) // 2
    rows_kept = slice(rows, rows + case["height"])
    columns_kept = slice(columns, columns + case["width"])
    pixels = frames[:, rows_kept, columns_kept].permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    return (pixels - mean) / std, masks[:, :, rows_kept, columns_kept]


def options_of(config: dict[str, Any]) -> MemoryOptions:
    deep = config["deep_update_every"]
    return MemoryOptions(
        every=config["mem_every"],
        deep_every=None if deep < 0 else deep,
        top_k=config["top_k"],
        long_term=config["enable_long_term"],
        count_long=config["enable_long_term_count_usage"],
        max_frames=config["max_mid_term_frames"],
        min_frames=config["min_mid_term_frames"],
        prototypes=config["num_prototypes"],
        max_long=config["max_long_term_elements"],
    )


def given(case: dict[str, Any], masks: Tensor, frame: int) -> tuple[Tensor | None, list[int] | None]:
    """What `step` is told on a frame: masks, and whose they are."""
    if frame == 0:
        return masks[0] if case["objects"] == "both" else masks[0, :1], None
    if frame == 5 and case["objects"] == "later":
        return torch.stack([torch.zeros_like(masks[1, 0]), masks[1, 1]]), [1]
    return None, None


@pytest.mark.parametrize("name", case_names())
def test_every_probability(fixture: Fixture, name: str) -> None:
    case = fixture.cases[name]
    images, masks = frames_and_masks(fixture, case)
    session = XMemSession(fixture.xmem, options_of(case["config"]))
    expected = fixture.outputs[f"{name}.prob"]
    for frame in range(case["frames"]):
        with torch.no_grad():
            keys = fixture.xmem.encode_frame(images[frame][None])
        last = frame == case["frames"] - 1
        ours = session.step(keys, *given(case, masks, frame), last=last)
        assert_equal(ours, expected[frame][: len(ours)], f"{name}, frame {frame}")
        assert not expected[frame][len(ours) :].any()
        assert session.memory.tokens == tuple(case["memory_tokens_work_long"][frame])
    assert session.hidden is not None
    assert_equal(session.hidden[0], fixture.outputs[f"{name}.hidden_last"], f"{name}, hidden state")


def assert_equal(ours: Tensor, stored: Tensor, where: str) -> None:
    """Within `TOLERANCE` of the reference's float32, of which `stored` is the float16 rounding."""
    rounding = torch.finfo(torch.float16).eps / 2 * stored.float().abs()
    excess = (ours - stored.float().reshape(ours.shape)).abs() - rounding.reshape(ours.shape)
    assert float(excess.max()) < TOLERANCE, where


def test_parameter_names_and_shapes_are_official(fixture: Fixture) -> None:
    ours = {name: list(tensor.shape) for name, tensor in XMem(XMemSizes()).state_dict().items()}
    assert ours == {name: about["shape"] for name, about in fixture.parameters.items()}


def test_the_recipe_gives_the_weights_of_the_reference(fixture: Fixture) -> None:
    for name, about in fixture.parameters.items():
        total = float(fixture.state[name].double().abs().sum())
        assert total == pytest.approx(about["sum_abs"], rel=1e-5), name
