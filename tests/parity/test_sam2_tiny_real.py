"""Image prediction with Meta's published hiera-tiny weights (golden `sam2_tiny_real`)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from videoseg.models.checkpoints.meta_sam2 import load_meta
from videoseg.models.sam2 import MEAN, STD, AllMasks, FrameFeatures, PromptTokens, Sam2

pytestmark = pytest.mark.parity


class Fixture:
    """The model, and per image its features and prompts."""

    def __init__(self, folder: Path) -> None:
        data = json.loads((folder / "cases.json").read_text())
        architecture = data["architecture"]
        self.tensors = load_file(folder / "cases.safetensors")
        self.images = {image["image"]: image for image in data["images"]}
        self.sam2 = load_meta(
            folder / "model.safetensors",
            image_size=architecture["image_size"],
            may_miss=data["missing_tensor_prefixes"],
        )
        self.features = {name: self.sam2.encode(self._input(name)) for name in self.images}

    def _input(self, name: str) -> Tensor:
        """The reference's resizing: bilinear with antialiasing on floats, unlike the video predictor's."""
        image = self.tensors[f"{name}.image"].permute(2, 0, 1)[None].float() / 255
        size = (self.sam2.image_size, self.sam2.image_size)
        image = F.interpolate(image, size=size, mode="bilinear", antialias=True, align_corners=False)
        return (image - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


@pytest.fixture(scope="module")
def fixture(golden: Callable[[str], Path]) -> Fixture:
    with torch.inference_mode():
        return Fixture(golden("sam2_tiny_real"))


def prompt_of(sam2: Sam2, image: dict[str, Any], prompt: dict[str, Any]) -> PromptTokens:
    scale = torch.tensor([sam2.image_size / image["width"], sam2.image_size / image["height"]])
    points = torch.tensor(prompt.get("point_coords", []), dtype=torch.float32).reshape(1, -1, 2) * scale
    labels = torch.tensor(prompt.get("point_labels", []), dtype=torch.int64).reshape(1, -1)
    if "box" in prompt:
        box = torch.tensor(prompt["box"], dtype=torch.float32).reshape(1, 2, 2) * scale
        tokens = sam2.prompt_box(box.reshape(1, 4), points, labels)
    else:
        tokens = sam2.prompt_points(points, labels)
    return replace(tokens, multimask=prompt["multimask_output"])


def decode(sam2: Sam2, features: FrameFeatures, tokens: PromptTokens) -> AllMasks:
    return sam2.decode_all(features, sam2.unconditioned(features), tokens)


@torch.inference_mode()
def test_image_embedding(fixture: Fixture) -> None:
    assert fixture.images
    for name, features in fixture.features.items():
        expected = fixture.tensors[f"{name}.image_embed_every_8th"]
        found = fixture.sam2.unconditioned(features)[0]
        step = found.shape[-1] // expected.shape[-1]
        torch.testing.assert_close(found[:, ::step, ::step], expected, atol=1e-3, rtol=0)


@torch.inference_mode()
def test_masks_of_every_prompt(fixture: Fixture) -> None:
    for name, image in fixture.images.items():
        for prompt in image["prompts"]:
            tokens = prompt_of(fixture.sam2, image, prompt)
            masks = decode(fixture.sam2, fixture.features[name], tokens)
            expected = fixture.tensors[f"{name}.{prompt['name']}.low_res_logits"].float()
            found = masks.logits[0].clamp(-32, 32)
            torch.testing.assert_close(found, expected, atol=2e-2, rtol=0)
            torch.testing.assert_close(masks.iou[0], torch.tensor(prompt["predicted_iou"]), atol=1e-4, rtol=0)
            size = (image["height"], image["width"])
            full = F.interpolate(masks.logits, size=size, mode="bilinear", align_corners=False)[0] > 0
            codes = np.stack([coco.decode(code) for code in prompt["masks"]]).astype(bool)
            assert (full.numpy() != codes).mean() <= 5e-4
