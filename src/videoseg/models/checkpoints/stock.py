"""Stock Qwen3-VL and stock SAM2 joined into an untrained O3 model, and taken apart again.

This is where SFT starts (O3 specification §5, §10): the O3 tokens are added, the embedding is resized to
the tokenizer and untied from the head, the projector is new.
"""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from videoseg.dialogue.budget import ImageGeometry
from videoseg.errors import CheckpointError
from videoseg.models.checkpoints.folder import (
    TEXT_FILES,
    choose_dtype,
    load_language,
    load_tokenizer,
    read_json,
    read_weights,
)
from videoseg.models.checkpoints.meta_sam2 import load_meta, save_meta
from videoseg.models.checkpoints.official_o3 import State
from videoseg.models.o3 import ADDED_TOKENS, O3Model, TextSide, build_projector
from videoseg.models.vlm import VLM

EMBEDDING = "model.language_model.embed_tokens.weight"
HEAD = "lm_head.weight"


def from_stock(
    qwen: Path,
    sam2: Path,
    *,
    dtype: str = "float32",
    sam2_image_size: int = 1024,
    seed: int = 0,
) -> O3Model:
    """An O3 model to start SFT from: a Qwen3-VL folder and a SAM2 file in Meta's layout.

    The rows of the new tokens begin as the mean of all others; `seed` draws the projector. Raises
    `CheckpointError` on another model type, and `CheckpointKeysError` on missing or unexpected weights.
    """
    config = read_json(qwen / "config.json")
    if config.get("model_type") != "qwen3_vl":
        found = config.get("model_type")
        raise CheckpointError(f"{qwen}: model_type is {found!r}; a Qwen3-VL folder (qwen3_vl) is needed")
    tokenizer = load_tokenizer(qwen)
    old_size = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": list(ADDED_TOKENS)})
    state = _resized(read_weights(qwen), old_size, len(tokenizer))
    config = _untied(config, len(tokenizer))
    torch_dtype = choose_dtype(dtype, "cpu")
    language = load_language(state, config, torch_dtype)
    torch.manual_seed(seed)
    decoder = load_meta(sam2, image_size=sam2_image_size, dtype=torch_dtype)
    projector = build_projector(language.config.text_config.hidden_size, decoder.width).to(torch_dtype)
    return O3Model(VLM(language), projector, decoder, _text(qwen, tokenizer, config)).eval()


def to_stock(model: O3Model, folder: Path, dtype: torch.dtype = torch.bfloat16) -> tuple[Path, Path]:
    """Write the language model as a Qwen3-VL folder and SAM2 as `sam2.pt` in Meta's layout beside it.

    The vocabulary keeps the O3 tokens. Returns both paths.
    """
    qwen, sam2 = folder / "qwen3_vl", folder / "sam2.pt"
    qwen.mkdir(parents=True, exist_ok=True)
    state = {
        key: tensor.to("cpu", dtype).contiguous().clone()
        for key, tensor in model.vlm.model.state_dict().items()
    }
    save_file(state, qwen / "model.safetensors", metadata={"format": "pt"})
    config = {key: value for key, value in model.text.config.items() if key not in ("videoseg", "template")}
    config |= {"model_type": "qwen3_vl", "architectures": ["Qwen3VLForConditionalGeneration"]}
    (qwen / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for name, content in model.text.files.items():
        (qwen / name).write_bytes(content)
    save_meta(model.sam2, sam2)
    return qwen, sam2


def _resized(state: State, old: int, new: int) -> State:
    """Embedding and head with one row per token of the tokenizer, untied."""
    if EMBEDDING not in state:
        raise CheckpointError(f"the Qwen3-VL weights have no {EMBEDDING}; is the download complete?")
    head = state.get(HEAD, state[EMBEDDING])
    return {**state, EMBEDDING: _rows(state[EMBEDDING], old, new), HEAD: _rows(head, old, new)}


def _rows(table: Tensor, old: int, new: int) -> Tensor:
    if len(table) < old:
        raise CheckpointError(f"the tokenizer has {old} tokens but the embedding only {len(table)} rows")
    mean = table[:old].float().mean(dim=0, keepdim=True).to(table.dtype)
    return torch.cat([table[:old], mean.expand(new - old, -1)]).clone()


def _untied(config: dict[str, Any], size: int) -> dict[str, Any]:
    changed = deepcopy(config)
    changed["tie_word_embeddings"] = False
    changed["text_config"] |= {"vocab_size": size, "tie_word_embeddings": False}
    return changed


def _text(qwen: Path, tokenizer: PreTrainedTokenizerBase, config: dict[str, Any]) -> TextSide:
    processor = qwen / "preprocessor_config.json"
    with TemporaryDirectory() as scratch:
        tokenizer.save_pretrained(scratch)
        files = {p.name: p.read_bytes() for p in Path(scratch).iterdir() if p.name in TEXT_FILES}
    files[processor.name] = processor.read_bytes()
    geometry = ImageGeometry.from_processor_config(read_json(processor))
    return TextSide.checked(tokenizer, geometry, config, files)
