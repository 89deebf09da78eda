"""The small O3 architecture of the bundled checkpoint (design §6): configurations, tokenizer, initialisation.

Library initialisation is too small for networks of this width (spec tiny.md): `initialise_sam2` and
`initialise_vlm` draw every weight at the scale of its fan-in instead.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from videoseg.data.world.sampler import TEST_SEEDS, WorldSpec, draw_samples
from videoseg.data.world.trace import true_trace
from videoseg.dialogue.budget import ImageGeometry
from videoseg.dialogue.grammar import format_reply
from videoseg.dialogue.preset import preset
from videoseg.dialogue.prompts import CONTINUE, SYSTEM_PROMPT, first_texts
from videoseg.models.o3 import O3Model, TextSide, build_projector
from videoseg.models.sam2 import Sam2
from videoseg.models.sam2_config import sam2_config
from videoseg.models.vlm import VLM
from videoseg.video.sampling import sample_video

SAM2_SIZES: dict[str, Any] = {
    "trunk": "pico",
    "image_size": 128,
    "memory_layers": 2,
    "memory_mlp": 512,
    "decoder_mlp": 512,
    "fuser_mlp": 512,
}
"""Arguments of `sam2_config`: 5.5 M parameters (stack.md §6, variant a)."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}"
    "{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "[SEG]",
    "<p>",
    "</p>",
    "<vp>",
    "</vp>",
)


def build_sam2(**overrides: Any) -> Sam2:
    """A small SAM2 with weights drawn for training from scratch."""
    model = Sam2(sam2_config(**{**SAM2_SIZES, **overrides}))
    initialise_sam2(model)
    return model


@torch.no_grad()
def initialise_sam2(sam2: Sam2) -> None:
    """Redraw SAM2's layers at fan-in scale and keep its two position tables equal (spec tiny.md, 1 and 2)."""
    for module in sam2.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.Embedding):
            module.reset_parameters()
    model = sam2.model
    model.shared_image_embedding.positional_embedding.copy_(
        model.prompt_encoder.shared_embedding.positional_embedding
    )


PRESET: dict[str, Any] = {
    "name": "default",
    "low_frames": 6,
    "high_frames": 3,
    "later_frames": 3,
    "low_pixels": 7000,
    "high_pixels": 160 * 96,
    "keyframe_pixels": 224 * 160,
    "min_pixels": 32 * 32,
    "max_turns": 3,
    "max_new_tokens": 160,
    "propagation": "per_frame",
}
"""The preset stored in the checkpoint; clips of 224 x 160 are shown at 96 x 64, 128 x 96 and 224 x 160."""

PROCESSOR: dict[str, Any] = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen3VLProcessor",
    "patch_size": 16,
    "merge_size": 2,
    "temporal_patch_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"shortest_edge": 1024, "longest_edge": 262144},
}

PHRASES = (
    SYSTEM_PROMPT,
    "\nHere are ",
    "Here are ",
    " low-resolution frames in this video (frame indice is [",
    " low-resolution frames in this video (frame indices are [",
    " high-resolution frames in this video (frame indice:[",
    "])\n",
    "]).\n",
    '\nThe query is "',
    '". Show me your thought process for finding and segmenting this target. This video has ',
    " frames.\n",
    "Here is key frames (frame indice:",
    ").\nThe text query is '",
    "'." + CONTINUE.partition("'{query}'.")[2],
    "<think>Step 1:",
    ". Step 2:",
    ". Step 3:",
    ". Action: See new segment because it is clearest at frame ",
    '. Action: Confirmed.</think><answer><VTG>{"start": ',
    '.</think><select><VTG>{"start": ',
    ', "end": ',
    ', "keyframe": ',
    "}</VTG><RefSeg>",
    "</RefSeg></select>",
    "</RefSeg></answer>",
)
"""Fixed phrases of the prompts and replies that are one token each: a third of the tokens remain."""

SPLIT = r"\d{1,2}|, (?=\d)| ?\p{L}+| ?[^\s\p{L}\d]+|\s+"


def build_tokenizer(corpus: Iterable[str], vocabulary: int = 900) -> PreTrainedTokenizerFast:
    """Byte-level BPE on `corpus` with the special tokens and `PHRASES`; any text survives a round trip."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in PHRASES])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=32768,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def vlm_config(tokenizer: PreTrainedTokenizerFast, **overrides: int) -> Qwen3VLConfig:
    """A Qwen3-VL of about 4 M parameters (stack.md §6, `S`) for a tokenizer's vocabulary.

    `overrides`: width, layers, heads, mlp, vision_width, vision_layers, vision_mlp.
    """
    size = {
        "width": 192, "layers": 4, "heads": 4, "mlp": 512,
        "vision_width": 128, "vision_layers": 4, "vision_mlp": 384,
    } | overrides  # fmt: skip
    head = size["width"] // size["heads"]
    third = head // 6
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("image_pad", "video_pad")}
    return Qwen3VLConfig(
        text_config={
            "hidden_size": size["width"],
            "intermediate_size": size["mlp"],
            "num_hidden_layers": size["layers"],
            "num_attention_heads": size["heads"],
            "num_key_value_heads": size["heads"] // 2,
            "head_dim": head,
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
            "max_position_embeddings": 32768,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_interleaved": True,
                "mrope_section": [head // 2 - 2 * third, third, third],
            },
        },
        vision_config={
            "hidden_size": size["vision_width"],
            "depth": size["vision_layers"],
            "num_heads": 4,
            "intermediate_size": size["vision_mlp"],
            "out_hidden_size": size["width"],
            "patch_size": PROCESSOR["patch_size"],
            "spatial_merge_size": PROCESSOR["merge_size"],
            "temporal_patch_size": PROCESSOR["temporal_patch_size"],
            "num_position_embeddings": 256,
            "deepstack_visual_indexes": [1, 2],
        },
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        tie_word_embeddings=False,
    )


def build_vlm(config: Qwen3VLConfig) -> Qwen3VLForConditionalGeneration:
    """A Qwen3-VL with weights drawn for training from scratch."""
    model = Qwen3VLForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    initialise_vlm(model)
    return model


@torch.no_grad()
def initialise_vlm(model: Qwen3VLForConditionalGeneration) -> None:
    """Redraw linear layers with variance 1 / fan-in, those that end a residual branch smaller by depth."""
    depth = 2 * model.config.text_config.num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv3d):
            std = 1 / math.sqrt(module.weight[0].numel())
            if name.endswith(("o_proj", "down_proj", "attn.proj", "linear_fc2")) and "merger" not in name:
                std /= math.sqrt(depth)
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.5)
    nn.init.normal_(model.lm_head.weight, std=0.02)


def world_corpus(samples: int = 300) -> list[str]:
    """Texts that the tokenizer is trained on: queries, true replies and prompts of generated clips."""
    chosen = preset(**PRESET)
    texts = ["system\nuser\nassistant\n", ", ".join(str(number) for number in range(100))] * 50
    for sample in draw_samples(range(TEST_SEEDS.stop, TEST_SEEDS.stop + samples), WorldSpec()):
        length, query = sample.scene.num_frames, sample.question.text
        low, high = sample_video(length, PRESET["low_frames"]), sample_video(length, PRESET["high_frames"])
        replies = true_trace(sample, low).replies
        texts += [query, *first_texts(low, high, query, length, chosen)]
        texts += [format_reply(reply) for reply in replies]
    return texts


def build_o3(
    seed: int = 0, corpus: Iterable[str] | None = None, sam2: dict[str, Any] | None = None
) -> O3Model:
    """The whole tiny model with fresh weights, ready to be trained and saved.

    `corpus` is what the tokenizer is trained on (default `world_corpus()`), `sam2` overrides `SAM2_SIZES`.
    """
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(world_corpus() if corpus is None else corpus)
    config = vlm_config(tokenizer)
    sizes = {**SAM2_SIZES, **(sam2 or {})}
    settings = {**config.to_dict(), "videoseg": {"sam2": sizes, "preset": dict(PRESET)}}
    text = TextSide(
        tokenizer,
        ImageGeometry.from_processor_config(PROCESSOR),
        preset(**PRESET),
        json.loads(json.dumps(settings, default=str)),
        text_files(tokenizer),
    )
    language = VLM(build_vlm(config))
    decoder = build_sam2(**sizes)
    return O3Model(language, build_projector(language.width, decoder.width), decoder, text)


def text_files(tokenizer: PreTrainedTokenizerFast) -> dict[str, bytes]:
    """Tokenizer, template and image-processor files of a checkpoint folder."""
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    files["preprocessor_config.json"] = (json.dumps(PROCESSOR, indent=2) + "\n").encode()
    files["chat_template.jinja"] = CHAT_TEMPLATE.encode()
    return files
