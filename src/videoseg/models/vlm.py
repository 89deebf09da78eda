"""The vision-language models: Qwen3-VL (O3, R1) and Qwen2.5-VL (R1), with pre-norm states and precomputed
image features.

The [SEG] feature is the output of the last decoder layer *before* the final RMSNorm (O3
specification §6). It is read with a pre-hook on that norm, which does not depend on the version
of transformers. Shape letters: B rows, N new tokens, S cached slots, D text width.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from transformers import (
    Cache,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from videoseg.errors import RenderError
from videoseg.models.causal_blocks import SharedStem, require_stems

Network: TypeAlias = Qwen3VLForConditionalGeneration | Qwen2_5_VLForConditionalGeneration
"""What `VLM` drives; Qwen2.5-VL has no deepstack levels."""


@dataclass(frozen=True, eq=False, slots=True)
class ImageFeatures:
    """What the language model reads of one image.

    `tokens` is `[n, D]`; `deepstack` holds one `[n, D]` tensor per injected vision level;
    `grid` is the image's size in patches (rows, columns).
    """

    tokens: Tensor
    deepstack: tuple[Tensor, ...]
    grid: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Bytes held by the tensors."""
        return sum(t.numel() * t.element_size() for t in (self.tokens, *self.deepstack))


@dataclass(frozen=True, eq=False, slots=True)
class States:
    """Hidden states `[B, N, D]` before and after the final norm."""

    prenorm: Tensor
    norm: Tensor


class VLM(nn.Module):
    """A Qwen-VL network, fed with images only, one explicit position per token."""

    def __init__(self, model: Network) -> None:
        super().__init__()
        self.model = model
        self._prenorm: Tensor | None = None
        self._norm_module.register_forward_pre_hook(self._keep_prenorm)

    @property
    def _norm_module(self) -> nn.Module:
        norm: nn.Module = self.model.model.language_model.norm
        return norm

    def _keep_prenorm(self, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._prenorm = inputs[0]

    @property
    def config(self) -> Qwen3VLConfig | Qwen2_5_VLConfig:
        """Configuration of the whole network."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """Where the token embedding lives: inputs go there."""
        weight: Tensor = self.model.get_input_embeddings().weight
        return weight.device

    @property
    def width(self) -> int:
        """Width D of the hidden states."""
        return int(self.config.text_config.hidden_size)

    def encode_images(
        self, patches: Sequence[Tensor], grids: Sequence[tuple[int, int]], *, together: bool = False
    ) -> list[ImageFeatures]:
        """Vision tower on images of any sizes; equal sizes share one call, with `together` all do.

        `patches[i]` is `[rows * columns, channels * temporal * patch * patch]` in Qwen2-VL order,
        `grids[i]` its (rows, columns). An image's features do not depend on its neighbours. Equal sizes are
        faster, but sharded models need as many calls on every rank, whatever its images are.
        """
        if together:
            return self._encode(patches, grids)
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, grid in enumerate(grids):
            groups[grid].append(index)
        features: list[ImageFeatures | None] = [None] * len(grids)
        for grid, members in groups.items():
            encoded = self._encode([patches[i] for i in members], [grid] * len(members))
            for index, feature in zip(members, encoded, strict=True):
                features[index] = feature
        return [feature for feature in features if feature is not None]

    def _encode(self, patches: Sequence[Tensor], grids: Sequence[tuple[int, int]]) -> list[ImageFeatures]:
        pixels = torch.cat(list(patches)).to(self.model.model.visual.device)
        sizes = torch.tensor([[1, *grid] for grid in grids], device=pixels.device)
        output = self.model.model.get_image_features(pixels, sizes, return_dict=True)
        deepstack = getattr(output, "deepstack_features", None) or ()  # Qwen2.5-VL has none
        levels = list(zip(*deepstack, strict=True)) or [()] * len(patches)
        return [
            ImageFeatures(tokens, tuple(deep), grid)
            for tokens, deep, grid in zip(output.pooler_output, levels, grids, strict=True)
        ]

    def rope_positions(self, ids: Tensor, images: Sequence[ImageFeatures], start: int = 0) -> Tensor:
        """Interleaved M-RoPE positions `int64 [3, N]` of one row's new tokens, counted from `start`.

        An image advances the position by its longer side, not by its number of tokens, so positions
        and cache slots are different things.
        """
        if not images:
            return torch.arange(start, start + len(ids), device=ids.device).expand(3, -1)
        is_image = (ids == self.config.image_token_id).int()
        grids = torch.tensor([[1, *image.grid] for image in images], device=ids.device)
        positions, _ = self.model.model.get_rope_index(ids[None], is_image[None], image_grid_thw=grids)
        return positions[:, 0] + start

    def forward(
        self,
        ids: Tensor,
        positions: Tensor,
        mask: Tensor | None = None,
        images: Sequence[ImageFeatures] = (),
        cache: Cache | None = None,
        stem: SharedStem | None = None,
    ) -> States:
        """One pass over new tokens.

        `ids` `[B, N]`, `positions` `[3, B, N]`, `mask` bool `[B, S + N]` (None: every slot is real),
        `images` in token order, row by row. With a cache its slots precede the new tokens. With a `stem`
        every row holds several dialogues that begin alike.
        Raises `RenderError` when image tokens and image features disagree.
        """
        self._check_images(ids, images)
        if stem is not None:
            require_stems(self.model.model.language_model)
        output = self.model.model(
            input_ids=ids,
            attention_mask=None if mask is None else mask.long(),
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
            mm_encoder_outputs={"image": _join(images)} if images else None,
            **({} if stem is None else {"stem": stem}),
        )
        prenorm, self._prenorm = self._prenorm, None
        if prenorm is None:
            raise RuntimeError("the hook on the final norm did not run")
        return States(prenorm, output.last_hidden_state)

    def _check_images(self, ids: Tensor, images: Sequence[ImageFeatures]) -> None:
        expected = int((ids == self.config.image_token_id).sum())
        given = sum(len(image.tokens) for image in images)
        if expected != given:
            raise RenderError(
                f"{expected} image tokens in the text but {given} image features from {len(images)} images; "
                "ids and images must come from the same rendering"
            )

    def logits(self, norm: Tensor) -> Tensor:
        """Token logits of post-norm states `[..., D]`."""
        head: Tensor = self.model.lm_head(norm)
        return head


def _join(images: Sequence[ImageFeatures]) -> BaseModelOutputWithDeepstackFeatures:
    return BaseModelOutputWithDeepstackFeatures(
        pooler_output=tuple(image.tokens for image in images),
        deepstack_features=[tuple(level) for level in zip(*(i.deepstack for i in images), strict=True)],
    )
