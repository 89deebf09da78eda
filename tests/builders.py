"""Small random networks for tests: the real classes, two layers, no files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from videoseg.models.o3 import O3Model
from videoseg.models.tiny import build_o3
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


CORPUS = [
    "the red disc that leaves first, frames 0 1 2 3 4 5 6 7 8 9",
    "<think>Step 1: it moves. Step 2: red. Step 3: the disc. Action: Confirmed.</think>",
    '<answer><VTG>{"start": 1, "end": 2, "keyframe": 3}</VTG>',
]
SMALL_SAM2 = {"image_size": 64, "memory_layers": 1, "memory_mlp": 32, "decoder_mlp": 32, "fuser_mlp": 32}


def random_o3(seed: int = 0) -> O3Model:
    """The tiny architecture, untrained, with a smaller SAM2."""
    return build_o3(seed, corpus=CORPUS, sam2=SMALL_SAM2).eval()


def moving_square(frames: int = 10, height: int = 48, width: int = 64) -> np.ndarray:
    """uint8 [T, H, W, 3]: a red square on noise, moving right."""
    video = np.random.default_rng(0).integers(0, 90, (frames, height, width, 3), dtype=np.uint8)
    for index in range(frames):
        left = 4 + index * (width - 24) // max(1, frames - 1)
        video[index, 16:32, left : left + 16] = (230, 20, 20)
    return video


class Script:
    """A sampler that lets each dialogue say given replies, as ids; dialogues may differ in length."""

    def __init__(self, replies: Sequence[Sequence[Sequence[int]]]) -> None:
        self._replies = replies
        self._turn = -1
        self._rows: list[int] = []

    def __call__(self, logits: torch.Tensor, step: int) -> torch.Tensor:
        if step == 0:
            self._turn += 1
            self._rows = [row for row, turns in enumerate(self._replies) if self._turn < len(turns)]
        current = [self._replies[row][self._turn] for row in self._rows]
        return torch.tensor([ids[min(step, len(ids) - 1)] for ids in current])


def script(model: O3Model, dialogues: Sequence[Sequence[str]]) -> Script:
    """A `Script` from texts, each closed by the end of its turn."""
    renderer = model.text.renderer((48, 64))
    return Script([[renderer.encode_reply(text) for text in turns] for turns in dialogues])
