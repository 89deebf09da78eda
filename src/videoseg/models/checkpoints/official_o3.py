"""The official O3 / Sa2VA export: which of its keys belong to which network (O3 specification §5).

`model.*` is Qwen3-VL, `grounding_encoder.sam2_model.*` is SAM2 in Meta's names (with `g_weight`
for the fuser's `gamma`), `text_hidden_fcs.*` the projector. Every key must fall into one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import Qwen3VLConfig

from videoseg.errors import CheckpointError, CheckpointKeysError
from videoseg.models.checkpoints.meta_sam2 import to_meta, to_transformers

State = dict[str, Tensor]

LANGUAGE = "model."
SAM2 = "grounding_encoder.sam2_model."
PROJECTOR = "text_hidden_fcs."
NOT_CONFIG = (
    "model_type",
    "architectures",
    "template",
    "auto_map",
    "transformers_version",
    "dtype",
    "videoseg",
)
NOT_O3 = "this is not an O3 export; `videoseg convert` reads stock Qwen3-VL and SAM2 weights"


@dataclass(frozen=True, eq=False, slots=True)
class Parts:
    """State dicts of the three networks, each in the names of its own class here."""

    language: State
    sam2: State
    projector: State


def split(state: Mapping[str, Tensor]) -> Parts:
    """Official names to ours; `CheckpointKeysError` lists keys that belong to no network."""
    groups: dict[str, State] = {LANGUAGE: {}, SAM2: {}, PROJECTOR: {}}
    strangers = []
    for key, tensor in state.items():
        prefix = next((p for p in groups if key.startswith(p)), None)
        if prefix is None:
            strangers.append(key)
        else:
            groups[prefix][key.removeprefix(prefix)] = tensor
    if strangers:
        raise CheckpointKeysError(f"unexpected keys in an O3 checkpoint: {_listed(strangers)}; {NOT_O3}")
    empty = [prefix for prefix, group in groups.items() if not group]
    if empty:
        raise CheckpointKeysError(f"no key begins with {_listed(empty)}; {NOT_O3}")
    return Parts(groups[LANGUAGE], to_transformers(groups[SAM2]), groups[PROJECTOR])


def join(parts: Parts) -> State:
    """Our names to official ones, the inverse of `split`."""
    state = {LANGUAGE + key: tensor for key, tensor in parts.language.items()}
    state |= {SAM2 + key: tensor for key, tensor in to_meta(parts.sam2, o3_names=True).items()}
    return state | {PROJECTOR + key: tensor for key, tensor in parts.projector.items()}


def language_config(config: Mapping[str, Any]) -> Qwen3VLConfig:
    """Qwen3-VL configuration from the export's `config.json`."""
    missing = [key for key in ("text_config", "vision_config") if key not in config]
    if missing:
        raise CheckpointError(f"config.json has no {_listed(missing)}; {NOT_O3}")
    # A copy, because the constructor edits the nested dicts.
    rest = deepcopy({key: value for key, value in config.items() if key not in NOT_CONFIG})
    return Qwen3VLConfig(**rest)


def _listed(keys: list[str], most: int = 20) -> str:
    text = ", ".join(keys[:most])
    return text if len(keys) <= most else f"{text} and {len(keys) - most} more"
