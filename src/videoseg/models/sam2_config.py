"""Configurations of the SAM2 that draws and tracks masks: the published trunks and small ones.

The facts about the trunks are those of stack.md §3.6; everything else follows from a few sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from videoseg.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import Sam2VideoConfig

MEMORY_WIDTH = 64
"""Channels of a mask memory; fixed in transformers' memory attention."""


@dataclass(frozen=True, slots=True)
class Trunk:
    """A Hiera image encoder: first width, heads of the first stage, blocks, global blocks, windows."""

    dim: int
    heads: int
    blocks: tuple[int, ...]
    global_blocks: tuple[int, ...]
    windows: tuple[int, ...]
    background: tuple[int, int] = (7, 7)


TRUNKS: dict[str, Trunk] = {
    "micro": Trunk(8, 1, (1, 1, 2, 1), (3,), (8, 4, 8, 4)),
    "pico": Trunk(16, 1, (1, 1, 2, 1), (3,), (8, 4, 8, 4)),
    "nano": Trunk(32, 1, (1, 2, 3, 1), (4,), (8, 4, 8, 4)),
    "tiny": Trunk(96, 1, (1, 2, 7, 2), (5, 7, 9), (8, 4, 14, 7)),
    "small": Trunk(96, 1, (1, 2, 11, 2), (7, 10, 13), (8, 4, 14, 7)),
    "base_plus": Trunk(112, 2, (2, 3, 16, 3), (12, 16, 20), (8, 4, 14, 7), (14, 14)),
    "large": Trunk(144, 2, (2, 6, 36, 4), (23, 33, 43), (8, 4, 16, 8)),
}
"""Published trunks (tiny, small, base_plus, large) and small ones (pico, nano, micro) for tests and CPUs."""


@dataclass(frozen=True, slots=True)
class Sam2Sizes:
    """The sizes around the trunk; the defaults are those of every published SAM2."""

    width: int = 256
    memory_layers: int = 4
    memory_mlp: int = 2048
    decoder_mlp: int = 2048
    iou_hidden: int = 256
    fuser_layers: int = 2
    fuser_mlp: int = 1024
    num_maps: int = 7
    num_pointers: int = 16


def sam2_config(
    trunk: str | Trunk | Mapping[str, Any] = "large",
    image_size: int = 1024,
    version: str = "2.0",
    *,
    stability: bool = True,
    **sizes: int,
) -> Sam2VideoConfig:
    """Build the configuration of a SAM2 video model (stack.md §3.6).

    `trunk` is a name of `TRUNKS`, a `Trunk` or its fields; `image_size` is the side S of the square input,
    a multiple of 32; `version` "2.0" or "2.1"; `stability` lets single-mask prompts (boxes, several clicks)
    fall back to the best of three masks; `sizes` are fields of `Sam2Sizes`. All values but a `Trunk` are
    plain JSON, so that a checkpoint's config can hold them. Raises UsageError on unknown or unfitting values.
    """
    shape = _trunk(trunk)
    if version not in ("2.0", "2.1"):
        raise UsageError(f"SAM2 version {version!r} is unknown; use '2.0' or '2.1'")
    if image_size < 32 or image_size % 32:
        raise UsageError(f"SAM2 image_size must be a positive multiple of 32, not {image_size}")
    try:
        fields = Sam2Sizes(**sizes)
    except TypeError as error:
        known = ", ".join(Sam2Sizes.__dataclass_fields__)
        raise UsageError(f"unknown SAM2 size ({error}); known are: {known}") from error
    return _build(shape, image_size, version == "2.1", stability, fields)


def _trunk(trunk: str | Trunk | Mapping[str, Any]) -> Trunk:
    if isinstance(trunk, Trunk):
        return trunk
    if isinstance(trunk, str):
        if trunk not in TRUNKS:
            raise UsageError(f"unknown SAM2 trunk {trunk!r}; known are: {', '.join(TRUNKS)}")
        return TRUNKS[trunk]
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, Sequence) else v for name, v in trunk.items()}
    try:
        return Trunk(**values)
    except TypeError as error:
        raise UsageError(f"SAM2 trunk {dict(trunk)} does not fit: {error}") from error


def _build(trunk: Trunk, size: int, newer: bool, stability: bool, sizes: Sam2Sizes) -> Sam2VideoConfig:
    from transformers import Sam2VideoConfig

    return Sam2VideoConfig(
        vision_config=_vision(trunk, size, sizes.width),
        prompt_encoder_config={"hidden_size": sizes.width, "image_size": size},
        mask_decoder_config={
            "hidden_size": sizes.width,
            "mlp_dim": sizes.decoder_mlp,
            "iou_head_hidden_dim": sizes.iou_hidden,
            "dynamic_multimask_via_stability": stability,
        },
        image_size=size,
        num_maskmem=sizes.num_maps,
        max_object_pointers_in_encoder=sizes.num_pointers,
        enable_occlusion_spatial_embedding=newer,
        enable_temporal_pos_encoding_for_object_pointers=newer,
        memory_attention_hidden_size=sizes.width,
        memory_attention_num_layers=sizes.memory_layers,
        memory_attention_feed_forward_hidden_size=sizes.memory_mlp,
        memory_attention_rope_feat_sizes=[size // 16, size // 16],
        memory_encoder_hidden_size=sizes.width,
        memory_encoder_output_channels=MEMORY_WIDTH,
        mask_downsampler_embed_dim=sizes.width,
        memory_fuser_embed_dim=sizes.width,
        memory_fuser_num_layers=sizes.fuser_layers,
        memory_fuser_intermediate_dim=sizes.fuser_mlp,
    )


def _vision(trunk: Trunk, size: int, width: int) -> dict[str, Any]:
    dims = [trunk.dim * 2**stage for stage in range(len(trunk.blocks))]
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": trunk.dim,
        "num_attention_heads": trunk.heads,
        "image_size": [size, size],
        "window_positional_embedding_background_size": list(trunk.background),
        "blocks_per_stage": list(trunk.blocks),
        "embed_dim_per_stage": dims,
        "num_attention_heads_per_stage": [trunk.heads * 2**stage for stage in range(len(trunk.blocks))],
        "window_size_per_stage": list(trunk.windows),
        "global_attention_blocks": list(trunk.global_blocks),
    }
    return {
        "model_type": "sam2_vision_model",
        "backbone_config": backbone,
        "backbone_channel_list": dims[::-1],
        "backbone_feature_sizes": [[size // stride, size // stride] for stride in (4, 8, 16)],
        "fpn_hidden_size": width,
    }


def infer_config(
    state: Mapping[str, Tensor], image_size: int = 1024, trunk: Trunk | None = None
) -> Sam2VideoConfig:
    """Deduce the configuration of a checkpoint from its names and shapes (transformers' names).

    Heads, global blocks and later windows leave no trace in the shapes: they come from the trunk of `TRUNKS`
    with the same width and blocks, unless `trunk` is given. The input size leaves none either. Parts that are
    absent (an image-only checkpoint) take the published sizes. Raises CheckpointError on an unknown trunk.
    """
    trunk = trunk or _infer_trunk(state)
    newer = "occlusion_spatial_embedding_parameter" in state
    fuser, memory = "memory_encoder.memory_fuser.layers.", "memory_attention.layers."
    found = {
        "width": _size(state, "vision_encoder.neck.convs.0.weight"),
        "memory_layers": _count(state, memory),
        "memory_mlp": _size(state, memory + "0.linear1.weight"),
        "decoder_mlp": _size(state, "mask_decoder.transformer.layers.0.mlp.proj_in.weight"),
        "iou_hidden": _size(state, "mask_decoder.iou_prediction_head.proj_in.weight"),
        "fuser_layers": _count(state, fuser),
        "fuser_mlp": _size(state, fuser + "0.pointwise_conv1.weight"),
        "num_maps": _size(state, "memory_temporal_positional_encoding"),
    }
    sizes: dict[str, Any] = {name: value for name, value in found.items() if value}
    return sam2_config(trunk, image_size, "2.1" if newer else "2.0", **sizes)


def _infer_trunk(state: Mapping[str, Tensor]) -> Trunk:
    prefix = "vision_encoder.backbone."
    needed = [prefix + "pos_embed", prefix + "pos_embed_window"]
    if any(name not in state for name in needed):
        raise CheckpointError(f"this is not a SAM2 checkpoint: it has no {' or '.join(needed)}")
    widths = [
        state[f"{prefix}blocks.{i}.attn.proj.weight"].shape[0]
        for i in range(_count(state, prefix + "blocks."))
    ]
    blocks = tuple(len(list(stage)) for _, stage in groupby(widths))
    dim, height, width = state[needed[0]].shape[1:]
    window = state[needed[1]].shape[-1]
    for trunk in TRUNKS.values():
        if (trunk.dim, trunk.blocks, trunk.windows[0]) == (dim, blocks, window):
            return Trunk(dim, trunk.heads, blocks, trunk.global_blocks, trunk.windows, (height, width))
    raise CheckpointError(
        f"no known SAM2 trunk has width {dim}, blocks {blocks} and first window {window}; pass a config "
        f"(videoseg.models.sam2_config.sam2_config with a Trunk of your own) when loading it"
    )


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)})


def _size(state: Mapping[str, Tensor], name: str) -> int | None:
    return state[name].shape[0] if name in state else None
