"""The model of a supervised run: loaded, frozen by name, adapters added (O3 spec §10, §16 no. 19)."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch

from videoseg.errors import UsageError
from videoseg.models.causal_blocks import use_causal_blocks, use_stems
from videoseg.models.checkpoints.folder import load_folder
from videoseg.models.checkpoints.hub import known_hashes, resolve
from videoseg.models.o3 import O3Model
from videoseg.models.tiny import build_o3
from videoseg.models.vision_speed import prefer_plain_attention, speed_up_vision
from videoseg.training.config import SupervisedConfig
from videoseg.training.lora import add_lora, is_lora
from videoseg.training.settings import LoraSettings
from videoseg.training.stage0 import load_words
from videoseg.training.words import WordTable

SAM2_IN_USE = (
    "sam2.model.vision_encoder.",
    "sam2.model.mask_decoder.",
    "sam2.model.no_memory_embedding",
    "sam2.model.prompt_encoder.not_a_point_embed",
    "sam2.model.prompt_encoder.no_mask_embed",
)
"""What a language prompt on a single frame uses of SAM2 (§7); nothing else has a gradient."""
JUDGES = ("sam2.model.mask_decoder.iou_prediction_head.", "sam2.model.mask_decoder.pred_obj_score_head.")
"""Quality and presence of masks; the published mask loss has no term for them."""
LANGUAGE = "vlm.model.model.language_model.layers."


class Learning(Protocol):
    """The settings that say what learns; those of supervised runs and of GRPO."""

    @property
    def train(self) -> tuple[str, ...]:
        """Prefixes of names that learn; empty: all."""
        ...

    @property
    def freeze(self) -> tuple[str, ...]:
        """Prefixes of names that do not."""
        ...

    @property
    def lora(self) -> LoraSettings | None:
        """Adapters on the language model."""
        ...

    @property
    def masks(self) -> bool:
        """Whether SAM2 is in the loop."""
        ...

    @property
    def mask_loss(self) -> str:
        """Which of the mask losses."""
        ...


def prepare_model(config: SupervisedConfig) -> O3Model:
    """The model to train, on the CPU; CheckpointError if it cannot be read."""
    on_cpu = config.device == "cpu" or not torch.accelerator.is_available()
    if config.init:
        hashes = known_hashes(config.init)
        folder = resolve(config.init)
        model = load_folder(folder, name=config.init, dtype=config.frozen_dtype, hashes=hashes)
    else:
        model = build_o3(seed=config.seed)
    if config.weights.aids and not on_cpu:
        raise UsageError("training aids run on a CPU only: set device to cpu")
    make_fast(model, on_cpu, config.gradient_checkpointing)
    choose_trained(model, config)
    return model


def make_fast(model: O3Model, on_cpu: bool, gradient_checkpointing: bool) -> None:
    """Ways of computing that suit the device; the numbers stay the same."""
    if on_cpu:
        prefer_plain_attention()
        speed_up_vision(model.vlm.model.model.visual)
        use_causal_blocks(model.vlm.model.model.language_model)
    else:
        use_stems(model.vlm.model.model.language_model)
    if gradient_checkpointing:
        settings = {"use_reentrant": False}
        model.vlm.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)


def choose_trained(model: O3Model, config: Learning) -> None:
    """Set `requires_grad` by name, add adapters, and hold what learns in float32.

    Raises UsageError for a name in `train` or `freeze` that no parameter begins with.
    """
    names = [name for name, _ in model.named_parameters()]
    for prefix in (*config.train, *config.freeze):
        if not any(name.startswith(prefix) for name in names):
            raise UsageError(f"train or freeze: no parameter's name begins with {prefix!r}")
    if config.lora:
        add_lora(model, config.lora)  # freezes all around its adapters, so names decide afterwards
    for name, parameter in model.named_parameters():
        learning = is_lora(name) or (parameter.is_floating_point() and learns(name, config))
        parameter.requires_grad_(learning)
        if learning:
            parameter.data = parameter.data.float()


def learns(name: str, config: Learning) -> bool:
    """Whether the parameter of this name learns; those of adapters have none of these names."""
    if config.train and not name.startswith(config.train):
        return False
    if name.startswith(config.freeze) if config.freeze else False:
        return False
    if config.lora and name.startswith(LANGUAGE) and not any(LANGUAGE.startswith(p) for p in config.train):
        return False
    if not name.startswith("sam2."):
        return True
    judged = config.mask_loss == "points" and name.startswith(JUDGES)
    return config.masks and name.startswith(SAM2_IN_USE) and not judged


def prepare_words(config: SupervisedConfig, model: O3Model) -> WordTable | None:
    """The words table of stage 0, if there is one; its SAM2 goes into fresh models, or where asked."""
    if not config.words:
        return None
    stage0 = load_words(Path(config.words))
    table = WordTable(model.sam2.width)
    table.load_state_dict(stage0["table"])
    if not config.init or config.sam2_from_words:
        model.sam2.load_state_dict(stage0["sam2"])
    return table
