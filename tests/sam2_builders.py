"""A SAM2 small enough for unit tests, with weights large enough for differences to show."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from videoseg.models.sam2 import FrameFeatures, Sam2
from videoseg.models.sam2_config import sam2_config

MICRO: dict[str, Any] = {
    "trunk": "micro",
    "image_size": 32,
    "width": 64,
    "memory_layers": 1,
    "memory_mlp": 32,
    "decoder_mlp": 32,
    "iou_hidden": 32,
    "fuser_layers": 1,
    "fuser_mlp": 32,
}


@torch.no_grad()
def random_sam2(seed: int = 0, **overrides: Any) -> Sam2:
    """Random weights at fan-in scale; the tables that the library draws as zeros are random too."""
    torch.manual_seed(seed)
    sam2 = Sam2(sam2_config(**{**MICRO, **overrides}))
    for module in sam2.modules():
        if hasattr(module, "reset_parameters") and not isinstance(module, torch.nn.LayerNorm):
            module.reset_parameters()
    for name, parameter in sam2.model.named_parameters():
        if parameter.abs().max() < 1e-3 or name.endswith(".scale"):
            parameter.normal_(std=0.5)
    spread_heads(sam2)
    return sam2


def spread_heads(sam2: Sam2) -> None:
    """Centre and widen the presence and quality heads, so that both vary between frames and prompts."""
    features = random_features(sam2, 8)
    prompt = sam2.prompt_language(3 * torch.randn(8, sam2.width))
    masks = sam2.decode_all(features, sam2.unconditioned(features), prompt)
    decoder = sam2.model.mask_decoder
    widen(decoder.pred_obj_score_head.proj_out, slice(0, 1), masks.score[:, None])
    widen(decoder.iou_prediction_head.proj_out, slice(1, 4), masks.iou.logit())


def widen(layer: torch.nn.Linear, rows: slice, outputs: Tensor) -> None:
    """Rescale rows of a last layer so that their `outputs` [B, rows] have mean 0 and deviation 1."""
    scale = 1 / outputs.std(dim=0)
    layer.weight[rows] *= scale[:, None]
    layer.bias[rows] = (layer.bias[rows] - outputs.mean(dim=0)) * scale


def random_frames(count: int, seed: int = 0, height: int = 40, width: int = 60) -> np.ndarray:
    """uint8 [T, H, W, 3]: a bright rectangle moving over noise."""
    generator = np.random.default_rng(seed)
    frames = generator.integers(0, 120, (count, height, width, 3), dtype=np.uint8)
    for index, frame in enumerate(frames):
        left = index % (width - 15)
        frame[10:25, left : left + 15] += 120
    return frames


@torch.no_grad()
def random_features(sam2: Sam2, count: int, seed: int = 0, original: Sam2 | None = None) -> FrameFeatures:
    """Features of `count` random frames."""
    images = torch.stack([sam2.preprocess(frame) for frame in random_frames(count, seed)])
    return sam2.encode(images.to(sam2.dtype), original=original)
