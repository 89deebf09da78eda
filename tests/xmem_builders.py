"""A small XMem with random weights for tests: the real classes, no files."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from videoseg.models.xmem import FrameKeys, XMem, XMemSizes

MICRO = XMemSizes(
    stem=4, key_blocks=(1, 1, 1), value_blocks=(1, 1, 1), key=8, value=8, hidden=6, fuse=16, up=8
)
SIZE = 48


@torch.no_grad()
def random_xmem(seed: int = 0) -> XMem:
    """Weights so large that frames and memories make a difference."""
    torch.manual_seed(seed)
    xmem = XMem(MICRO, SIZE).eval()
    for module in xmem.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.mul_(1.5)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    xmem.key_proj.key_proj.weight.mul_(3)
    xmem.decoder.pred.weight.mul_(20)
    return xmem


def random_clip(frames: int, height: int = SIZE, width: int = 64, seed: int = 0) -> Tensor:
    """Normalised images [T, 3, H, W] that change slowly."""
    generator = torch.Generator().manual_seed(seed)
    ends = torch.randn(2, 3, height, width, generator=generator)
    share = torch.linspace(0, 1, frames)[:, None, None, None]
    return (
        ends[0] * (1 - share)
        + ends[1] * share
        + 0.2 * torch.randn(frames, 3, height, width, generator=generator)
    )


@torch.no_grad()
def keys_of(xmem: XMem, clip: Tensor) -> list[FrameKeys]:
    """Keys of every frame."""
    return [xmem.encode_frame(image[None]) for image in clip]


def squares(height: int = SIZE, width: int = 64, objects: int = 2) -> Tensor:
    """Masks bool [N, H, W] of squares beside each other."""
    masks = torch.zeros(objects, height, width, dtype=torch.bool)
    for number in range(objects):
        masks[number, 8:24, 4 + 20 * number : 20 + 20 * number] = True
    return masks
