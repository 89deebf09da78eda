"""What a GRPO run would need, from its settings and the checkpoint's config alone: tokens, passes, memory.

Parameters are counted exactly, on torch's meta device. Tokens assume that every dialogue uses all its turns
and all its new tokens. Activations are an estimate; docs/grpo.md says how it is made.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, Qwen2_5_VLConfig, Qwen3VLConfig

from videoseg.dialogue.budget import ImageGeometry, resize_plan
from videoseg.dialogue.preset import preset
from videoseg.dialogue.r1 import R1Preset, resize_plans
from videoseg.errors import UsageError
from videoseg.models.checkpoints.folder import DTYPES, read_json
from videoseg.models.checkpoints.hub import KNOWN
from videoseg.models.checkpoints.r1 import NETWORKS, r1_preset
from videoseg.models.o3 import build_projector
from videoseg.models.sam2 import Sam2
from videoseg.models.sam2_config import sam2_config
from videoseg.training.grpo_config import GrpoConfig
from videoseg.training.preparation import learns
from videoseg.types import Role

GIB = 2**30
FRAME = (480, 854)
"""The frame that the plan assumes."""
TEXT_TOKENS = 420
"""Text of the first prompt (system prompt and question); later ones are about 120."""
LATER_TEXT = 120
R1_TEXT_TOKENS = 250
"""R1's instruction with a query, and the labels of its frames."""
CONFIGS: dict[str, type[PretrainedConfig]] = {"qwen2_5_vl": Qwen2_5_VLConfig, "qwen3_vl": Qwen3VLConfig}
PUBLISHED: dict[str, dict[str, tuple[int, int, int, int, int, int]]] = {
    "o3": {"2b": (2048, 28, 16, 8, 6144, 151_674), "4b": (2560, 36, 32, 8, 9728, 151_674)},
    "r1": {"3b": (2048, 36, 16, 2, 11008, 151_936), "7b": (3584, 28, 28, 4, 18944, 152_064)},
}
"""Language models of Qwen3-VL (O3) and Qwen2.5-VL (R1): width, layers, heads, key-value heads, inner width of
the feed-forward part, vocabulary; a head is 128 wide."""
VISION: dict[str, dict[str, int]] = {
    "o3": {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16},
    "r1": {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16},
}


@dataclass(frozen=True, slots=True)
class Length:
    """Of one dialogue: tokens of its first prompt, tokens shown later, sampled tokens, masks."""

    stem: int
    later: int
    new: int
    masks: int

    def packed(self, group: int) -> int:
        """Tokens of a group, whose stem is read once."""
        return self.stem + group * (self.later + self.new)


@dataclass(frozen=True, slots=True)
class GrpoPlan:
    """Numbers per process, memory in bytes by part; `tokens` are read in a training pass over a step."""

    processes: int
    passes: int
    rollouts: int
    length: Length
    tokens: int
    masks: int
    trained: int
    frozen: int
    memory: dict[str, float]

    def lines(self) -> list[str]:
        """For the terminal."""
        length = self.length
        found = [
            f"{self.processes} processes, each {self.rollouts} rollouts a step in {self.passes} passes",
            f"a dialogue has at most {length.packed(1):,} tokens; {length.stem:,} are read once per group, "
            f"{length.new:,} are sampled",
            f"{self.tokens:,} tokens a step and process, {self.tokens * self.processes:,} in all; "
            f"{self.masks:,} masks a process",
            f"{self.trained / 1e6:,.1f} M parameters learn, {self.frozen / 1e6:,.1f} M do not",
            "memory per GPU, with AdamW:",
        ]
        found += [f"  {name:<44}{size / GIB:8.2f} GiB" for name, size in self.memory.items()]
        return [*found, f"  {'sum':<44}{sum(self.memory.values()) / GIB:8.2f} GiB"]


def plan_of(config: GrpoConfig, processes: int | None = None) -> GrpoPlan:
    """The plan for `processes` (those of the launcher, else 8 for the published sizes, else 1)."""
    values = checkpoint_config(config)
    known = int(os.environ.get("WORLD_SIZE", 0)) or (8 if config.batch >= 16 else 1)
    count = processes or known
    trained, frozen, language = parameters(values, config)
    rollouts = config.batch // count * config.group
    length = (r1_length if config.system == "r1" else o3_length)(values, config)
    memory = _memory(config, values, count, trained, frozen, language, length)
    passes = max(1, config.batch // (count * config.groups_per_pass))
    tokens = rollouts // config.group * length.packed(config.group)
    return GrpoPlan(count, passes, rollouts, length, tokens, length.masks * rollouts, trained, frozen, memory)


def o3_length(values: dict[str, Any], config: GrpoConfig) -> Length:
    """A dialogue of O3 that uses all its turns, on a video of `FRAME`."""
    settings = dict(values.get("videoseg", {}).get("preset", {}))
    chosen = preset(settings.pop("name", "default"), **settings).override(**config.preset)
    budget = chosen.budget
    geometry, turns = geometry_of(values), budget.max_turns

    def image(role: Role) -> int:
        plan = resize_plan(FRAME, role, chosen, geometry)
        height, width = (plan[-1].height, plan[-1].width) if plan else FRAME
        return height * width // geometry.factor**2 + 2

    first = budget.low_frames * image(Role.LOW) + budget.high_frames * image(Role.HIGH) + TEXT_TOKENS
    later = budget.later_frames * image(Role.LOW) + image(Role.KEYFRAME) + LATER_TEXT
    masks = turns * (budget.high_frames + 1)
    return Length(first, (turns - 1) * later, turns * budget.max_new_tokens, masks)


def r1_length(values: dict[str, Any], config: GrpoConfig) -> Length:
    """R1's one turn, which has no mask."""
    chosen: R1Preset = r1_preset(values).override(**config.preset)
    geometry = geometry_of(values)
    plans = resize_plans(FRAME, chosen, geometry)
    context, target = (
        plans[role][-1].height * plans[role][-1].width // geometry.factor**2 + 2
        for role in (Role.REFERENCE, Role.TARGET)
    )
    prompt = chosen.context_frames * context + target + R1_TEXT_TOKENS
    return Length(prompt, 0, chosen.max_new_tokens, 0)


def geometry_of(values: dict[str, Any]) -> ImageGeometry:
    """The visual tokens of a network."""
    return ImageGeometry(patch=14 if values["model_type"] == "qwen2_5_vl" else 16, merge=2)


def checkpoint_config(config: GrpoConfig) -> dict[str, Any]:
    """The `config.json` of `init`, or for a folder that is not there yet the published size in its name."""
    entry = KNOWN.get(config.init)
    folder = entry.folder if entry and entry.folder else Path(config.init)
    if (folder / "config.json").is_file():
        return dict(read_json(folder / "config.json"))
    sizes = PUBLISHED[config.system]
    size = next((name for name in sizes if name in config.init.lower()), None)
    if size is None:
        raise UsageError(
            f"{config.init}: no config.json there, and the name tells no size ({', '.join(sizes)})"
        )
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    text = dict(zip((*names, "intermediate_size", "vocab_size"), sizes[size], strict=True))
    return {
        "model_type": "qwen2_5_vl" if config.system == "r1" else "qwen3_vl",
        "text_config": {**text, "head_dim": 128},
        "vision_config": {**VISION[config.system], "out_hidden_size": text["hidden_size"]},
        "tie_word_embeddings": size == "3b",
    }


def parameters(values: dict[str, Any], config: GrpoConfig) -> tuple[int, int, int]:
    """How many parameters learn, how many do not, and how many the copy for the reference has."""
    kind = values["model_type"]
    with torch.device("meta"):
        vlm = NETWORKS[kind](CONFIGS[kind].from_dict(values))
    named = {f"vlm.model.{name}": value.numel() for name, value in vlm.named_parameters()}
    if config.system == "o3":
        named |= _mask_parts(values, vlm.config.text_config.hidden_size)
    trained = sum(size for name, size in named.items() if learns(name, config))
    language = sum(size for name, size in named.items() if name.startswith("vlm."))
    if config.lora and not any(name.startswith("vlm.") and learns(name, config) for name in named):
        language = 0
    if config.lora:
        layers = vlm.model.language_model.layers
        trained += sum(
            config.lora.r * (part.in_features + part.out_features)
            for part in layers.modules()
            if isinstance(part, nn.Linear)
        )
    return trained, sum(named.values()) - trained, language


def _mask_parts(values: dict[str, Any], width: int) -> dict[str, int]:
    """Sizes of O3's projector and SAM2; R1's SAM2 takes no part in training."""
    with torch.device("meta"):
        parts: dict[str, nn.Module] = {"projector": build_projector(width, 256)}
    parts["sam2"] = Sam2(sam2_config(**values.get("videoseg", {}).get("sam2", {})))
    return {
        f"{part}.{name}": value.numel()
        for part, module in parts.items()
        for name, value in module.named_parameters()
    }


def _memory(
    config: GrpoConfig,
    values: dict[str, Any],
    processes: int,
    trained: int,
    frozen: int,
    language: int,
    length: Length,
) -> dict[str, float]:
    """Bytes by part; gradients and optimizer are sharded over the processes, as ZeRO-2 does."""
    text = values.get("text_config", values)  # Qwen2.5-VL as published has its text's fields at the top
    width = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    heads = text["num_key_value_heads"] * width * 2
    held = torch.empty(0, dtype=DTYPES[config.frozen_dtype]).element_size()
    copy = language * held if config.objective.beta else 0
    group, groups = config.group, config.groups_per_pass
    tokens = groups * length.packed(group)
    layer = tokens * (14 * text["hidden_size"] + 4 * text["intermediate_size"]) * 2
    kept = text["num_hidden_layers"] * (
        tokens * text["hidden_size"] * 2 if config.gradient_checkpointing else layer
    )
    own = length.later + length.new
    shares = 3 * groups * group * text["num_attention_heads"] * own * (length.stem + own) * 2
    side = values.get("videoseg", {}).get("sam2", {}).get("image_size", 1024)
    drawn = length.masks * groups * group * (side / 1024) ** 2 * 60 * 2**20
    logits = 256 * text["vocab_size"] * 4 * 3
    cache = config.max_rows * length.packed(1) * text["num_hidden_layers"] * heads * 2
    return {
        "weights that learn (float32)": trained * 4,
        f"weights that do not ({config.frozen_dtype})": frozen * held,
        "copy of the weights for autocast": trained * 2 if config.bf16 else 0,
        "gradients (sharded)": trained * 4 / processes,
        "AdamW (sharded)": trained * 8 / processes,
        "reference": copy,
        "a pass: activations (estimate)": kept + layer + logits,
        "a pass: attention of a layer (estimate)": shares,
        "a pass: masks (estimate)": drawn,
        "sampling: keys and values, not at that time": cache,
    }
