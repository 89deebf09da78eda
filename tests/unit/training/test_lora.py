"""Adapters: no change at first, switched off they are not there, merged they are in the weights."""

from __future__ import annotations

import pytest
import torch

from builders import random_o3
from videoseg.models.o3 import O3Model
from videoseg.training.lora import add_lora, is_lora, merged_state, without_lora
from videoseg.training.settings import LoraSettings

SETTINGS = LoraSettings(r=4, alpha=12, dropout=0.0)


def logits(model: O3Model) -> torch.Tensor:
    ids = torch.arange(30, 50)[None]
    positions = torch.arange(20).expand(3, 1, -1)
    return model.vlm.logits(model.vlm(ids, positions).norm)


@torch.no_grad()
def test_adapters_come_go_and_stay() -> None:
    model, fresh = random_o3(), random_o3()
    before = logits(model)
    add_lora(model, SETTINGS)
    torch.testing.assert_close(logits(model), before)
    for name, parameter in model.named_parameters():
        if is_lora(name):
            parameter.normal_(0, 0.1)
    changed = logits(model)
    assert (changed - before).abs().max() > 1e-3
    with without_lora(model):
        torch.testing.assert_close(logits(model), before)
    torch.testing.assert_close(logits(model), changed)
    fresh.load_state_dict(merged_state(model.state_dict(), SETTINGS))
    torch.testing.assert_close(logits(fresh), changed, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("targets", "count"), [((), 7), (("q_proj", "up_proj"), 2)])
def test_every_linear_layer_is_a_target_unless_named(targets: tuple[str, ...], count: int) -> None:
    model = random_o3()
    add_lora(model, LoraSettings(r=2, alpha=2, targets=targets))
    layers = len(model.vlm.model.model.language_model.layers)
    adapters = [name for name, _ in model.named_parameters() if "lora_A" in name]
    assert len(adapters) == count * layers
    assert all("language_model" in name for name in adapters)
