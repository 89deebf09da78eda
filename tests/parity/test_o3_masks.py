"""Masks of the released O3 inference from its [SEG] embeddings (golden `o3`), both injection modes."""

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
from torch import Tensor

from conftest import golden_root
from videoseg.models.checkpoints.meta_sam2 import from_state, to_transformers
from videoseg.models.sam2 import FrameFeatures, Sam2
from videoseg.models.sam2_config import infer_config
from videoseg.tracking.sam2 import Propagation, TrackingJob, TrackingOptions, propagate, propagate_many

pytestmark = pytest.mark.parity

PREFIX = "grounding_encoder.sam2_model."
MODES = {"once": Propagation.INJECT_ONCE, "per_frame": Propagation.INJECT_EVERY_FRAME}
VARIANTS = {  # suffix of the names; mean and maximum of the logits; share of mask pixels
    "clean": ("_clean", 2e-4, 1e-3, 1e-4),
    "plain": ("", 2e-3, 5e-2, 5e-4),
}


class Fixture:
    def __init__(self, folder: Path) -> None:
        self.cases = folder / "cases"
        self.frames = load_file(folder / "frames.safetensors")
        official = load_file(folder / "checkpoint" / "model.safetensors")
        state = {
            name.removeprefix(PREFIX): tensor.float()
            for name, tensor in official.items()
            if name.startswith(PREFIX)
        }
        state = to_transformers(state)
        side = 4 * self._any_output()["low_res_logits"].shape[-1]
        self.sam2: Sam2 = from_state(state, infer_config(state, side), "golden o3")
        self._features: dict[tuple[str, bool], FrameFeatures] = {}

    def _any_output(self) -> dict[str, Tensor]:
        recorded = [path for mode in MODES for path in sorted(self.cases.glob(f"*/{mode}.safetensors"))]
        if not recorded:
            pytest.skip("no masks were recorded")
        return load_file(recorded[0])

    def dialogue(self, case: str) -> dict[str, Any]:
        return json.loads((self.cases / case / "dialogue.json").read_text())

    def embedding(self, case: str) -> Tensor:
        return load_file(self.cases / case / "dialogue.safetensors")["seg_embedding"][None]

    def features(self, video: str, exact: bool) -> Callable[[int], FrameFeatures]:
        if (video, exact) not in self._features:
            images = [
                self.sam2.preprocess(frame, exact_normalization=exact) for frame in self.frames[video].numpy()
            ]
            self._features[video, exact] = self.sam2.encode(torch.stack(images))
        frames = self._features[video, exact]
        return lambda index: frames.select([index])


@pytest.fixture(scope="module")
def fixture(golden: Callable[[str], Path]) -> Fixture:
    with torch.inference_mode():
        return Fixture(golden("o3"))


def runs() -> list[tuple[str, str]]:
    cases = golden_root() / "o3" / "cases"
    files = [path for mode in MODES for path in cases.glob(f"*/{mode}.safetensors")]
    return sorted((path.parent.name, path.stem) for path in files) or [("absent", "once")]


def track(fixture: Fixture, case: str, mode: str, exact: bool) -> dict[str, Tensor]:
    info = fixture.dialogue(case)
    found = dict(
        propagate(
            fixture.sam2,
            fixture.features(info["video"], exact),
            info["num_frames"],
            info["keyframe_index"],
            fixture.embedding(case),
            MODES[mode],
            options=TrackingOptions(exact=exact),
        )
    )
    masks = [found[frame] for frame in range(info["num_frames"])]
    return {
        "low_res_logits": torch.cat([m.logits for m in masks])[:, 0],
        "predicted_iou": torch.cat([m.all_iou for m in masks]),
        "object_score": torch.cat([m.score for m in masks]),
        "object_pointer": torch.cat([m.pointer for m in masks]),
    }


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("case", "mode"), runs())
@torch.inference_mode()
def test_masks(fixture: Fixture, case: str, mode: str, variant: str) -> None:
    suffix, mean, maximum, share = VARIANTS[variant]
    expected = load_file(fixture.cases / case / f"{mode}.safetensors")
    found = track(fixture, case, mode, exact=variant == "clean")
    difference = (found["low_res_logits"] - expected[f"low_res_logits{suffix}"].float()).abs()
    assert difference.mean() <= mean
    assert difference.max() <= maximum
    if variant == "plain":  # the other outputs were stored for the official arithmetic only
        for name, atol in (("predicted_iou", 2e-3), ("object_score", 1e-2), ("object_pointer", 1e-2)):
            torch.testing.assert_close(found[name], expected[name].float(), atol=atol, rtol=1e-3)
    check_masks(fixture, case, f"{mode}_masks.json", found["low_res_logits"], f"masks{suffix}", share)


def check_masks(fixture: Fixture, case: str, file: str, logits: Tensor, key: str, share: float) -> None:
    codes = json.loads((fixture.cases / case / file).read_text())[key]
    expected = np.stack([coco.decode(code) for code in codes]).astype(bool)
    size = tuple(fixture.dialogue(case)["frame_size_hw"])
    found = fixture.sam2.upsample(logits[:, None], size).numpy() > 0
    different = (found != expected).sum()
    assert different <= max(2, share * expected.size)
    # of small masks a single pixel is more than a thousandth
    assert different <= max(2, 1e-3 * (found | expected).sum())


@torch.inference_mode()
def test_input_of_sam2(fixture: Fixture) -> None:
    """Resizing and normalisation, bit by bit."""
    found = 0
    for path in fixture.cases.glob("*/*.safetensors"):
        tensors = load_file(path)
        for suffix, exact in (("", False), ("_clean", True)):
            if f"sam_input_frame0{suffix}" not in tensors:
                continue
            frame = fixture.frames[fixture.dialogue(path.parent.name)["video"]][0].numpy()
            ours = fixture.sam2.preprocess(frame, exact_normalization=exact)
            assert torch.equal(ours, tensors[f"sam_input_frame0{suffix}"])
            found += 1
    if not found:
        pytest.skip("no input of SAM2 was recorded")


@torch.inference_mode()
def test_several_queries_share_one_video(fixture: Fixture) -> None:
    """Queries with other keyframes, carried together, get the masks they get alone."""
    by_keyframe: dict[str, dict[int, str]] = {}
    for case, mode in runs():
        if mode == "once":
            info = fixture.dialogue(case)
            by_keyframe.setdefault(info["video"], {})[info["keyframe_index"]] = case
    video, chosen = max(by_keyframe.items(), key=lambda item: len(item[1]), default=("", {}))
    cases = list(chosen.values())[:3]
    if len(cases) < 2:
        pytest.skip("no video was recorded with two keyframes")
    jobs = [TrackingJob(key, fixture.embedding(case)) for key, case in list(chosen.items())[:3]]
    calls: list[int] = []
    features = fixture.features(video, False)

    def counted(index: int) -> FrameFeatures:
        calls.append(index)
        return features(index)

    count = len(fixture.frames[video])
    for number, frame, masks in propagate_many(fixture.sam2, counted, count, jobs, Propagation.INJECT_ONCE):
        expected = load_file(fixture.cases / cases[number] / "once.safetensors")["low_res_logits"][frame]
        assert (masks.logits[0, 0] - expected.float()).abs().max() <= 5e-2
    assert max(calls.count(frame) for frame in set(calls)) <= 2
