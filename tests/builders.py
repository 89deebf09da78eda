"""Small random networks for tests: the real classes, two layers, no files."""

from __future__ import annotations

import numpy as np
import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from videoseg.models.vlm import VLM, ImageFeatures

IMAGE, START, END = 90, 91, 92
PATCH = 8


def random_vlm(seed: int = 0, *, layers: int = 3, width: int = 32, vocabulary: int = 100) -> VLM:
    """A Qwen3-VL of a few ten thousand weights, scaled up so that differences show."""
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": vocabulary,
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [4, 2, 2],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_heads": 2,
            "patch_size": PATCH,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": width,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        image_token_id=IMAGE,
        vision_start_token_id=START,
        vision_end_token_id=END,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.7 / parameter.shape[-1] ** 0.5 * 2)
    return VLM(model)


def random_chunk(
    vlm: VLM, rng: np.random.Generator, grids: list[tuple[int, int]], words: int
) -> tuple[list[int], list[ImageFeatures]]:
    """Ids with one image per grid between random words, and the images' features."""
    ids: list[int] = []
    patches = []
    for rows, columns in grids:
        ids += rng.integers(0, 80, words).tolist()
        ids += [START, *[IMAGE] * (rows * columns // 4), END]
        patches.append(torch.from_numpy(rng.normal(size=(rows * columns, 6 * PATCH**2))).float())
    ids += rng.integers(0, 80, words).tolist()
    with torch.no_grad():
        return ids, vlm.encode_images(patches, grids)
