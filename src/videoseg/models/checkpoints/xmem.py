"""Checkpoints of XMem: the official `XMem.pth` and our folders, both with the official names (R1 spec §6)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from videoseg.errors import CheckpointError, UsageError
from videoseg.models.checkpoints.folder import read_json, sha256
from videoseg.models.checkpoints.keys import require_complete
from videoseg.models.checkpoints.meta_sam2 import read_state
from videoseg.models.xmem.network import STRIDE, XMem
from videoseg.models.xmem.sizes import infer_sizes

BUNDLED = "tiny-xmem"
ASSETS = Path(__file__).parents[2] / "assets"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
SINGLE_OBJECT_PLANES = 4
PUBLISHED_SIZE = 480


def load_xmem(source: str | os.PathLike[str] = BUNDLED, *, device: str = "cpu") -> XMem:
    """XMem in float32 and evaluation mode from `tiny-xmem`, a folder, or a file (`XMem.pth`, safetensors).

    A file alone is tracked at the published 480 pixels. Raises CheckpointError where it cannot be read and
    CheckpointKeysError where a tensor is missing or left over.
    """
    path = ASSETS / BUNDLED if str(source) == BUNDLED else Path(source)
    file, size = (path / WEIGHTS, _image_size(path / CONFIG)) if path.is_dir() else (path, PUBLISHED_SIZE)
    xmem = from_state(read_state(file), str(source), image_size=size).to(device)
    xmem.source = {"name": str(source), "sha256": sha256(file)}
    return xmem


def _image_size(config: Path) -> int:
    size = read_json(config).get("image_size")
    if not isinstance(size, int) or size < STRIDE:
        raise CheckpointError(f"{config}: image_size must be an integer of at least {STRIDE}, got {size!r}")
    return size


def from_state(state: Mapping[str, Tensor], where: str, *, image_size: int = PUBLISHED_SIZE) -> XMem:
    """The network that holds `state`, whose sizes are deduced; `where` names its origin in errors."""
    xmem = XMem(infer_sizes(state), image_size).eval()
    if state["value_encoder.conv1.weight"].shape[1] == SINGLE_OBJECT_PLANES:
        raise CheckpointError(f"{where}: these weights are for single objects; use the multi-object XMem.pth")
    try:
        missing, unexpected = xmem.load_state_dict(dict(state), strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"the weights of {where} do not fit XMem: {error}") from error
    require_complete(missing, unexpected, where)
    return xmem


def save_xmem(xmem: XMem, path: str | os.PathLike[str]) -> None:
    """Write the official layout (`.pth`: the bare state dict, float32) or a folder of ours (bfloat16).

    Statistics of the batch norms stay float32 in the folder.
    """
    path = Path(path)
    state = {name: value.detach().cpu().contiguous() for name, value in xmem.state_dict().items()}
    if path.suffix in (".pth", ".pt"):
        torch.save(state, path)
    elif path.suffix:
        raise UsageError(f"cannot save XMem as {path.name}: use .pth or a folder")
    else:
        path.mkdir(parents=True, exist_ok=True)
        save_file({name: _half(name, value) for name, value in state.items()}, path / WEIGHTS)
        config = {"image_size": xmem.image_size, "sizes": asdict(xmem.sizes)}
        (path / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def _half(name: str, value: Tensor) -> Tensor:
    return value if "running" in name or not value.is_floating_point() else value.bfloat16()
