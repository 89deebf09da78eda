"""The two ResNet bodies of XMem under their official names: bottlenecks for keys, plain blocks for values."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """A residual block: 3x3, 3x3, or with `narrow` 1x1 to that width, 3x3, 1x1; batch norm after each."""

    def __init__(self, inputs: int, outputs: int, stride: int, narrow: int | None = None) -> None:
        super().__init__()
        shapes = (
            [(inputs, outputs, 3, stride), (outputs, outputs, 3, 1)]
            if narrow is None
            else [(inputs, narrow, 1, 1), (narrow, narrow, 3, stride), (narrow, outputs, 1, 1)]
        )
        self.depth = len(shapes)
        for number, (wide_in, wide_out, kernel, step) in enumerate(shapes, start=1):
            convolution = nn.Conv2d(wide_in, wide_out, kernel, step, kernel // 2, bias=False)
            self.add_module(f"conv{number}", convolution)
            self.add_module(f"bn{number}", nn.BatchNorm2d(wide_out))
        self.downsample = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            if stride != 1 or inputs != outputs
            else nn.Identity()
        )

    def forward(self, features: Tensor) -> Tensor:
        """[B, inputs, h, w] to [B, outputs, h / stride, w / stride]."""
        result = features
        for number in range(1, self.depth + 1):
            result = self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(result))
            if number < self.depth:
                result = F.relu(result)
        return F.relu(result + self.downsample(features))


def stage(inputs: int, outputs: int, blocks: int, stride: int, narrow: int | None = None) -> nn.Sequential:
    """Residual blocks, of which the first changes size and width."""
    first = Block(inputs, outputs, stride, narrow)
    return nn.Sequential(first, *(Block(outputs, outputs, 1, narrow) for _ in range(blocks - 1)))


class Stem(nn.Module):
    """The first layers of both bodies, to a quarter of the size."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)

    def stem(self, image: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, outputs, H/4, W/4]."""
        return F.max_pool2d(F.relu(self.bn1(self.conv1(image))), 3, 2, 1)
