"""SAM2 as the mask decoder of both systems: frames and prompts in, mask logits and memories out.

transformers' `Sam2VideoModel` only holds the parameters; what is called on it is listed in stack.md §3.2.
Everything here is batched, stateless and differentiable; `tracking.sam2` adds the state.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from videoseg.errors import UsageError
from videoseg.models.checkpoints.keys import require_complete
from videoseg.models.sam2_types import AllMasks, FrameFeatures, MaskPrediction, PromptTokens

if TYPE_CHECKING:
    from transformers import Sam2VideoConfig

__all__ = ["AllMasks", "FrameFeatures", "MaskPrediction", "PromptTokens", "Sam2"]

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
ABSENT_LOGIT = -1024.0
"""Mask logit of stock SAM2 where it judges the object absent; the language-prompted path never uses it."""


class Sam2(nn.Module):
    """SAM2 prompted by language embeddings, clicks, boxes or masks (O3 specification §7, stack.md §3.3).

    Always in eval mode, also while it trains: SAM2's dropout and its training-only branches stay off, and
    `requires_grad` alone decides what learns (stack.md §1, trap 5).
    """

    def __init__(self, config: Sam2VideoConfig) -> None:
        from transformers import Sam2VideoModel

        super().__init__()
        self.model = Sam2VideoModel(config)
        # Random initialisation draws these two tables apart, checkpoints hold them equal (tiny.md).
        self.model.shared_image_embedding.positional_embedding.copy_(
            self.model.prompt_encoder.shared_embedding.positional_embedding
        )
        self._positions: dict[tuple[int, torch.device, torch.dtype], Tensor] = {}
        self.eval()

    def train(self, mode: bool = True) -> Sam2:
        """Stay in eval mode whatever is asked."""
        return super().train(False)

    @property
    def image_size(self) -> int:
        """Side S of the square input."""
        return self.model.image_size

    @property
    def width(self) -> int:
        """Channels C of the top map, of a prompt token and of an object pointer."""
        return self.model.hidden_dim

    @property
    def num_maps(self) -> int:
        """K: mask memories a frame may attend to, the keyframe's included."""
        return self.model.num_maskmem

    @property
    def num_pointers(self) -> int:
        """P: object pointers a frame may attend to, the keyframe's not counted twice."""
        return self.model.config.max_object_pointers_in_encoder

    @property
    def dtype(self) -> torch.dtype:
        """Type of the parameters."""
        return self.model.no_memory_embedding.dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.model.no_memory_embedding.device

    # Frames

    def preprocess(self, frame: np.ndarray, *, exact_normalization: bool = True) -> Tensor:
        """Turn a frame uint8 [H, W, 3] RGB into float32 [3, S, S]; the aspect ratio is not kept.

        The released code rounds mean and std to bfloat16: `exact_normalization=False` (golden o3/README).
        """
        size = (self.image_size, self.image_size)
        image = np.array(Image.fromarray(frame).resize(size))  # Pillow's default filter: bicubic
        pixels = torch.from_numpy(image).permute(2, 0, 1).contiguous().float() / 255
        mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
        if not exact_normalization:
            mean, std = mean.bfloat16().float(), std.bfloat16().float()
        return (pixels - mean) / std

    def encode(self, images: Tensor, *, original: Sam2 | None = None) -> FrameFeatures:
        """Features of images [B, 3, S, S] from `preprocess`; gradients reach a trunk that requires them."""
        return self.project(self.pyramid(images), original=original)

    def pyramid(self, images: Tensor) -> FrameFeatures:
        """What the image encoder alone makes of images [B, 3, S, S]: three maps of C channels for `project`.

        The feature pyramid is summed here because transformers' neck also builds positional encodings of
        every level and image, which nothing reads.
        """
        encoder = self.model.vision_encoder
        stages = encoder.backbone(images.to(self.device, self.dtype)).intermediate_hidden_states
        laterals = [
            conv(stage.permute(0, 3, 1, 2))
            for conv, stage in zip(encoder.neck.convs, reversed(stages), strict=True)
        ]
        coarse, top, middle, fine = laterals
        top = top + F.interpolate(coarse.float(), scale_factor=2.0, mode="nearest").to(top.dtype)
        return FrameFeatures(fine, middle, top)

    def project(self, pyramid: FrameFeatures, *, original: Sam2 | None = None) -> FrameFeatures:
        """The two finer maps through the mask decoder's projections, and through the unmodified decoder's."""
        fine, middle, other = pyramid.fine, pyramid.middle, None
        if original is not None:
            unmodified = original.model.mask_decoder
            other = (unmodified.conv_s0(fine), unmodified.conv_s1(middle))
        decoder = self.model.mask_decoder
        return FrameFeatures(decoder.conv_s0(fine), decoder.conv_s1(middle), pyramid.top, other)

    def unconditioned(self, features: FrameFeatures) -> Tensor:
        """Top map [B, C, S/16, S/16] of a prompted frame: no memory has been attended to."""
        return features.top + self.model.no_memory_embedding.reshape(1, -1, 1, 1)

    # Prompts

    def prompt_empty(self, batch: int) -> PromptTokens:
        """No prompt: a padded empty point, that is two "not a point" tokens (tracked frames)."""
        encoder = self.model.prompt_encoder
        sparse = encoder.not_a_point_embed.weight.expand(batch, 1, 2, -1)
        side = self.image_size // 16
        dense = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(batch, -1, side, side)
        return PromptTokens(sparse, dense)

    def prompt_language(self, embedding: Tensor) -> PromptTokens:
        """Prompt by language tokens [B, N, C] or [B, C], placed after the two empty tokens (§7)."""
        tokens = embedding if embedding.dim() == 3 else embedding[:, None]
        empty = self.prompt_empty(len(tokens))
        return replace(empty, sparse=torch.cat([empty.sparse, tokens[:, None].to(empty.sparse.dtype)], dim=2))

    def prompt_points(self, points: Tensor, labels: Tensor) -> PromptTokens:
        """Prompt by clicks: points [B, N, 2] as (x, y) in input pixels (0..S), labels [B, N].

        Labels: 1 on the object, 0 off it, 2 and 3 the first and last corner of a box. One click asks for the
        best of three masks, more for a single one, as in stock SAM2.
        """
        if points.shape[:2] != labels.shape or points.shape[-1] != 2:
            raise UsageError(f"points {tuple(points.shape)} and labels {tuple(labels.shape)} do not fit")
        encoder = self.model.prompt_encoder
        points, labels = points.to(self.device, self.dtype), labels.to(self.device, torch.int64)
        sparse, _ = encoder(
            input_points=points[:, None], input_labels=labels[:, None], input_boxes=None, input_masks=None
        )
        dense = self.prompt_empty(len(points)).dense
        return PromptTokens(sparse, dense, multimask=labels.shape[1] <= 1, clicked=True)

    def prompt_box(
        self, box: Tensor, points: Tensor | None = None, labels: Tensor | None = None
    ) -> PromptTokens:
        """Prompt by boxes [B, 4] as (x1, y1, x2, y2) in input pixels, with further clicks if given."""
        corners = box.reshape(-1, 2, 2)
        kinds = torch.tensor([2, 3], device=box.device).expand(len(corners), 2)
        if points is None or labels is None:
            return self.prompt_points(corners, kinds)
        points = torch.cat([corners, points.to(corners)], 1)
        return self.prompt_points(points, torch.cat([kinds, labels.to(kinds)], 1))

    def prompt_mask(self, mask: Tensor) -> PromptTokens:
        """Prompt by masks [B, H, W] of any size, true or > 0.5 on the object: stock SAM2's mask input."""
        size = (self.image_size, self.image_size)
        mask = mask[:, None].to(self.device, torch.float32)
        if mask.shape[-2:] != size:
            mask = F.interpolate(mask, size=size, mode="bilinear", align_corners=False, antialias=True)
        mask = (mask >= 0.5).to(self.dtype)
        dense = self.model.prompt_encoder.mask_embed(self.model.mask_downsample(mask))
        sparse = self.prompt_empty(len(mask)).sparse
        return PromptTokens(sparse, dense, multimask=False, clicked=True, mask=mask)

    # Masks

    def segment(self, features: FrameFeatures, prompt: PromptTokens, *, gate: bool = False) -> MaskPrediction:
        """Masks on prompted frames, without memory: as the decoder is trained (§7)."""
        if prompt.mask is not None:
            return self._mask_as_answer(features, prompt, prompt.mask)
        return self.decode(features, self.unconditioned(features), prompt, gate=gate)

    def decode(
        self, features: FrameFeatures, top_map: Tensor, prompt: PromptTokens, *, gate: bool = False
    ) -> MaskPrediction:
        """Decode B prompts on B top maps [B, C, S/16, S/16] and keep the best of three masks by IoU.

        `gate` overwrites the logits of objects judged absent, as stock SAM2 does; O3 does not (§7).
        """
        masks = self.decode_all(features, top_map, prompt)
        best = masks.iou.argmax(dim=1)
        rows = torch.arange(len(best), device=best.device)
        logits, present = masks.logits[rows, best][:, None], masks.score > 0
        if gate:
            logits = torch.where(present[:, None, None, None], logits, ABSENT_LOGIT)
        # Without `multimask` there is one token, also where the mask fell back to another's.
        token = masks.tokens[rows, best] if prompt.multimask else masks.tokens[:, 0]
        pointer = self._mix_absent(self.model.object_pointer_proj(token), present)
        return MaskPrediction(logits, masks.iou[rows, best], masks.iou, masks.score, pointer)

    def decode_all(self, features: FrameFeatures, top_map: Tensor, prompt: PromptTokens) -> AllMasks:
        """All candidates: three with `prompt.multimask`, else one."""
        batch = len(prompt.sparse)
        features = features.expand(batch)
        positions = self.model.get_image_wide_positional_embeddings()
        logits, iou, tokens, score = self.model.mask_decoder(
            image_embeddings=top_map.expand(batch, -1, -1, -1),
            image_positional_embeddings=positions.expand(batch, -1, -1, -1),
            sparse_prompt_embeddings=prompt.sparse,
            dense_prompt_embeddings=prompt.dense,
            multimask_output=prompt.multimask,
            high_resolution_features=[features.fine, features.middle],
        )
        return AllMasks(logits[:, 0], iou[:, 0], tokens[:, 0], score[:, 0, 0])

    def _mix_absent(self, pointer: Tensor, present: Tensor) -> Tensor:
        weight = present.to(pointer.dtype)[:, None]
        return weight * pointer + (1 - weight) * self.model.no_object_pointer

    def _mask_as_answer(self, features: FrameFeatures, prompt: PromptTokens, mask: Tensor) -> MaskPrediction:
        """A mask prompt is its own answer, as logits of +-10; the decoder only supplies the pointer."""
        side = self.image_size // 4
        logits = F.interpolate(
            mask.float() * 20 - 10, size=(side, side), mode="bilinear", align_corners=False, antialias=True
        ).to(mask.dtype)
        present = mask.flatten(1).any(dim=1)
        # As in Meta's code the top map enters bare here, without the "no memory" embedding.
        inner = self.decode(features, features.top, prompt)
        pointer = self._mix_absent(inner.pointer, present)
        ones = torch.ones(len(mask), 1, dtype=mask.dtype, device=mask.device)
        return MaskPrediction(logits, ones[:, 0], ones, present.to(mask.dtype) * 20 - 10, pointer)

    def upsample(self, logits: Tensor, frame_size: tuple[int, int]) -> Tensor:
        """Logits [B, 1, S/4, S/4] at the size of the frame: float32 [B, H, W]; a mask is > 0 (§8.2)."""
        size = (self.image_size, self.image_size)
        full = F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)
        return F.interpolate(full, size=frame_size, mode="bilinear", align_corners=False)[:, 0]

    # Memory

    def remember(
        self,
        features: FrameFeatures,
        prediction: MaskPrediction,
        *,
        is_mask_from_points: bool = False,
        exact: bool = False,
    ) -> Tensor:
        """Memory of masks on a frame: [(S/16)^2, B, 64], rounded to bfloat16 unless `exact` (stack.md §3.3).

        The rounding is Meta's and O3's, also in float32 runs; `is_mask_from_points` binarises the mask.
        """
        config, size = self.model.config, (self.image_size, self.image_size)
        full = F.interpolate(prediction.logits.float(), size=size, mode="bilinear", align_corners=False)
        mask = (full > 0).float() if is_mask_from_points else torch.sigmoid(full)
        mask = mask * config.sigmoid_scale_for_mem_enc + config.sigmoid_bias_for_mem_enc
        top = features.top.expand(len(full), -1, -1, -1)
        memory, _ = self.model.memory_encoder(top, mask.to(top.dtype))
        absent = self.model.occlusion_spatial_embedding_parameter
        if absent is not None:
            weight = (prediction.score <= 0).to(memory.dtype)[:, None, None, None]
            memory = memory + weight * absent[..., None, None]
        memory = memory.flatten(2).permute(2, 0, 1)
        return memory if exact else memory.to(torch.bfloat16)

    def memory_position(self) -> Tensor:
        """Positional encoding [(S/16)^2, 1, 64] of every memory map; depends on S only."""
        return self._position(self.model.memory_encoder.position_encoding, self.model.mem_dim)

    def _position(self, encoding: nn.Module, channels: int) -> Tensor:
        key = (channels, self.device, self.dtype)
        if key not in self._positions:
            side = self.image_size // 16
            with torch.inference_mode(False):  # computed in inference, it must still serve training
                position = encoding(torch.Size((1, channels, side, side)), self.device, self.dtype)
                self._positions[key] = position.flatten(2).permute(2, 0, 1).clone()
        return self._positions[key]

    def attend(
        self,
        features: FrameFeatures,
        maps: Sequence[tuple[int, Tensor]],
        pointers: Sequence[tuple[int, Tensor]],
        span: int,
    ) -> Tensor:
        """Top map [B, C, S/16, S/16] conditioned on memories (stack.md §3.4).

        `maps` are (index of the temporal encoding, memory of `remember`), `pointers` (distance in frames,
        pointer [B, C]), both in the order in which they are concatenated; `span` is the largest number of
        pointers in use, which scales distances in SAM 2.1.
        """
        memory = torch.cat([m.to(self.dtype) for _, m in maps])
        temporal = self.model.memory_temporal_positional_encoding
        position = torch.cat([self.memory_position() + temporal[index] for index, _ in maps])
        batch, side = memory.shape[1], self.image_size // 16
        position = position.expand(-1, batch, -1)
        tokens, token_positions = self.model._process_object_pointers(
            [distance for distance, _ in pointers],
            [pointer for _, pointer in pointers],
            max(span, 2),  # a video of one frame has no distance to scale
            batch,
            self.width,
            self.device,
        )
        top = features.top.flatten(2).permute(2, 0, 1)
        conditioned = self.model.memory_attention(
            current_vision_features=top.expand(-1, batch, -1),
            current_vision_position_embeddings=self._position(
                self.model.vision_encoder.neck.position_encoding, self.width
            ),
            memory=torch.cat([memory, tokens]),
            memory_posision_embeddings=torch.cat([position, token_positions]),
            num_object_pointer_tokens=len(tokens),
        )
        return conditioned.reshape(batch, side * side, self.width).transpose(1, 2).unflatten(2, (side, side))

    # The original decoder

    def with_decoder(self, state: Mapping[str, Tensor]) -> Sam2:
        """A second SAM2 whose prompt encoder and mask decoder hold `state`, all else shared with this one.

        `state` has transformers' names; only keys of the two parts are read. For the mode `original_sam2`
        (§8.3). Raises CheckpointKeysError if one of the two is incomplete.
        """
        other = copy.copy(self)
        other._modules = dict(self._modules)
        other.model = copy.copy(self.model)
        other.model._modules = dict(self.model._modules)
        for name in ("prompt_encoder", "mask_decoder"):
            part = copy.deepcopy(getattr(self.model, name))
            own = {k[len(name) + 1 :]: v for k, v in state.items() if k.startswith(name + ".")}
            missing, unexpected = part.load_state_dict(own, strict=False)
            require_complete(missing, unexpected, f"the original SAM2's {name}")
            other.model._modules[name] = part
        return other
