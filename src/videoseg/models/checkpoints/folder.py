"""Checkpoint folders, read and written: config, weights, tokenizer and image processor (design contract 5).

The official export and our own layout are the same files; ours adds a `videoseg` section to
`config.json` with the SAM2 configuration and the preset that the weights were trained for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen3VLForConditionalGeneration

from videoseg.dialogue.budget import ImageGeometry
from videoseg.errors import CheckpointError, CheckpointKeysError
from videoseg.models.checkpoints.keys import require_complete
from videoseg.models.checkpoints.meta_sam2 import from_state
from videoseg.models.checkpoints.official_o3 import Parts, State, join, language_config, split
from videoseg.models.o3 import O3Model, TextSide, build_projector
from videoseg.models.quiet import quiet_transformers
from videoseg.models.sam2 import Sam2
from videoseg.models.sam2_config import infer_config, sam2_config
from videoseg.models.vlm import VLM

TEXT_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "video_preprocessor_config.json",
    "generation_config.json",
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_folder(
    folder: Path,
    *,
    name: str | None = None,
    dtype: str = "auto",
    device: str = "cpu",
    device_map: str | Mapping[str, Any] | None = None,
    attention: str = "sdpa",
    sam2_image_size: int = 1024,
    hashes: Mapping[str, str] | None = None,
) -> O3Model:
    """Load an O3 checkpoint, key-complete.

    `dtype` is `float32`, `bfloat16`, `float16` or `auto` (float32 on a CPU, else bfloat16).
    `device_map` (accelerate's, for example `auto`) spreads the language model over several GPUs; the
    rest stays on `device`. `sam2_image_size` matters for official exports only, whose files do not hold
    it. Raises `CheckpointError`, `CheckpointKeysError`.
    """
    config = read_json(folder / "config.json")
    text = load_text(folder, config)
    state = read_weights(folder)
    text.source.update({"name": name or folder.name, "sha256": checked_hashes(folder, hashes or {})})
    parts = split(state)
    torch_dtype = choose_dtype(dtype, device)
    language = load_language(parts.language, config, torch_dtype, device_map, attention)
    sam2 = _load_sam2(parts.sam2, config, sam2_image_size).to(device, torch_dtype)
    projector = _load_projector(parts.projector, torch_dtype).to(device)
    return O3Model(VLM(language if device_map else language.to(device)), projector, sam2, text).eval()


def save_folder(
    model: O3Model, folder: Path, dtype: torch.dtype = torch.bfloat16, weights: State | None = None
) -> Path:
    """Write a folder that `load_folder` and the official code read; official key names, sharded at 5 GB.

    `weights` are those to write under their official names, if not the model's own.
    """
    weights = official_state(model) if weights is None else weights
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(model.text.config, indent=2) + "\n")
    for file, content in model.text.files.items():
        (folder / file).write_bytes(content)
    save_torch_state_dict(
        {key: tensor.to("cpu", dtype).contiguous().clone() for key, tensor in weights.items()},
        str(folder),
        metadata={"format": "pt"},
    )
    return folder


def official_state(model: O3Model) -> State:
    """The model's weights under their official names."""
    return official_names(model.state_dict())


def official_names(state: Mapping[str, Tensor]) -> State:
    """The state dict of an `O3Model` under official names."""
    parts = (
        {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
        for prefix in ("vlm.model.", "sam2.model.", "projector.")
    )
    return join(Parts(*parts))


def choose_dtype(dtype: str, device: str) -> torch.dtype:
    """`auto` is float32 on a CPU and bfloat16 elsewhere."""
    if dtype == "auto":
        return torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16
    if dtype not in DTYPES:
        raise CheckpointError(f"unknown dtype {dtype!r}; use auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


def read_weights(folder: Path) -> State:
    """All tensors of a folder's safetensors file or shards."""
    state: State = {}
    for file in weight_files(folder):
        try:
            state |= load_file(file)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{file}: cannot be read ({error}); download it again") from error
    return state


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder; `CheckpointError` if there is none or a shard is missing."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = sorted(set(read_json(index)["weight_map"].values()))
        missing = [name for name in names if not (folder / name).exists()]
        if missing:
            raise CheckpointError(f"{folder}: the shards {', '.join(missing)} are missing; download them")
        return [folder / name for name in names]
    single = folder / "model.safetensors"
    if not single.exists():
        raise CheckpointError(f"{folder}: no model.safetensors; give the folder of an O3 checkpoint")
    return [single]


def load_text(folder: Path, config: dict[str, Any]) -> TextSide:
    """Tokenizer, image geometry and preset of a checkpoint; its chat template is checked."""
    geometry = ImageGeometry.from_processor_config(read_json(folder / "preprocessor_config.json"))
    files = {name: (folder / name).read_bytes() for name in TEXT_FILES if (folder / name).exists()}
    return TextSide.checked(load_tokenizer(folder), geometry, config, files)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder with its chat template; no code of the folder is run."""
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder}: the tokenizer cannot be read ({error})") from error
    template = folder / "chat_template.jinja"
    if tokenizer.chat_template is None and template.exists():
        tokenizer.chat_template = template.read_text()
    return tokenizer


def load_language(
    state: State,
    config: Mapping[str, Any],
    dtype: torch.dtype,
    device_map: str | Mapping[str, Any] | None = None,
    attention: str = "sdpa",
) -> Qwen3VLForConditionalGeneration:
    """Qwen3-VL from its own key names, key-complete; spread over devices if `device_map` is given."""
    with quiet_transformers():
        model, report = Qwen3VLForConditionalGeneration.from_pretrained(
            None,
            config=language_config(config),
            state_dict=dict(state),
            dtype=dtype,
            device_map=device_map,
            attn_implementation=attention,
            ignore_mismatched_sizes=True,  # so that they are reported to us
            output_loading_info=True,
        )
    if report["mismatched_keys"]:
        shown = ", ".join(str(entry) for entry in list(report["mismatched_keys"])[:10])
        raise CheckpointKeysError(f"weights of another shape than config.json says: {shown}")
    require_complete(report["missing_keys"], report["unexpected_keys"], "the language model (model.*)")
    return model


def _load_sam2(state: State, config: Mapping[str, Any], image_size: int) -> Sam2:
    settings = config.get("videoseg", {}).get("sam2")
    sizes = sam2_config(**settings) if settings else infer_config(state, image_size)
    return from_state(state, sizes, "SAM2 (grounding_encoder.sam2_model.*)")


def _load_projector(state: State, dtype: torch.dtype) -> torch.nn.Module:
    needed = {"0.weight", "0.bias", "2.weight", "2.bias"}
    require_complete(needed - set(state), set(state) - needed, "the projector (text_hidden_fcs.*)")
    out_width, width = state["2.weight"].shape
    projector = build_projector(width, out_width)
    projector.load_state_dict(state)
    return projector.to(dtype)


def checked_hashes(folder: Path, expected: Mapping[str, str]) -> dict[str, str]:
    """SHA-256 of a folder's weight files; `CheckpointError` where one is not as `expected`."""
    found = {file.name: sha256(file) for file in weight_files(folder)}
    wrong = [name for name, digest in expected.items() if found.get(name) != digest]
    if wrong:
        raise CheckpointError(
            f"{folder}: {', '.join(wrong)} differ from the published hashes; download them again"
        )
    return found


def sha256(path: Path) -> str:
    """Hash of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a checkpoint; `CheckpointError` names it when it is missing or broken."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; give the folder of an O3 checkpoint") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from error
