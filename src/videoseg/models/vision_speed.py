"""Faster vision towers where all images of a call have one size: one attention call, patches by one matmul.

transformers attends image by image in a Python loop and embeds patches with a 3-D convolution; both
dominate the time of small models on a CPU (spec tiny.md). The numbers stay the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb_vision


def speed_up_vision(visual: Any) -> None:
    """Replace, in place, the forward methods of a Qwen3-VL vision tower's patch embedding and attention."""
    _patch(visual.patch_embed, _embed_patches)
    for block in visual.blocks:
        _patch(block.attn, _attend_together)


def prefer_plain_attention(plain: bool = True) -> None:
    """Choose the plain SDPA: on CPUs the fused backward is two to three times slower (spec tiny.md).

    Without a backward pass the fused one is faster: `plain=False`.
    """
    torch.backends.cuda.enable_flash_sdp(not plain)
    torch.backends.cuda.enable_mem_efficient_sdp(not plain)


def _patch(module: Any, function: Any) -> None:
    original = module.forward
    module.forward = lambda *args, **kwargs: function(module, original, *args, **kwargs)


def _embed_patches(module: Any, _original: Any, hidden_states: Tensor) -> Tensor:
    weight: Tensor = module.proj.weight
    flat = hidden_states.reshape(len(hidden_states), -1).to(weight.dtype)
    return F.linear(flat, weight.flatten(1), module.proj.bias)


def _attend_together(
    module: Any,
    original: Any,
    hidden_states: Tensor,
    cu_seqlens: Tensor,
    position_embeddings: tuple[Tensor, Tensor] | None = None,
    **kwargs: Any,
) -> Tensor:
    """Attention within each image; falls back to transformers' where sizes differ."""
    lengths = cu_seqlens[1:] - cu_seqlens[:-1]
    if position_embeddings is None or bool((lengths != lengths[0]).any()):
        result: Tensor = original(
            hidden_states, cu_seqlens=cu_seqlens, position_embeddings=position_embeddings, **kwargs
        )
        return result
    total, heads = len(hidden_states), module.num_heads
    query, key, value = module.qkv(hidden_states).reshape(total, 3, heads, -1).permute(1, 0, 2, 3).unbind(0)
    query, key = apply_rotary_pos_emb_vision(query, key, *position_embeddings)
    query, key, value = (
        part.reshape(len(lengths), -1, heads, part.shape[-1]).transpose(1, 2) for part in (query, key, value)
    )
    mixed = F.scaled_dot_product_attention(query, key, value, scale=module.scaling)
    output: Tensor = module.proj(mixed.transpose(1, 2).reshape(total, -1))
    return output
