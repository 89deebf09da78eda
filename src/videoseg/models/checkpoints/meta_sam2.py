"""Checkpoints of SAM2 in Meta's layout, to and from transformers' names (stack.md §3.6).

O3 checkpoints hold the same layout with one other name (`g_weight` for `gamma`).
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from videoseg.errors import CheckpointError, UsageError
from videoseg.models.checkpoints.keys import rename, rename_key, require_complete
from videoseg.models.sam2 import Sam2
from videoseg.models.sam2_config import infer_config

if TYPE_CHECKING:
    from transformers import Sam2VideoConfig

_THREE_LAYERS = (("layers.0.", "proj_in."), ("layers.1.", "layers.0."), ("layers.2.", "proj_out."))
_TWO_LAYERS = (("mlp.layers.0.", "mlp.proj_in."), ("mlp.layers.1.", "mlp.proj_out."))
_BLOCK = "image_encoder.trunk.blocks.{i}.", "vision_encoder.backbone.blocks.{i}."
_DECODER = "sam_mask_decoder.", "mask_decoder."
_DECODER_LAYER = "sam_mask_decoder.transformer.layers.{i}.", "mask_decoder.transformer.layers.{i}."
_MEMORY_LAYER = "memory_attention.layers.{i}.", "memory_attention.layers.{i}."
_FUSER = "memory_encoder.fuser.layers.{i}.", "memory_encoder.memory_fuser.layers.{i}."
_MASK_NET = "memory_encoder.mask_downsampler.encoder.", "memory_encoder.mask_downsampler."


def _under(prefixes: tuple[str, str], pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(prefixes[0] + there, prefixes[1] + here) for there, here in pairs]


def _heads(prefixes: tuple[str, str], names: Sequence[str]) -> list[tuple[str, str]]:
    """Networks of three layers that have the same name in both layouts."""
    return [
        pair
        for name in names
        for pair in _under((f"{prefixes[0]}{name}.", f"{prefixes[1]}{name}."), _THREE_LAYERS)
    ]


TABLE: list[tuple[str, str]] = [
    # Image encoder
    *_under(_BLOCK, [("norm{j}.", "layer_norm{j}."), *_TWO_LAYERS]),
    ("image_encoder.trunk.patch_embed.proj.", "vision_encoder.backbone.patch_embed.projection."),
    ("image_encoder.trunk.", "vision_encoder.backbone."),
    ("image_encoder.neck.convs.{i}.conv.", "vision_encoder.neck.convs.{i}."),
    # Prompt encoder
    *_under(
        ("sam_prompt_encoder.mask_downscaling.", "prompt_encoder.mask_embed."),
        [
            ("0.", "conv1."),
            ("1.", "layer_norm1."),
            ("3.", "conv2."),
            ("4.", "layer_norm2."),
            ("6.", "conv3."),
        ],
    ),
    (
        "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
        "prompt_encoder.shared_embedding.positional_embedding",
    ),
    ("sam_prompt_encoder.", "prompt_encoder."),
    # Mask decoder
    *_under(
        _DECODER_LAYER, [("norm{j}.", "layer_norm{j}."), *_TWO_LAYERS, ("{attn}.out_proj.", "{attn}.o_proj.")]
    ),
    (
        "sam_mask_decoder.transformer.final_attn_token_to_image.out_proj.",
        "mask_decoder.transformer.final_attn_token_to_image.o_proj.",
    ),
    *_under(
        _DECODER,
        [
            ("transformer.norm_final_attn.", "transformer.layer_norm_final_attn."),
            ("output_upscaling.0.", "upscale_conv1."),
            ("output_upscaling.1.", "upscale_layer_norm."),
            ("output_upscaling.3.", "upscale_conv2."),
        ],
    ),
    *_heads(_DECODER, ("output_hypernetworks_mlps.{i}", "iou_prediction_head", "pred_obj_score_head")),
    _DECODER,
    # Memory attention
    *_under(_MEMORY_LAYER, [("norm{j}.", "layer_norm{j}."), ("{attn}.out_proj.", "{attn}.o_proj.")]),
    ("memory_attention.norm.", "memory_attention.layer_norm."),
    # Memory encoder
    *_under(
        _FUSER,
        [
            ("dwconv.", "depthwise_conv."),
            ("norm.", "layer_norm."),
            ("pwconv{j}.", "pointwise_conv{j}."),
            ("gamma", "scale"),
        ],
    ),
    *_under(_MASK_NET, [(f"{3 * n}.", f"layers.{n}.conv.") for n in range(4)]),
    *_under(_MASK_NET, [(f"{3 * n + 1}.", f"layers.{n}.layer_norm.") for n in range(4)]),
    *_under(_MASK_NET, [("12.", "final_conv.")]),
    ("memory_encoder.pix_feat_proj.", "memory_encoder.feature_projection."),
    ("memory_encoder.out_proj.", "memory_encoder.projection."),
    # Top level
    *_under(("obj_ptr_proj.", "object_pointer_proj."), _THREE_LAYERS),
    ("maskmem_tpos_enc", "memory_temporal_positional_encoding"),
    ("no_mem_embed", "no_memory_embedding"),
    ("no_mem_pos_enc", "no_memory_positional_encoding"),
    ("no_obj_ptr", "no_object_pointer"),
    ("obj_ptr_tpos_proj.", "temporal_positional_encoding_projection_layer."),
    ("no_obj_embed_spatial", "occlusion_spatial_embedding_parameter"),
]
"""Meta's prefixes and transformers'; names that fit no pair are the same in both (`mask_downsample`)."""

_POINTS = "sam_prompt_encoder.point_embeddings."
_POINT_TABLE = "prompt_encoder.point_embed.weight"
_POSITIONS = "prompt_encoder.shared_embedding.positional_embedding"
_POSITIONS_AGAIN = "shared_image_embedding.positional_embedding"


def to_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Meta's or O3's names (either name of the fuser's scale) to those of `Sam2VideoModel`.

    The four point embeddings become one table, the position table is listed twice. Values are not converted.
    """
    points = {name: value for name, value in state.items() if name.startswith(_POINTS)}
    rest = {name: value for name, value in state.items() if name not in points}
    result = rename(_rename_end(rest, ".g_weight", ".gamma"), TABLE)
    if points:
        result[_POINT_TABLE] = torch.cat([points[name] for name in sorted(points, key=_point_number)])
    if _POSITIONS in result:
        result[_POSITIONS_AGAIN] = result[_POSITIONS]
    return result


def _point_number(name: str) -> int:
    number = name.removeprefix(_POINTS).removesuffix(".weight")
    if not number.isdigit():
        raise CheckpointError(f"the checkpoint's key {name!r} is not a point embedding")
    return int(number)


def to_meta(state: Mapping[str, Tensor], *, o3_names: bool = False) -> dict[str, Tensor]:
    """Names of `Sam2VideoModel` to Meta's, or to O3's with `o3_names`; the inverse of `to_transformers`.

    Raises CheckpointError if the two copies of the position table differ: Meta's layout holds only one.
    """
    rest = dict(state)
    again = rest.pop(_POSITIONS_AGAIN, None)
    if again is not None and not torch.equal(again, rest[_POSITIONS]):
        raise CheckpointError(f"{_POSITIONS_AGAIN} and {_POSITIONS} differ; copy one into the other first")
    points = rest.pop(_POINT_TABLE, None)
    result = rename(rest, TABLE, reverse=True)
    if points is not None:
        result |= {f"{_POINTS}{i}.weight": row[None].clone() for i, row in enumerate(points)}
    return _rename_end(result, ".gamma", ".g_weight") if o3_names else result


def _rename_end(state: Mapping[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {
        name.removesuffix(old) + new if name.endswith(old) else name: value for name, value in state.items()
    }


def read_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Tensors of a `.safetensors` file, or of a `.pt` file that holds {"model": tensors} or the tensors."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint file {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {error}") from error
    state = state.get("model", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f'{path} holds no tensors by name; expected {{"model": {{name: tensor}}}}')
    return state


def load_meta(
    path: str | os.PathLike[str],
    config: Sam2VideoConfig | None = None,
    *,
    image_size: int = 1024,
    dtype: torch.dtype = torch.float32,
    may_miss: Sequence[str] = (),
) -> Sam2:
    """Load a SAM2 in Meta's layout from a `.pt` or `.safetensors` file.

    Without `config` it is deduced from the tensors, for inputs of `image_size`. `may_miss` lists prefixes of
    Meta's names that the file may lack (an image-only checkpoint); those parts stay random. Raises
    CheckpointKeysError if anything else is missing or unexpected.
    """
    state = to_transformers(read_state(path))
    return from_state(state, config or infer_config(state, image_size), str(path), dtype, may_miss)


def from_state(
    state: Mapping[str, Tensor],
    config: Sam2VideoConfig,
    where: str,
    dtype: torch.dtype = torch.float32,
    may_miss: Sequence[str] = (),
) -> Sam2:
    """Build a SAM2 that holds `state` (transformers' names); `where` names its origin in errors."""
    sam2 = Sam2(config).to(dtype)
    try:
        missing, unexpected = sam2.model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"the weights of {where} do not fit the configuration: {error}") from error
    named = {name: to_meta_name(name) for name in missing}
    lacking = [name for name, meta in named.items() if not meta.startswith(tuple(may_miss))]
    require_complete(lacking, unexpected, where)
    return sam2


def to_meta_name(name: str) -> str:
    """Meta's name of one parameter (for the point table: the prefix of its four)."""
    if name == _POSITIONS_AGAIN:
        name = _POSITIONS
    return _POINTS if name == _POINT_TABLE else rename_key(name, TABLE, reverse=True)


def save_meta(
    sam2: Sam2, path: str | os.PathLike[str], *, o3_names: bool = False, leave_out: Sequence[str] = ()
) -> None:
    """Save in Meta's layout: `.safetensors`, or `.pt` as {"model": tensors}.

    `leave_out` lists prefixes of Meta's names that are not written.
    """
    path = Path(path)
    state = {
        name: value.detach().contiguous()
        for name, value in to_meta(sam2.model.state_dict(), o3_names=o3_names).items()
        if not name.startswith(tuple(leave_out))
    }
    if path.suffix == ".safetensors":
        save_file(state, path)
    elif path.suffix in (".pt", ".pth"):
        torch.save({"model": state}, path)
    else:
        raise UsageError(f"cannot save SAM2 as {path.name}: use .safetensors or .pt")
