"""Optimizers of the supervised stages: AdamW, or Muon for the matrices of the language model beside it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from videoseg.errors import UsageError
from videoseg.training.config import SupervisedConfig


def optimizers(module: nn.Module, config: SupervisedConfig) -> list[torch.optim.Optimizer]:
    """Groups by name, each with its top rate; UsageError if nothing learns."""
    groups: dict[str, list[nn.Parameter]] = {"matrices": [], "rest": [], "sam2": []}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            groups[_group(name, parameter)].append(parameter)
    if not any(groups.values()):
        raise UsageError("no parameter learns: look at `train` and `freeze`")
    rates = {"matrices": config.lr, "rest": config.lr_rest, "sam2": config.lr_sam2}
    with_rates = {
        name: {"params": parameters, "lr": config.lr if rates[name] is None else rates[name]}
        for name, parameters in groups.items()
        if parameters
    }
    shared: dict[str, Any] = {"weight_decay": config.weight_decay}
    chosen: list[torch.optim.Optimizer] = []
    if config.optimizer == "muon" and "matrices" in with_rates:
        muon = with_rates.pop("matrices")
        chosen.append(torch.optim.Muon([muon], lr=config.lr, adjust_lr_fn="match_rms_adamw", **shared))
    if with_rates:
        chosen.append(torch.optim.AdamW(list(with_rates.values()), betas=config.betas, fused=True, **shared))
    return chosen


def _group(name: str, parameter: nn.Parameter) -> str:
    if ".sam2." in name:
        return "sam2"
    in_language = parameter.ndim == 2 and ("layers." in name or "blocks." in name)
    return "matrices" if in_language else "rest"
