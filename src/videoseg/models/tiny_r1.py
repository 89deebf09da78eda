"""The small R1 of the bundled checkpoint: the tiny O3's language model with R1's phrases as tokens."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import torch
from tokenizers import AddedToken

from videoseg.dialogue.r1 import INSTRUCTION, INTERVAL, LABELS, PERCENTAGE, SYSTEM, TIME_LABEL, R1Preset
from videoseg.errors import UsageError
from videoseg.models.o3 import O3Model, TextSide
from videoseg.models.tiny import text_files
from videoseg.models.vlm import VLM

PRESET: dict[str, Any] = {
    "name": "tiny",
    "chronological": True,
    "side": 224,
    "space": 99,
    "context_frames": 8,
    "segment_frames": 4,
    "context_least": 96,
    "context_most": 96,
    "intervals": 4,
    "percentages": 4,
    "sampler_frames": 8,
    "sampler_tokens": 128,
    "max_new_tokens": 192,
}
"""Stored in the checkpoint. Coordinates of 0 to 99 are one token each, and one is two pixels of a clip."""

PHRASES = (
    SYSTEM,
    *INSTRUCTION.split("{q}"),
    *INTERVAL.split("{q}"),
    *PERCENTAGE.split("{q}"),
    *(label.partition("{n}")[0] for label in LABELS.values()),
    TIME_LABEL.partition("}")[2],
    "</think><answer>[]</answer>",
    '</think><answer>[{"bbox_2d": [',
    '], "point_2d": [',
    '], "neg_point_2d": [',
    ']}, {"bbox_2d": [',
    "]}]</answer>",
    "</think>The event happens in ",
    " seconds.",
    " - ",
)
"""Fixed phrases of R1's prompts and replies that are one token each."""


def reasoner_from(base: O3Model, seed: int = 0) -> tuple[VLM, TextSide]:
    """The language model of a tiny O3, which is used up, and its text side, with `PHRASES` as new tokens.

    Their embeddings begin near the mean of all others. Raises UsageError for another network than Qwen3-VL.
    """
    torch.manual_seed(seed)
    network, tokenizer = base.vlm.model, base.text.tokenizer
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in PHRASES])
    old = network.get_input_embeddings().weight.shape[0]
    if network.config.model_type != "qwen3_vl":
        raise UsageError(f"the tiny R1 grows out of a Qwen3-VL, not {network.config.model_type}")
    network.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        for table in (network.get_input_embeddings().weight, network.lm_head.weight):
            noise = 0.02 * torch.randn_like(table[old:])
            table[old:] = table[:old].mean(0, keepdim=True) + noise
    config = {**network.config.to_dict(), "videoseg": {"system": "r1", "r1": dict(PRESET)}}
    plain = json.loads(json.dumps(config, default=str))
    return base.vlm, replace(base.text, config=plain, files=text_files(tokenizer))


def tiny_preset() -> R1Preset:
    """The preset of the bundled checkpoint."""
    return R1Preset().override(**PRESET)
