"""XMem's network: keys of a frame, values of its objects, masks from what memory returns (R1 spec §6).

Parameter names and numbers are those of the official checkpoint (golden `xmem`). B clips with N objects
each; objects do not see each other except in the value encoder's "others" mask and the final softmax.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from videoseg.models.xmem.resnet import Stem, stage
from videoseg.models.xmem.sizes import XMemSizes

STRIDE = 16
"""Keys, values and the sensory state have one vector per square of so many pixels."""


@dataclass(frozen=True, eq=False, slots=True)
class FrameKeys:
    """What a frame is before any object: `key`, `selection` [B, C, h, w], `shrinkage` [B, 1, h, w].

    `f16`, `f8`, `f4` are the encoder's maps; `image` [B, 3, H, W] is padded to multiples of 16 by `pad`
    (left, right, top, bottom).
    """

    image: Tensor
    key: Tensor
    shrinkage: Tensor
    selection: Tensor
    f16: Tensor
    f8: Tensor
    f4: Tensor
    pad: tuple[int, int, int, int]

    def pick(self, rows: slice) -> FrameKeys:
        """Some of the B frames."""
        return FrameKeys(
            self.image[rows],
            self.key[rows],
            self.shrinkage[rows],
            self.selection[rows],
            self.f16[rows],
            self.f8[rows],
            self.f4[rows],
            self.pad,
        )

    def crop(self, maps: Tensor) -> Tensor:
        """`maps` [..., H, W] without the padding."""
        left, right, top, bottom = self.pad
        return maps[..., top : maps.shape[-2] - bottom, left : maps.shape[-1] - right]


class KeyEncoder(Stem):
    """A ResNet without its last stage; puts out the maps at 1/16, 1/8 and 1/4."""

    def __init__(self, sizes: XMemSizes) -> None:
        width, (first, second, third) = sizes.stem, sizes.key_blocks
        super().__init__(3, width)
        self.res2 = stage(width, 4 * width, first, 1, narrow=width)
        self.layer2 = stage(4 * width, 8 * width, second, 2, narrow=2 * width)
        self.layer3 = stage(8 * width, 16 * width, third, 2, narrow=4 * width)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        f4 = self.res2(self.stem(image))
        f8 = self.layer2(f4)
        return self.layer3(f8), f8, f4


class KeyProjection(nn.Module):
    """Key, shrinkage (>= 1) and selection (0..1) of every position."""

    def __init__(self, inputs: int, key: int) -> None:
        super().__init__()
        self.key_proj = nn.Conv2d(inputs, key, 3, padding=1)
        self.d_proj = nn.Conv2d(inputs, 1, 3, padding=1)
        self.e_proj = nn.Conv2d(inputs, key, 3, padding=1)
        nn.init.orthogonal_(self.key_proj.weight)
        nn.init.constant_(self.key_proj.get_parameter("bias"), 0.0)

    def forward(self, f16: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.key_proj(f16), self.d_proj(f16) ** 2 + 1, self.e_proj(f16).sigmoid()


class ObjectBlock(nn.Module):
    """Two pre-activated convolutions with a shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.downsample = nn.Conv2d(inputs, outputs, 3, padding=1) if inputs != outputs else nn.Identity()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        return self.conv2(F.relu(self.conv1(F.relu(features)))) + self.downsample(features)


class Attention(nn.Module):
    """Gates channels, then positions (CBAM); the nested names are the checkpoint's."""

    def __init__(self, width: int) -> None:
        super().__init__()
        narrow = max(1, width // 16)
        layers = nn.Sequential(nn.Flatten(), nn.Linear(width, narrow), nn.ReLU(), nn.Linear(narrow, width))
        self.ChannelGate = nn.ModuleDict({"mlp": layers})
        convolution = nn.ModuleDict({"conv": nn.Conv2d(2, 1, 7, padding=3)})
        self.SpatialGate = nn.ModuleDict({"spatial": convolution})

    def forward(self, features: Tensor) -> Tensor:
        layers = self.ChannelGate["mlp"]
        gate = layers(features.mean((2, 3))) + layers(features.amax((2, 3)))
        features = features * gate.sigmoid()[:, :, None, None]
        summary = torch.cat([features.amax(1, keepdim=True), features.mean(1, keepdim=True)], 1)
        place: Tensor = self.get_submodule("SpatialGate.spatial.conv")(summary)
        return features * place.sigmoid()


class Fuser(nn.Module):
    """Joins a frame's map with an object's."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.block1 = ObjectBlock(inputs, outputs)
        self.attention = Attention(outputs)
        self.block2 = ObjectBlock(outputs, outputs)

    def forward(self, frame: Tensor, objects: Tensor) -> Tensor:
        joined = self.block1(torch.cat([frame, objects], 1))
        return self.block2(joined + self.attention(joined))


def gated_update(values: Tensor, hidden: Tensor) -> Tensor:
    """One step of the sensory state from `values` [*, 3C, h, w]: forget, update, candidate."""
    forget, update, candidate = values.chunk(3, 1)
    update = update.sigmoid()
    return forget.sigmoid() * hidden * (1 - update) + update * candidate.tanh()


class HiddenReinforcer(nn.Module):
    """The sensory state after a memory frame (deep update)."""

    def __init__(self, value: int, hidden: int) -> None:
        super().__init__()
        self.transform = nn.Conv2d(value + hidden, 3 * hidden, 3, padding=1)

    def forward(self, value: Tensor, hidden: Tensor) -> Tensor:
        return gated_update(self.transform(torch.cat([value, hidden], 1)), hidden)


class ValueEncoder(Stem):
    """What memory keeps of an object in a frame; sees the image, its mask and the others' masks."""

    def __init__(self, sizes: XMemSizes) -> None:
        width, (first, second, third) = sizes.stem, sizes.value_blocks
        super().__init__(5, width)
        self.layer1 = stage(width, width, first, 1)
        self.layer2 = stage(width, 2 * width, second, 2)
        self.layer3 = stage(2 * width, 4 * width, third, 2)
        self.fuser = Fuser(20 * width, sizes.value)
        self.hidden_reinforce = HiddenReinforcer(sizes.value, sizes.hidden)

    def forward(self, planes: Tensor, f16: Tensor) -> Tensor:
        return self.fuser(f16, self.layer3(self.layer2(self.layer1(self.stem(planes)))))


class HiddenUpdater(nn.Module):
    """The sensory state after an ordinary frame, from the decoder's three scales."""

    def __init__(self, sizes: XMemSizes) -> None:
        super().__init__()
        self.g16_conv = nn.Conv2d(sizes.fuse, sizes.up, 1)
        self.g8_conv = nn.Conv2d(sizes.up, sizes.up, 1)
        self.g4_conv = nn.Conv2d(sizes.up + 1, sizes.up, 1)
        self.transform = nn.Conv2d(sizes.up + sizes.hidden, 3 * sizes.hidden, 3, padding=1)

    def forward(self, g16: Tensor, g8: Tensor, g4: Tensor, hidden: Tensor) -> Tensor:
        fine = self.g8_conv(F.avg_pool2d(g8, 2)) + self.g4_conv(F.avg_pool2d(g4, 4))
        values = self.transform(torch.cat([self.g16_conv(g16) + fine, hidden], 1))
        return gated_update(values, hidden)


class UpBlock(nn.Module):
    """To twice the size, with the frame's map of that size added."""

    def __init__(self, skip: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.skip_conv = nn.Conv2d(skip, inputs, 3, padding=1)
        self.out_conv = ObjectBlock(inputs, outputs)

    def forward(self, skip: Tensor, objects: Tensor) -> Tensor:
        """`skip` [B, ...] of B frames, `objects` [B * N, ...]."""
        wide = F.interpolate(objects, scale_factor=2, mode="bilinear", align_corners=False)
        return self.out_conv(per_object(self.skip_conv(skip), len(objects) // len(skip)) + wide)


class Decoder(nn.Module):
    """From memory's answer and the sensory state to a logit per pixel."""

    def __init__(self, sizes: XMemSizes) -> None:
        super().__init__()
        width = sizes.stem
        self.fuser = Fuser(16 * width + sizes.value + sizes.hidden, sizes.fuse)
        self.hidden_update = HiddenUpdater(sizes)
        self.up_16_8 = UpBlock(8 * width, sizes.fuse, sizes.up)
        self.up_8_4 = UpBlock(4 * width, sizes.up, sizes.up)
        self.pred = nn.Conv2d(sizes.up, 1, 3, padding=1)

    def forward(
        self, frame: FrameKeys, answer: Tensor, hidden: Tensor, update: bool
    ) -> tuple[Tensor, Tensor]:
        """Logits [B * N, 1, H, W] and the state, renewed if `update`; answer and hidden are [B * N, ...]."""
        count = len(answer) // len(frame.f16)
        g16 = self.fuser(per_object(frame.f16, count), torch.cat([answer, hidden], 1))
        g8 = self.up_16_8(frame.f8, g16)
        g4 = self.up_8_4(frame.f4, g8)
        logits = self.pred(F.relu(g4))
        if update:
            hidden = self.hidden_update(g16, g8, torch.cat([g4, logits], 1), hidden)
        return F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False), hidden


class XMem(nn.Module):
    """Four parts and how they are called; `models.xmem.memory` stands between keys and values."""

    def __init__(self, sizes: XMemSizes, image_size: int = 480) -> None:
        """`image_size`: pixels of the shorter side at which videos are tracked."""
        super().__init__()
        self.sizes, self.image_size = sizes, image_size
        self.source: dict[str, str] = {}  # name and hash of the checkpoint, for the provenance of results
        self.key_encoder = KeyEncoder(sizes)
        self.value_encoder = ValueEncoder(sizes)
        self.key_proj = KeyProjection(16 * sizes.stem, sizes.key)
        self.decoder = Decoder(sizes)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.decoder.pred.weight.device

    def precision(self) -> torch.autocast:
        """The published mixed precision: float16 on CUDA, float32 elsewhere."""
        return torch.autocast(self.device.type, enabled=self.device.type == "cuda")

    def encode_frame(self, image: Tensor) -> FrameKeys:
        """Everything about normalised images [B, 3, H, W] that does not depend on objects."""
        pad = padding(image.shape[-2], image.shape[-1])
        image = F.pad(image, pad)
        f16, f8, f4 = self.key_encoder(image)
        key, shrinkage, selection = self.key_proj(f16)
        return FrameKeys(image, key, shrinkage, selection, f16, f8, f4, pad)

    def encode_value(self, frame: FrameKeys, masks: Tensor) -> Tensor:
        """Values [B, N, C, h, w] of objects with padded probabilities `masks` [B, N, H, W]."""
        batch, count = masks.shape[:2]
        others = masks.sum(1, keepdim=True) - masks
        image = per_object(frame.image, count)
        planes = torch.cat([image, masks.flatten(0, 1)[:, None], others.flatten(0, 1)[:, None]], 1)
        values: Tensor = self.value_encoder(planes, per_object(frame.f16, count))
        return values.unflatten(0, (batch, count))

    def deepen(self, values: Tensor, hidden: Tensor) -> Tensor:
        """The sensory state [B, N, C, h, w] after a memory frame with these `values`."""
        state: Tensor = self.value_encoder.hidden_reinforce(values.flatten(0, 1), hidden.flatten(0, 1))
        return state.unflatten(0, hidden.shape[:2])

    def segment(
        self, frame: FrameKeys, answer: Tensor, hidden: Tensor, update: bool
    ) -> tuple[Tensor, Tensor]:
        """Logits [B, 1 + N, H, W], background first, of the padded frame, and the sensory state.

        `answer` [B, N, C, h, w] is what memory returned; their softmax over dimension 1 are probabilities.
        """
        shape = hidden.shape[:2]
        logits, state = self.decoder(frame, answer.flatten(0, 1), hidden.flatten(0, 1), update)
        return compete(logits[:, 0].unflatten(0, shape).float().sigmoid()), state.unflatten(0, shape)

    def fresh_hidden(self, frame: FrameKeys, count: int) -> Tensor:
        """The sensory state of `count` objects before their first frame."""
        batch, _, height, width = frame.key.shape
        return frame.image.new_zeros(batch, count, self.sizes.hidden, height, width)


def per_object(maps: Tensor, count: int) -> Tensor:
    """[B, ...] to [B * count, ...], each row `count` times in turn."""
    return maps.repeat_interleave(count, 0) if count != 1 else maps


def padding(height: int, width: int) -> tuple[int, int, int, int]:
    """What is missing to multiples of 16, on both sides: left, right, top, bottom."""
    rows, columns = -height % STRIDE, -width % STRIDE
    return columns // 2, columns - columns // 2, rows // 2, rows - rows // 2


def compete(probabilities: Tensor) -> Tensor:
    """Logits [B, 1 + N, H, W] of independent object probabilities [B, N, H, W] and their joint absence."""
    everything = torch.cat([(1 - probabilities).prod(1, keepdim=True), probabilities], 1)
    return everything.clamp(1e-7, 1 - 1e-7).logit()
