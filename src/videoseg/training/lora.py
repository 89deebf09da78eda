"""LoRA on the language model (O3 specification §10, §11): added, switched off and merged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from videoseg.errors import UsageError
from videoseg.models.o3 import O3Model
from videoseg.training.settings import LoraSettings

ADAPTER = "default"


def add_lora(model: O3Model, settings: LoraSettings) -> None:
    """Put adapters on the linear layers of the language model, in place; they start as no change at all.

    The layers themselves stop learning. Raises UsageError for a target that does not exist.
    """
    peft = _peft()
    language = model.vlm.model.model.language_model
    names = {
        name.rpartition(".")[2] for name, part in language.named_modules() if isinstance(part, nn.Linear)
    }
    if unknown := sorted(set(settings.targets) - names):
        raise UsageError(
            f"lora.targets: no linear layer {', '.join(unknown)}; there are {', '.join(sorted(names))}"
        )
    config = peft.LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=sorted(settings.targets or names),
    )
    peft.inject_adapter_in_model(config, language, ADAPTER)


def is_lora(name: str) -> bool:
    """Whether a parameter of this name belongs to an adapter."""
    return ".lora_" in name


@contextmanager
def without_lora(model: nn.Module) -> Iterator[None]:
    """The model as it was before its adapters: the reference of a policy that learns through LoRA alone."""
    layers = [layer for _, layer in _adapted(model)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


@torch.no_grad()
def merged_state(state: Mapping[str, Tensor], settings: LoraSettings | None) -> dict[str, Tensor]:
    """Weights under the names that they have without adapters, the adapters' updates added.

    Works on state dicts, so that nothing of the model changes and gathered shards can be merged too.
    """
    merged = {n.replace(".base_layer.", "."): v for n, v in state.items() if not is_lora(n)}
    for name, down in state.items():
        layer, found, _ = name.partition(f".lora_A.{ADAPTER}.weight")
        if found and settings:
            up, weight = state[f"{layer}.lora_B.{ADAPTER}.weight"], merged[f"{layer}.weight"]
            update = up.float() @ down.float() * (settings.alpha / settings.r)
            merged[f"{layer}.weight"] = (weight.float() + update).to(weight.dtype)
    return merged


def _adapted(module: nn.Module) -> list[tuple[str, Any]]:
    """The layers that carry adapters, each with the beginning of its parameters' names."""
    found = [(name, part) for name, part in module.named_modules() if hasattr(part, "get_delta_weight")]
    return [(f"{name}." if name else "", part) for name, part in found]


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise UsageError("LoRA needs peft; pip install 'videoseg[train]'") from error
    return peft
