"""Evaluation: the generated world without a folder: clips are drawn from their seeds as they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from videoseg.data.sample import Origin
from videoseg.data.world.clip import write_clip
from videoseg.data.world.draw import Stage
from videoseg.data.world.queries import FAMILIES
from videoseg.data.world.sampler import TEST_SEEDS, Sample, WorldSpec, draw_sample
from videoseg.evaluation.truth import Item
from videoseg.masks import Rle
from videoseg.video.cache import Frame
from videoseg.video.reader import Video


@dataclass(frozen=True, slots=True)
class Clip:
    """The footage of a generated clip; the H.264 file is written below `folder` when it is first opened."""

    sample: Sample
    folder: Path

    @property
    def name(self) -> str:
        """Family and seed."""
        return f"{self.sample.question.family}_{self.sample.scene.seed}"

    @property
    def files(self) -> tuple[str, ...]:
        """A name for every frame."""
        return tuple(f"{frame:05d}" for frame in range(self.sample.scene.num_frames))

    def open(self) -> Video:
        """The video file."""
        path = self.folder / f"{self.name}.mp4"
        return Video(path if path.is_file() else write_clip(self.sample, self.folder, self.name))

    def read(self, indices: Sequence[int]) -> list[Frame]:
        """Frames uint8 [H, W, 3]."""
        with self.open() as video:
            return [video[index] for index in indices]


@dataclass(frozen=True, slots=True)
class ThingTrack:
    """The exact masks of one thing of a clip."""

    sample: Sample
    thing: int

    def read(self, frames: Sequence[int]) -> list[Rle | None]:
        """Masks of these frames, None where nothing of it is visible."""
        stage = Stage(self.sample.scene)
        masks = [stage.mask(self.thing, frame) for frame in frames]
        return [Rle.encode(mask) if mask.any() else None for mask in masks]


def generated(
    folder: Path,
    clips: int,
    *,
    first_seed: int = TEST_SEEDS.start,
    families: Sequence[str] = FAMILIES,
    spec: WorldSpec | None = None,
) -> Iterator[Item]:
    """`clips` items of every family, of consecutive seeds; videos are written below `folder`."""
    chosen = spec or WorldSpec()
    for family in families:
        for seed in range(first_seed, first_seed + clips):
            sample = draw_sample(seed, chosen, family)
            clip, scene = Clip(sample, folder), sample.scene
            yield Item(
                (clip.name, "0"),
                Origin("world", folder / f"{clip.name}.json", f"{clip.name}/0"),
                clip.files,
                tuple(ThingTrack(sample, target) for target in sample.question.targets),
                family,
                (scene.height, scene.width),
                text=sample.question.text,
                video=clip,
            )
