"""Checkpoints of R1: a Qwen2.5-VL or Qwen3-VL folder as its authors publish it, SAM2 and XMem beside it.

A folder of ours is a Qwen folder that also holds `sam2.safetensors` (Meta's names) and, in the `videoseg`
section of `config.json`, `system: r1`, the preset (`r1`) and SAM2's sizes (`sam2`).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen3VLForConditionalGeneration

from videoseg.dialogue.r1 import R1Preset
from videoseg.errors import CheckpointError, UsageError
from videoseg.models.checkpoints.folder import (
    checked_hashes,
    choose_dtype,
    load_text,
    read_json,
    sha256,
)
from videoseg.models.checkpoints.keys import require_complete
from videoseg.models.checkpoints.meta_sam2 import load_meta, read_state, save_meta
from videoseg.models.o3 import TextSide
from videoseg.models.quiet import quiet_transformers
from videoseg.models.r1 import R1Model
from videoseg.models.sam2 import Sam2
from videoseg.models.sam2_config import sam2_config
from videoseg.models.vlm import VLM, Network

NETWORKS: dict[str, Any] = {
    "qwen2_5_vl": Qwen2_5_VLForConditionalGeneration,
    "qwen3_vl": Qwen3VLForConditionalGeneration,
}
SAM2_FILE = "sam2.safetensors"
MEMORY = (
    "memory_attention",
    "memory_encoder",
    "maskmem_tpos_enc",
    "no_mem_pos_enc",
    "no_obj_ptr",
    "obj_ptr_",
)
"""What SAM2 needs to track, and R1 does without where XMem does it; prefixes of Meta's names."""


def load_reasoner(
    folder: Path,
    *,
    name: str | None = None,
    dtype: str = "auto",
    device: str = "cpu",
    device_map: str | Mapping[str, Any] | None = None,
    attention: str = "sdpa",
    hashes: Mapping[str, str] | None = None,
) -> tuple[VLM, TextSide]:
    """A stock or trained Qwen-VL folder, key-complete. Raises `CheckpointError`, `CheckpointKeysError`."""
    config = read_json(folder / "config.json")
    network = NETWORKS.get(config.get("model_type", ""))
    if network is None:
        raise CheckpointError(
            f"{folder}: model_type is {config.get('model_type')!r}; R1's reasoner is one of "
            f"{', '.join(NETWORKS)}"
        )
    text = load_text(folder, config)
    text.source.update({"name": name or folder.name, "sha256": checked_hashes(folder, hashes or {})})
    with quiet_transformers():
        model, report = network.from_pretrained(
            folder,
            dtype=choose_dtype(dtype, device),
            device_map=device_map,
            attn_implementation=attention,
            local_files_only=True,
            output_loading_info=True,
        )
    require_complete(report["missing_keys"], report["unexpected_keys"], f"{folder}")
    return VLM(model if device_map else model.to(device)).eval(), text


def load_r1_sam2(path: Path, *, image_size: int, dtype: str, device: str) -> Sam2:
    """SAM2 from Meta's file, or from a folder of ours, whose SAM2 may lack its memory."""
    if not path.is_dir():
        return load_meta(path, image_size=image_size, dtype=choose_dtype(dtype, device)).to(device)
    sizes = read_json(path / "config.json").get("videoseg", {}).get("sam2")
    if not isinstance(sizes, dict) or not (path / SAM2_FILE).exists():
        raise UsageError(f"{path} holds no SAM2 for R1: give sam2 (sam2_hiera_large.pt)")
    file = path / SAM2_FILE
    config, torch_dtype = sam2_config(**sizes), choose_dtype(dtype, device)
    return load_meta(file, config, dtype=torch_dtype, may_miss=MEMORY).to(device)


def has_memory(path: Path) -> bool:
    """Whether a SAM2 file, or that of a folder of ours, holds the parts that track."""
    state = read_state(path / SAM2_FILE if path.is_dir() else path)
    return any(name.startswith(MEMORY[0]) for name in state)


def r1_preset(config: Mapping[str, Any]) -> R1Preset:
    """The preset in a folder's configuration, or R1's defaults."""
    return R1Preset().override(**config.get("videoseg", {}).get("r1", {}))


def is_r1(folder: Path) -> bool:
    """Whether a checkpoint folder says that it is R1's."""
    return bool(read_json(folder / "config.json").get("videoseg", {}).get("system") == "r1")


def source_of(model: R1Model, sam2: Path) -> dict[str, Any]:
    """Names and hashes of the parts."""
    file = sam2 / SAM2_FILE if sam2.is_dir() else sam2
    parts: dict[str, Any] = {"sam2": {"name": file.name, "sha256": sha256(file)}}
    return parts | ({"xmem": model.xmem.source} if model.xmem else {})


def save_reasoner(
    vlm: VLM, text: TextSide, folder: Path, weights: Mapping[str, Tensor] | None = None
) -> Path:
    """Write a Qwen folder in bfloat16, with the `videoseg` section that `text` has.

    `weights` are those to write under the network's own names, if not its present ones.
    """
    network: Network = vlm.model
    halves: dict[int, Tensor] = {}
    state = {}
    for name, tensor in (network.state_dict() if weights is None else weights).items():
        # Tied tensors stay one.
        state[name] = halves.setdefault(tensor.data_ptr(), tensor.detach().to("cpu", torch.bfloat16))
    folder.mkdir(parents=True, exist_ok=True)
    with quiet_transformers():
        network.save_pretrained(folder, state_dict=state)
    config = read_json(folder / "config.json") | {"dtype": "bfloat16"}
    if "videoseg" in text.config:
        config["videoseg"] = text.config["videoseg"]
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for file, content in text.files.items():
        (folder / file).write_bytes(content)
    return folder


def save_r1(model: R1Model, folder: Path, *, sam2: dict[str, Any], memory: bool = True) -> Path:
    """Write a folder of ours in bfloat16; `sam2` are SAM2's sizes, whose memory may be left out."""
    if model.vlm is None or model.text is None:
        raise UsageError("a model whose reasoner is remote has nothing to save")
    section = {"system": "r1", **model.text.config.get("videoseg", {}), "sam2": sam2}
    text = replace(model.text, config={**model.text.config, "videoseg": section})
    save_reasoner(model.vlm, text, folder)
    half = copy.deepcopy(model.sam2).to(torch.bfloat16)
    save_meta(half, folder / SAM2_FILE, leave_out=() if memory else MEMORY)
    return folder
