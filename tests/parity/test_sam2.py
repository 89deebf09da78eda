"""Stock SAM2 video propagation against Meta's predictor (golden `sam2`): boxes, clicks, masks, gate on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco
from safetensors.torch import load_file
from torch.nn import functional as F

from conftest import golden_root
from videoseg.models.checkpoints.meta_sam2 import from_state, to_meta, to_transformers
from videoseg.models.sam2 import FrameFeatures, MaskPrediction, PromptTokens, Sam2
from videoseg.models.sam2_config import Trunk, infer_config
from videoseg.tracking.sam2 import Propagation, Sam2Tracker, TrackingOptions

pytestmark = pytest.mark.parity

TOLERANCE = {  # mean and maximum of the logits, maximum of pointer and score, share of mask pixels
    "clean": (2e-4, 5e-2, 5e-2, 5e-4),
    "plain": (2e-2, 0.5, 0.2, 2e-3),
}


class Fixture:
    def __init__(self, folder: Path) -> None:
        data = json.loads((folder / "cases.json").read_text())
        self.cases = {case["name"]: case for case in data["cases"]}
        self.size = data["config"]["image_size"]
        self.inputs = load_file(folder / "inputs.safetensors")
        self.outputs = load_file(folder / "outputs.safetensors")
        self.masks = json.loads((folder / "masks.json").read_text())
        self.official = load_file(folder / "model.safetensors")
        self.sam2 = self._load(data["config"]["trunk"])
        self._features: dict[str, FrameFeatures] = {}

    def _load(self, trunk: dict[str, Any]) -> Sam2:
        shape = Trunk(
            trunk["embed_dim"],
            trunk["num_heads"],
            tuple(trunk["stages"]),
            tuple(trunk["global_att_blocks"]),
            tuple(trunk["window_spec"]),
            tuple(trunk["window_pos_embed_bkg_spatial_size"]),
        )
        state = to_transformers({name: tensor.float() for name, tensor in self.official.items()})
        return from_state(state, infer_config(state, self.size, shape), "golden sam2")

    def features(self, video: str) -> FrameFeatures:
        if video not in self._features:
            frames = self.inputs[f"frames.{video}"].numpy()
            images = torch.stack([self.sam2.preprocess(frame) for frame in frames])
            self._features[video] = self.sam2.encode(images)
        return self._features[video]


@pytest.fixture(scope="module")
def fixture(golden: Callable[[str], Path]) -> Fixture:
    with torch.inference_mode():
        return Fixture(golden("sam2"))


def case_names() -> list[str]:
    path = golden_root() / "sam2" / "cases.json"
    return [case["name"] for case in json.loads(path.read_text())["cases"]] if path.is_file() else ["absent"]


def prompt_of(fixture: Fixture, case: dict[str, Any], target: dict[str, Any]) -> PromptTokens:
    if "mask" in target:
        return fixture.sam2.prompt_mask(fixture.inputs[target["mask"]][None])
    height, width = case["frame_size_hw"]
    scale = torch.tensor([fixture.size / width, fixture.size / height])
    points = torch.tensor(target.get("points", []), dtype=torch.float32).reshape(1, -1, 2) * scale
    labels = torch.tensor(target.get("labels", []), dtype=torch.int64).reshape(1, -1)
    if "box" not in target:
        return fixture.sam2.prompt_points(points, labels)
    box = torch.tensor(target["box"], dtype=torch.float32).reshape(1, 2, 2) * scale
    return fixture.sam2.prompt_box(box.reshape(1, 4), points, labels)


def batched(prompts: list[PromptTokens]) -> PromptTokens | None:
    """All prompts as one, if they are alike."""
    first = prompts[0]
    if any(p.sparse.shape != first.sparse.shape or p.multimask != first.multimask for p in prompts):
        return None
    masks = [p.mask for p in prompts if p.mask is not None]
    return PromptTokens(
        torch.cat([p.sparse for p in prompts]),
        torch.cat([p.dense for p in prompts]),
        first.multimask,
        first.clicked,
        torch.cat(masks) if masks else None,
    )


def track(
    fixture: Fixture, case: dict[str, Any], prompt: PromptTokens, exact: bool
) -> dict[int, MaskPrediction]:
    options = TrackingOptions(gate=True, binarize=case["binarize_mask_from_pts_for_mem_enc"], exact=exact)
    count, start = case["num_frames"], case["start_frame"]
    tracker = Sam2Tracker(fixture.sam2, Propagation.INJECT_ONCE, num_frames=count, options=options)
    features = fixture.features(case["video"])
    found = {start: tracker.start(features.select([start]), prompt, start)}
    for frame in [*range(start + 1, count), *range(start - 1, -1, -1)]:
        found[frame] = tracker.step(features.select([frame]), frame)
    return found


def run_case(fixture: Fixture, name: str, exact: bool) -> dict[str, torch.Tensor]:
    """low_res_logits [T, N, h, w], object_score [T, N] and object_pointer [T, N, C]."""
    case = fixture.cases[name]
    assert all(target["frame"] == case["start_frame"] for target in case["objects"])
    decoder = fixture.sam2.model.mask_decoder
    decoder.dynamic_multimask_via_stability = case["dynamic_multimask_via_stability"]
    prompts = [prompt_of(fixture, case, target) for target in case["objects"]]
    together = batched(prompts)
    runs = [track(fixture, case, p, exact) for p in ([together] if together else prompts)]
    frames = range(case["num_frames"])

    def stack(field: str) -> torch.Tensor:
        return torch.stack([torch.cat([getattr(run[t], field) for run in runs]) for t in frames])

    return {
        "low_res_logits": stack("logits")[:, :, 0],
        "object_score": stack("score"),
        "object_pointer": stack("pointer"),
    }


@pytest.mark.parametrize("variant", ["clean", "plain"])
@pytest.mark.parametrize("name", case_names())
@torch.inference_mode()
def test_propagation(fixture: Fixture, name: str, variant: str) -> None:
    found = run_case(fixture, name, exact=variant == "clean")
    suffix = "_clean" if variant == "clean" else ""
    expected = {key: fixture.outputs[f"{name}.{key}{suffix}"].float() for key in found}
    mean, maximum, vector, share = TOLERANCE[variant]
    present = (found["object_score"] > 0) | (expected["object_score"] > 0)
    assert torch.equal(found["object_score"] > 0, expected["object_score"] > 0)
    difference = (found["low_res_logits"] - expected["low_res_logits"]).abs()[present]
    assert difference.mean() <= mean
    assert difference.max() <= maximum
    assert (found["low_res_logits"] == -1024)[~present].all()
    torch.testing.assert_close(found["object_score"], expected["object_score"], atol=vector, rtol=0)
    torch.testing.assert_close(found["object_pointer"], expected["object_pointer"], atol=vector, rtol=2e-3)
    check_masks(fixture, name, found["low_res_logits"], f"masks{suffix}", share)


def check_masks(fixture: Fixture, name: str, logits: torch.Tensor, key: str, share: float) -> None:
    size = fixture.cases[name]["frame_size_hw"]
    found = F.interpolate(logits, size=size, mode="bilinear", align_corners=False).numpy() > 0
    codes = fixture.masks[name][key]
    expected = np.stack([[coco.decode(code) for code in frame] for frame in codes]).astype(bool)
    assert (found != expected).sum() <= max(2, share * expected.size)


@torch.inference_mode()
def test_every_switch_matters(fixture: Fixture) -> None:
    """Both switches reach the tracked frames, whatever the weights make of them."""
    boxed = [
        (case, target)
        for case in fixture.cases.values()
        for target in case["objects"]
        if case["num_frames"] > 1 and "box" in target
    ]
    if not boxed:
        pytest.skip("no video was recorded with a box")
    case, target = {**boxed[0][0], "binarize_mask_from_pts_for_mem_enc": True}, boxed[0][1]
    prompt = prompt_of(fixture, case, target)
    right = track(fixture, case, prompt, exact=True)
    soft = track(fixture, {**case, "binarize_mask_from_pts_for_mem_enc": False}, prompt, exact=True)
    rounded = track(fixture, case, prompt, exact=False)
    for other in (soft, rounded):
        assert any(not torch.equal(right[t].logits, other[t].logits) for t in right)


def test_the_reference_is_not_all_empty(fixture: Fixture) -> None:
    codes = [code for case in fixture.masks.values() for frame in case["masks"] for code in frame]
    assert any(coco.area(code) for code in codes)


def test_official_names_come_back(fixture: Fixture) -> None:
    state = to_meta(fixture.sam2.model.state_dict())
    assert state.keys() == fixture.official.keys()
    assert all(torch.equal(state[name], tensor.float()) for name, tensor in fixture.official.items())
