"""Where a result comes from: versions, commit, checkpoint, preset, time and memory (design contract 8)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from videoseg.dialogue.preset import Preset
from videoseg.dialogue.r1 import R1Preset
from videoseg.machine import peak_memory_mb, versions

PACKAGES = ("torch", "transformers", "numpy", "pillow", "av", "pycocotools")


def provenance(
    model: nn.Module, source: dict[str, Any], preset: Preset | R1Preset, seed: int, seconds: float
) -> dict[str, Any]:
    """A JSON-ready record of how a result was made; `source` tells where the weights are from."""
    first = next(model.parameters())
    return {
        **versions(PACKAGES),
        "model": source,
        "preset": asdict(preset),
        "device": str(first.device),
        "dtype": str(first.dtype).removeprefix("torch."),
        "seed": seed,
        "seconds": round(seconds, 3),
        "peak_memory_mb": peak_memory_mb(),
        "peak_device_memory_mb": peak_device_memory_mb(first.device),
    }


def peak_device_memory_mb(device: torch.device) -> float | None:
    """Most memory that tensors took on a CUDA device so far, in MB (2**20 bytes); None elsewhere."""
    if device.type != "cuda":
        return None
    return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
