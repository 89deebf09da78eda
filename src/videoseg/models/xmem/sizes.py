"""How large an XMem is: the published network and the bundled small one (R1 specification §6)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from videoseg.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class XMemSizes:
    """Channels and blocks of every part; the defaults are the published network's (62 M parameters).

    `stem` is the width of both ResNets' first convolution. The key encoder's bottleneck stages put out 4, 8
    and 16 times as many channels, the value encoder's plain stages 1, 2 and 4 times. `fuse` and `up` are
    the decoder's widths at 1/16 and above; `key`, `value`, `hidden` those of memory and sensory state.
    """

    stem: int = 64
    key_blocks: tuple[int, int, int] = (3, 4, 6)
    value_blocks: tuple[int, int, int] = (2, 2, 2)
    key: int = 64
    value: int = 512
    hidden: int = 64
    fuse: int = 512
    up: int = 256


TINY = XMemSizes(
    stem=16, key_blocks=(1, 1, 2), value_blocks=(1, 1, 1), key=32, value=64, hidden=32, fuse=64, up=48
)
"""The bundled network, about 0.9 M parameters."""


def infer_sizes(state: Mapping[str, Tensor]) -> XMemSizes:
    """The sizes of the network with these weights; CheckpointError where a tensor is missing."""
    try:
        return XMemSizes(
            stem=len(state["key_encoder.conv1.weight"]),
            key_blocks=_blocks(state, "key_encoder", ("res2", "layer2", "layer3")),
            value_blocks=_blocks(state, "value_encoder", ("layer1", "layer2", "layer3")),
            key=len(state["key_proj.key_proj.weight"]),
            value=len(state["value_encoder.fuser.block2.conv2.weight"]),
            hidden=len(state["decoder.hidden_update.transform.weight"]) // 3,
            fuse=len(state["decoder.fuser.block2.conv2.weight"]),
            up=len(state["decoder.up_8_4.out_conv.conv2.weight"]),
        )
    except KeyError as error:
        raise CheckpointError(f"these are no weights of XMem: {error} is missing") from error


def _blocks(state: Mapping[str, Tensor], part: str, stages: tuple[str, ...]) -> tuple[int, int, int]:
    pattern = re.compile(rf"{part}\.({'|'.join(stages)})\.(\d+)\.conv1\.weight")
    found = [match.groups() for name in state if (match := pattern.fullmatch(name))]
    first, second, third = (sum(stage == name for name, _ in found) for stage in stages)
    return first, second, third
