"""What a rollout of stage III is asked, and where prompts come from (O3 specification §12.1).

A `Prompt` is a video with a query and its truth, whoever it comes from: the generated world, or the RL files
in their published layout. Sources are endless: prompt number n is always the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from videoseg.data.frames import Frames as SampleFrames
from videoseg.data.readers.rl import RlReader
from videoseg.data.sample import RlSample
from videoseg.data.world.draw import Stage
from videoseg.data.world.sampler import Sample, WorldSpec, draw_sample
from videoseg.errors import UsageError
from videoseg.systems.images import Frames

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False, slots=True)
class Prompt:
    """A query on a video, with the truth that rewards need.

    `key` identifies video and query; `frames` gives uint8 `[H, W, 3]` by index; `presence[t]`: the target is
    in frame t; `mask(t)` bool `[H, W]`, `objects(t)` the masks of its single objects (None: there is one);
    `kind` is the source's own type of query.
    """

    key: str
    query: str
    frames: Frames
    frame_size: tuple[int, int]
    presence: tuple[bool, ...]
    mask: Callable[[int], Mask]
    kind: str = ""
    objects: Callable[[int], Sequence[Mask]] | None = None

    @property
    def num_frames(self) -> int:
        """Length of the video."""
        return len(self.presence)


class PromptSource(Protocol):
    """Prompts by number, from 0 on without end."""

    def __getitem__(self, number: int) -> Prompt:
        """The same prompt for the same number."""
        ...


@dataclass(frozen=True)
class PromptConfig:
    """Which prompts: `world` draws clips of `families` from seed `first_seed` on, `rl` reads files.

    `folder`, `split` and `videos` are those of `RlReader`; `shuffle` is the seed of their order.
    """

    kind: Literal["world", "rl"] = "world"
    first_seed: int = 10_000_000
    families: dict[str, float] = field(default_factory=dict)
    folder: str = ""
    split: str = "train"
    videos: str | None = None
    shuffle: int = 0


def open_prompts(config: PromptConfig) -> PromptSource:
    """The source that `config` names. Raises UsageError if the files' folder is missing in it."""
    if config.kind == "world":
        spec = WorldSpec(families=config.families) if config.families else WorldSpec()
        return WorldPrompts(config.first_seed, spec)
    if not config.folder:
        raise UsageError("prompts of kind rl need `folder`, where rl_*_data.json are")
    return RlPrompts(RlReader(Path(config.folder), config.split, videos=config.videos), config.shuffle)


@dataclass(frozen=True, slots=True)
class WorldPrompts:
    """Prompt n is the clip of seed `first_seed` + n."""

    first_seed: int
    spec: WorldSpec

    def __getitem__(self, number: int) -> Prompt:
        """Draw the clip."""
        sample = draw_sample(self.first_seed + number, self.spec)
        return world_prompt(sample)


def world_prompt(sample: Sample) -> Prompt:
    """A clip of the generated world; frames are drawn when they are looked at."""
    clip = _Clip(sample)
    size = (sample.scene.height, sample.scene.width)
    presence = tuple(bool(clip.mask(frame).any()) for frame in range(len(clip)))
    key = f"world {sample.scene.seed}: {sample.question.text}"
    return Prompt(
        key, sample.question.text, clip, size, presence, clip.mask, sample.question.family, clip.objects
    )


class _Clip:
    """Frames of a sample, each drawn once, and its targets' union."""

    def __init__(self, sample: Sample) -> None:
        self._stage = Stage(sample.scene)
        self._targets = list(sample.question.targets)
        self._kept: dict[int, NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        return self._stage.scene.num_frames

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        if index not in self._kept:
            self._kept[index] = self._stage.frame(index)[0]
        return self._kept[index]

    def objects(self, index: int) -> list[Mask]:
        masks = self._stage.masks(index)
        return [masks[target] for target in self._targets]

    def mask(self, index: int) -> Mask:
        return np.logical_or.reduce(self._stage.masks(index)[self._targets], axis=0)


class RlPrompts:
    """The prompts of RL files, epoch after epoch, each epoch in another order."""

    def __init__(self, reader: RlReader, seed: int) -> None:
        self._reader = reader
        self._seed = seed
        if not len(reader):
            raise UsageError(f"{reader.folder}: holds no prompt; check `folder` and `split`")

    def __getitem__(self, number: int) -> Prompt:
        """Prompt `number`, counted over epochs."""
        epoch, place = divmod(number, len(self._reader))
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._reader))
        return _rl_prompt(self._reader.sample(int(order[place])))


def _rl_prompt(sample: RlSample) -> Prompt:
    def mask(index: int) -> Mask:
        return sample.masks([index])[0].decode()

    key = f"{sample.origin.file.name} {sample.origin.key}: {sample.query}"
    size = sample.frames.size(0)
    return Prompt(
        key, sample.query, Footage(sample.frames), size, sample.existence, mask, sample.origin.file.stem
    )


@dataclass(frozen=True, slots=True)
class Footage:
    """Frames of a data set's sample, read when they are looked at."""

    source: SampleFrames

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        return self.source.read([index])[0]
