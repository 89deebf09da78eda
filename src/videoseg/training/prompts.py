"""What a rollout of stage III is asked, and where prompts come from (O3 specification §12.1).

A `Prompt` is a video with a query and its truth, whoever it comes from: the generated world, or the RL files
in their published layout. Sources are endless: prompt number n is always the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from videoseg.data.frames import Frames as SampleFrames
from videoseg.data.mix import Mix, Share
from videoseg.data.readers import open_dataset
from videoseg.data.readers.rl import RlReader
from videoseg.data.sample import RefVideoSample, RlSample, Sample, TraceSample, union_masks
from videoseg.data.world.draw import Stage
from videoseg.data.world.sampler import Sample as WorldSample
from videoseg.data.world.sampler import WorldSpec, draw_sample
from videoseg.errors import DatasetError, UsageError
from videoseg.systems.images import Frames
from videoseg.training.config import DataEntry

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
    """Which prompts: clips of the generated `world`, the files of `rl`, or queries of the sets in `data`.

    `world` draws clips of `families` from seed `first_seed` on. `folder`, `split` and `videos` are those of
    `RlReader`. `data` are sets under `folder`, each with its `repeats`, one query of a video each time.
    `shuffle` is the seed of their order.
    """

    kind: Literal["world", "rl", "sets"] = "world"
    first_seed: int = 10_000_000
    families: dict[str, float] = field(default_factory=dict)
    folder: str = ""
    split: str = "train"
    videos: str | None = None
    data: tuple[DataEntry, ...] = ()
    shuffle: int = 0


def open_prompts(config: PromptConfig) -> PromptSource:
    """The source that `config` names. Raises UsageError if the files' folder is missing in it."""
    if config.kind == "world":
        spec = WorldSpec(families=config.families) if config.families else WorldSpec()
        return WorldPrompts(config.first_seed, spec)
    if not config.folder:
        raise UsageError(f"prompts of kind {config.kind} need `folder`, where the data are")
    if config.kind == "sets":
        return MixPrompts(
            open_mix([replace(one, draws=1) for one in config.data], config.folder, seed=config.shuffle)
        )
    reader = RlReader(Path(config.folder), config.split, videos=config.videos)
    return MixPrompts(Mix([(reader, Share("rl", 1))], seed=config.shuffle))


@dataclass(frozen=True, slots=True)
class WorldPrompts:
    """Prompt n is the clip of seed `first_seed` + n."""

    first_seed: int
    spec: WorldSpec

    def __getitem__(self, number: int) -> Prompt:
        """Draw the clip."""
        sample = draw_sample(self.first_seed + number, self.spec)
        return world_prompt(sample)


def world_prompt(sample: WorldSample) -> Prompt:
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

    def __init__(self, sample: WorldSample) -> None:
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


class MixPrompts:
    """The prompts of data sets, each unit as often as its `repeats` say, every epoch in another order."""

    def __init__(self, mix: Mix) -> None:
        self._mix = mix

    def __getitem__(self, number: int) -> Prompt:
        """Prompt `number`, counted over epochs; raises DatasetError."""
        epoch, place = divmod(number, len(self._mix))
        order = np.random.default_rng([self._mix.seed, epoch]).permutation(len(self._mix))
        return sample_prompt(self._mix.draw(int(order[place]), epoch)[0])


def open_mix(entries: Sequence[DataEntry], root: str, **how: Any) -> Mix:
    """The readers of a mixture under the folder `root`; `how` is for `Mix`.

    Raises UsageError naming every folder that does not serve.
    """
    parts, problems = [], []
    for entry in entries:
        videos = None if entry.videos is None else Path(root) / entry.videos
        try:
            reader = open_dataset(entry.dataset, Path(root) / entry.folder, entry.split, videos=videos)
            parts.append((reader, entry.share()))
        except DatasetError as error:
            problems.append(f"{entry.dataset}: {error}")
    if problems:
        listed = "\n  ".join(problems)
        raise UsageError(
            f"{root}: {len(problems)} of {len(entries)} data sets cannot be opened; set data_root (of "
            f"prompts: folder), or the folder of an entry of data, or leave the entry out:\n  {listed}"
        )
    return Mix(parts, **how)


def sample_prompt(sample: Sample) -> Prompt:
    """The query of a sample on its video; frames and masks are read when they are looked at.

    Frames whose masks are not known count as frames without the target. Raises DatasetError for a sample
    that is no query about a video with masks.
    """
    if not isinstance(sample, RefVideoSample | TraceSample | RlSample):
        raise sample.origin.error("entry", "no query about a video with masks")
    known = sample.annotated if isinstance(sample, RefVideoSample) else None
    if isinstance(sample, RlSample):
        presence = sample.existence
    else:
        frames = range(len(sample.frames)) if known is None else known
        seen = dict(zip(frames, sample.masks(frames), strict=True))
        presence = tuple(bool(frame in seen and seen[frame].area) for frame in range(len(sample.frames)))

    def mask(index: int) -> Mask:
        return sample.masks([index])[0].decode()

    def objects(index: int) -> list[Mask]:
        each = [(target,) for target in sample.targets or ()]
        return [union_masks(sample.origin, sample.frames, t, known, [index])[0].decode() for t in each]

    origin, size, footage = sample.origin, sample.frames.size(0), Footage(sample.frames)
    key = f"{origin.dataset} {origin.file.name} {origin.key}: {sample.query}"
    kind = sample.kind if isinstance(sample, RefVideoSample) else origin.file.stem
    return Prompt(key, sample.query, footage, size, presence, mask, kind, objects)


@dataclass(frozen=True, slots=True)
class Footage:
    """Frames of a data set's sample, read when they are looked at."""

    source: SampleFrames

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        return self.source.read([index])[0]
