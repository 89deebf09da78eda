"""The systems, ready to use: `load` a checkpoint, `segment` a video."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from videoseg.dialogue.preset import preset as named_preset
from videoseg.errors import UsageError
from videoseg.models.checkpoints.folder import load_folder
from videoseg.models.checkpoints.hub import known_hashes, resolve
from videoseg.models.checkpoints.meta_sam2 import read_state, to_transformers
from videoseg.models.checkpoints.r1 import (
    has_memory,
    is_r1,
    load_r1_sam2,
    load_reasoner,
    r1_preset,
    source_of,
)
from videoseg.models.checkpoints.xmem import BUNDLED, load_xmem
from videoseg.models.r1 import R1Model
from videoseg.models.remote_types import ChatSettings
from videoseg.models.session import RandomSampler, Sampler, greedy
from videoseg.systems.o3 import O3System
from videoseg.systems.r1 import R1System
from videoseg.systems.reasoner import LocalReasoner, Reasoner, RemoteReasoner
from videoseg.types import Query

__all__ = ["O3System", "R1System", "load", "load_r1", "segment"]


def load(model: str = "tiny", *, system: str | None = None, **options: Any) -> O3System | R1System:
    """Load a system by name, folder, Hugging Face or ModelScope id (see `checkpoints.hub.resolve`).

    `system` is `o3` or `r1`; without it the checkpoint tells. `options` are those of `load_o3` or `load_r1`.
    Raises `CheckpointError` and `UsageError`.
    """
    if system not in (None, "o3", "r1"):
        raise UsageError(f"unknown system {system!r}; choose o3 or r1")
    if system is None:
        system = "r1" if options.get("endpoint") or is_r1(resolve(model)) else "o3"
    options = {name: value for name, value in options.items() if value is not None}
    if system == "r1":
        if not options.get("temperature"):  # greedy is how R1 answers; its votes have their own
            options.pop("temperature", None)
        return load_r1(bundled_r1(model), **options)
    if unfit := {"endpoint", "sam2"} & set(options):
        raise UsageError(f"{' and '.join(sorted(unfit))} go with system r1")
    return load_o3(model, **options)


def bundled_r1(model: str) -> str:
    """The bundled R1 model where the bundled model was asked for."""
    return "tiny-r1" if model == "tiny" else model


def load_r1(
    model: str = "tiny-r1",
    *,
    sam2: str | None = None,
    xmem: str | None = None,
    endpoint: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    device_map: Any = None,
    attention: str = "sdpa",
    seed: int = 0,
    sam2_image_size: int = 1024,
    **overrides: Any,
) -> R1System:
    """R1 with a Qwen2.5-VL or Qwen3-VL `model`, or with one behind `endpoint` (an address up to `/v1`).

    `sam2` is Meta's file (SAM 2.0 large in the paper) or one of our folders, and by default that of the
    model's folder; `xmem` likewise (`XMem.pth`). `overrides` are fields of `R1Preset`. Raises
    `CheckpointError` and `UsageError`.
    """
    place, folder = choose_device(device), None if endpoint else resolve(model)
    reasoner: Reasoner
    parts: dict[str, Any] = {}
    preset = r1_preset({})
    if folder is None:
        name = None if model == "tiny-r1" else model
        reasoner = RemoteReasoner(ChatSettings.from_environment(endpoint, name))
    else:
        vlm, text = load_reasoner(
            folder,
            name=model,
            device=place,
            dtype=dtype,
            device_map=device_map,
            attention=attention,
            hashes=known_hashes(model),
        )
        preset, parts = r1_preset(text.config), {"vlm": vlm, "text": text}
        reasoner = LocalReasoner(vlm, text)
    preset = preset.override(**overrides)
    if sam2 is None and folder is None:
        raise UsageError("an endpoint gives no masks: give sam2 (sam2_hiera_large.pt, or tiny-r1)")
    decoder = folder if sam2 is None else resolve(sam2) if sam2 == "tiny-r1" else Path(sam2)
    if decoder is None or not decoder.exists():
        raise UsageError(f"sam2: {decoder} does not exist")
    network = R1Model(
        load_r1_sam2(decoder, image_size=sam2_image_size, dtype=dtype, device=place),
        xmem=load_xmem(tracker_weights(model, xmem), device=place) if preset.tracker == "xmem" else None,
        memory=has_memory(decoder),
        **parts,
    )
    network.source = source_of(network, decoder)
    return R1System(network, reasoner, preset, seed=seed)


def load_o3(
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
    xmem: str | None = None,
    **overrides: Any,
) -> O3System:
    """O3 by name, folder, Hugging Face or ModelScope id.

    `preset` is `default` or `released`; without it the checkpoint's own is used. `overrides` are fields
    of `Preset` or `Budget`, for example `propagation="per_frame"` or `max_turns=1`. `temperature` 0 is
    greedy. `original_sam2` names Meta's unmodified SAM2 weights for `propagation="original_sam2"`, `xmem` the
    weights (`XMem.pth`, a folder or `tiny-xmem`) for `tracker="xmem"`.
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
    chosen = (named_preset(preset) if preset else network.text.preset).override(**overrides)
    if chosen.tracker == "xmem":
        network.xmem = load_xmem(tracker_weights(model, xmem), device=choose_device(device))
        network.text.source["xmem"] = network.xmem.source
    sampler: Sampler = RandomSampler(temperature, seed=seed) if temperature > 0 else greedy
    return O3System(network, chosen, sampler=sampler, seed=seed)


def tracker_weights(model: str, xmem: str | None) -> str:
    """Where XMem's weights are: what was given, or the bundled ones for the bundled models."""
    if xmem is None and not model.startswith("tiny"):
        raise UsageError(f"tracker xmem needs weights that know real video for {model}: give xmem (XMem.pth)")
    return xmem or BUNDLED


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
