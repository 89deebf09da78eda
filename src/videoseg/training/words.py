"""Stage 0 of the tiny recipe (spec tiny.md): SAM2 learns masks from words before any language model exists.

A table turns (colour, size) into a prompt vector; the table is thrown away after training but stays the
target that the [SEG] projector is distilled towards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from videoseg.data.world.draw import Stage
from videoseg.data.world.sampler import WorldSpec, draw_sample
from videoseg.data.world.scene import COLOURS, SIZES, Scene
from videoseg.models.sam2 import AllMasks, Sam2
from videoseg.training.losses import bce_loss, dice_loss, mask_iou

COLOUR_INDEX = {name: index for index, name in enumerate(COLOURS)}
SIZE_INDEX = {name: index for index, name in enumerate((*SIZES, "any"))}
ANY = SIZE_INDEX["any"]
Words = tuple[tuple[int, int], ...]
"""(colour, size) of everything that one prompt means."""


class WordTable(nn.Module):
    """Prompt vector of a description: the sum of a colour's and a size's embedding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.colour = nn.Embedding(len(COLOUR_INDEX), width)
        self.size = nn.Embedding(len(SIZE_INDEX), width)

    def forward(self, words: Tensor) -> Tensor:
        """`words` `int64 [N, 2]` (colour, size) to vectors `[N, width]`."""
        vectors: Tensor = self.colour(words[:, 0]) + self.size(words[:, 1])
        return vectors

    def together(self, words: Sequence[Words]) -> Tensor:
        """One vector `[N, width]` per set of descriptions: the mean of theirs."""
        device = self.colour.weight.device
        return torch.stack([self(torch.tensor(each, device=device)).mean(0) for each in words])


@dataclass(frozen=True, eq=False, slots=True)
class WordBatch:
    """F frames and P descriptions of one or several things in them.

    images `[F, 3, S, S]`, frame `[P]`, masks `[P, m, m]` in [0, 1]; `twin` `[P]` marks things that share
    their colour with another thing of the frame.
    """

    images: Tensor
    frame: Tensor
    words: tuple[Words, ...]
    masks: Tensor
    twin: Tensor

    def to(self, device: torch.device | str) -> WordBatch:
        """The same batch elsewhere."""
        moved = {name: getattr(self, name).to(device) for name in ("images", "frame", "masks", "twin")}
        return replace(self, **moved)


def draw_batch(seeds: range, spec: WorldSpec, sam2: Sam2, mask_size: int = 64) -> WordBatch:
    """A random frame per seed, descriptions of every thing, of two or more, and of one that is not there."""
    images, owner, words, masks, twins = [], [], [], [], []
    for number, seed in enumerate(seeds):
        rng = np.random.default_rng([seed, 2])
        scene = draw_sample(seed, spec).scene
        image, shown = Stage(scene).frame(int(rng.integers(scene.num_frames)))
        images.append(sam2.preprocess(image))
        for description, mask, twin in _descriptions(scene, shown, rng):
            owner.append(number)
            words.append(description)
            masks.append(shrink(mask, mask_size))
            twins.append(twin)
    return WordBatch(
        torch.stack(images), torch.tensor(owner), tuple(words), torch.stack(masks), torch.tensor(twins)
    )


def _descriptions(
    scene: Scene, shown: np.ndarray, rng: np.random.Generator
) -> list[tuple[Words, np.ndarray, bool]]:
    colours = [thing.colour for thing in scene.things]
    entries: list[tuple[Words, np.ndarray, bool]] = []
    for thing, mask in zip(scene.things, shown, strict=True):
        twin = colours.count(thing.colour) > 1
        size = ANY if not twin and rng.random() < 0.3 else SIZE_INDEX[thing.size]
        entries.append((((COLOUR_INDEX[thing.colour], size),), mask, twin))
    absent = str(rng.choice([name for name in COLOURS if name not in colours]))
    entries.append((((COLOUR_INDEX[absent], int(rng.integers(3))),), np.zeros_like(shown[0]), False))
    if len(scene.things) > 1:
        chosen = rng.permutation(len(scene.things))[: rng.integers(2, len(scene.things) + 1)]
        looks = [scene.things[number] for number in chosen]
        words = tuple((COLOUR_INDEX[thing.colour], SIZE_INDEX[thing.size]) for thing in looks)
        entries.append((words, np.asarray(shown[chosen].any(0)), False))
    return entries


def shrink(mask: np.ndarray, size: int) -> Tensor:
    """A mask `[H, W]` as the share of each cell that it covers, `float32 [size, size]`."""
    full = torch.from_numpy(np.ascontiguousarray(mask)).float()[None, None]
    return F.interpolate(full, size=(size, size), mode="bilinear", align_corners=False, antialias=True)[0, 0]


@dataclass(frozen=True, eq=False, slots=True)
class DecodeLoss:
    """Loss `[P]` of decoded masks, and the IoU `[P]` of the mask that inference would choose."""

    each: Tensor
    iou: Tensor

    @property
    def total(self) -> Tensor:
        """The mean loss."""
        return self.each.mean()


def decode_loss(masks: AllMasks, target: Tensor, *, bce: float = 4.0, dice: float = 1.0) -> DecodeLoss:
    """Train all three candidates, their predicted IoU and the object score against `target` `[P, m, m]`."""
    size = (target.shape[-2], target.shape[-1])
    logits = F.interpolate(masks.logits.float(), size, mode="bilinear", align_corners=False)
    flat = logits.flatten(0, 1)
    goal = target[:, None].expand(-1, logits.shape[1], -1, -1).flatten(0, 1)
    drawn = (bce * bce_loss(flat, goal) + dice * dice_loss(flat, goal)).unflatten(0, logits.shape[:2])
    reached = mask_iou(flat, goal).unflatten(0, logits.shape[:2])
    quality = (masks.iou.float() - reached).square()
    present = (target > 0.5).flatten(1).any(1).float()
    score = F.binary_cross_entropy_with_logits(masks.score.float(), present, reduction="none")
    rows = torch.arange(len(target))
    each = drawn.mean(1) + 0.3 * quality.mean(1) + 0.1 * score
    return DecodeLoss(each, reached[rows, masks.iou.argmax(1)])


def decode_words(sam2: Sam2, batch: WordBatch, vectors: Tensor) -> AllMasks:
    """Masks of every description of a batch, decoded as inference decodes the keyframe (spec §7)."""
    features = sam2.encode(batch.images).select(batch.frame)
    return sam2.decode_all(features, sam2.unconditioned(features), sam2.prompt_language(vectors))
