"""Qwen2.5-VL through the same interface as Qwen3-VL, against transformers' own forward pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from videoseg.dialogue.budget import ImageGeometry
from videoseg.dialogue.pixels import patchify
from videoseg.models.session import RowInput, Session
from videoseg.models.vlm import VLM, ImageFeatures

GEOMETRY = ImageGeometry(patch=14, merge=2)
IMAGE, START, END = 90, 91, 92


@pytest.fixture(scope="module")
def vlm() -> VLM:
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 48,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 96,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]},
        },
        vision_config={
            "hidden_size": 32,
            "depth": 3,
            "num_heads": 2,
            "intermediate_size": 48,
            "out_hidden_size": 48,
            "patch_size": 14,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
        image_token_id=IMAGE,
        video_token_id=95,
        vision_start_token_id=START,
        vision_end_token_id=END,
    )
    model = Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return VLM(model.eval())


def image(rows: int, columns: int, seed: int) -> tuple[torch.Tensor, tuple[int, int]]:
    """Patches and grid of a random image of rows × columns tokens."""
    pixels = np.random.default_rng(seed).integers(0, 256, (28 * rows, 28 * columns, 3), dtype=np.uint8)
    return torch.from_numpy(patchify(pixels, GEOMETRY)), (2 * rows, 2 * columns)


def chunk(images: list[ImageFeatures], seed: int) -> list[int]:
    """Some text with these images in it."""
    text = np.random.default_rng(seed).integers(0, 80, (len(images) + 1, 4)).tolist()
    ids = list(text[0])
    for words, shown in zip(text[1:], images, strict=True):
        ids += [START, *[IMAGE] * len(shown.tokens), END, *words]
    return ids


@torch.no_grad()
def features(vlm: VLM, *sizes: tuple[int, int]) -> list[ImageFeatures]:
    made = [image(*size, seed) for seed, size in enumerate(sizes)]
    return vlm.encode_images([patches for patches, _ in made], [grid for _, grid in made])


@torch.no_grad()
def test_states_equal_the_librarys_own_pass(vlm: VLM) -> None:
    """Windows of 4 x 4 patches: images larger than one window, and of odd shapes."""
    sizes = ((5, 3), (2, 6))
    ids = chunk(features(vlm, *sizes), 7)
    made = [image(*size, seed) for seed, size in enumerate(sizes)]
    tokens = torch.tensor([ids])
    expected = vlm.model(
        input_ids=tokens,
        mm_token_type_ids=(tokens == IMAGE).int(),
        pixel_values=torch.cat([patches for patches, _ in made]),
        image_grid_thw=torch.tensor([[1, *grid] for _, grid in made]),
    ).logits
    images = features(vlm, *sizes)
    positions = vlm.rope_positions(tokens[0], images)[:, None]
    states = vlm(tokens, positions, images=images)
    torch.testing.assert_close(vlm.logits(states.norm), expected, atol=1e-4, rtol=1e-4)
    norm = vlm.model.model.language_model.norm
    torch.testing.assert_close(norm(states.prenorm), states.norm)


@torch.no_grad()
def test_a_cached_second_turn_equals_one_pass(vlm: VLM) -> None:
    """Two turns with images, through a session, in two rows of different lengths."""
    first, second = features(vlm, (5, 3), (2, 2)), features(vlm, (3, 4))
    chunks = [chunk(first, 1), chunk(second, 2)]
    session = Session(vlm, rows=2)
    session.extend([RowInput(chunks[0], first), RowInput(chunks[0][:4])])
    row = torch.cat([session.extend([RowInput(chunks[1], second), RowInput([5, 6])])[0]])
    whole = torch.tensor(chunks[0] + chunks[1])
    images = [*first, *second]
    states = vlm(whole[None], vlm.rope_positions(whole, images)[:, None], images=images)
    expected = states.prenorm[0, len(chunks[0]) :]
    scale = float(expected.abs().max())
    torch.testing.assert_close(row, expected, atol=1e-4 * scale, rtol=0)
