"""The systems, ready to use: `load` a checkpoint, `segment` a video."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch

from videoseg.dialogue.preset import preset as named_preset
from videoseg.errors import UsageError
from videoseg.models.checkpoints.folder import load_folder
from videoseg.models.checkpoints.hub import known_hashes, resolve
from videoseg.models.checkpoints.meta_sam2 import read_state, to_transformers
from videoseg.models.session import RandomSampler, Sampler, greedy
from videoseg.systems.o3 import O3System
from videoseg.types import Query

__all__ = ["O3System", "load", "segment"]


def load(
    model: str = "tiny",
    *,
    preset: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    device_map: Any = None,
    attention: str = "sdpa",
    seed: int = 0,
    temperature: float = 0.0,
    sam2_image_size: int = 1024,
    original_sam2: str | None = None,
    **overrides: Any,
) -> O3System:
    """Load a system by name, folder, Hugging Face or ModelScope id (see `checkpoints.hub.resolve`).

    `preset` is `default` or `released`; without it the checkpoint's own is used. `overrides` are fields
    of `Preset` or `Budget`, for example `propagation="per_frame"` or `max_turns=1`. `temperature` 0 is
    greedy. `original_sam2` names Meta's unmodified SAM2 weights for `propagation="original_sam2"`.
    Raises `CheckpointError` and `UsageError`.
    """
    if device_map and find_spec("accelerate") is None:
        raise UsageError("device_map needs accelerate; install `videoseg[train]`")
    network = load_folder(
        resolve(model),
        name=model,
        device=choose_device(device),
        dtype=dtype,
        device_map=device_map,
        attention=attention,
        sam2_image_size=sam2_image_size,
        hashes=known_hashes(model),
    )
    if original_sam2:
        network.original_sam2 = network.sam2.with_decoder(to_transformers(read_state(original_sam2)))
    chosen = named_preset(preset) if preset else network.text.preset
    sampler: Sampler = RandomSampler(temperature, seed=seed) if temperature > 0 else greedy
    return O3System(network, chosen.override(**overrides), sampler=sampler, seed=seed)


def choose_device(device: str = "auto") -> str:
    """`auto` is the first CUDA device, else Apple's, else the CPU."""
    if device != "auto":
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def segment(
    source: Any, query: str | Query | Sequence[str | Query], model: str = "tiny", **options: Any
) -> Any:
    """`load(model, **options).segment(source, query)` in one call."""
    return load(model, **options).segment(source, query)
