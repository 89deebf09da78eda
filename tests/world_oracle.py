"""Generated world: a reader that misses nothing, to prove what shown frames can and cannot tell.

It sees images at the sizes at which a preset shows them, and knows from the scene graph where every thing
is and how it would look with and without the mark of the *detail* family. It does not know which thing
bears the mark, and does not see differences below `VISIBLE`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from videoseg.data.world.draw import Stage
from videoseg.data.world.sampler import Sample
from videoseg.data.world.scene import FINE, Scene
from videoseg.data.world.trace import true_trace
from videoseg.dialogue.budget import ImageGeometry, ResizeStep, resize_plan
from videoseg.dialogue.episode import Episode, ImagePart
from videoseg.dialogue.grammar import format_reply
from videoseg.dialogue.pixels import resize
from videoseg.dialogue.preset import Preset
from videoseg.types import O3_ROLES, Role, Select

VISIBLE = 2.0
"""Root mean square difference in grey levels (of 255) below which two looks count as the same.

The background's own grain has 3; H.264 at the quality of written clips changes pixels by about as much.
"""

Plan = tuple[ResizeStep, ...]


@dataclass(frozen=True, slots=True)
class DetailReading:
    """What a dialogue about a detail lets one know.

    `at_once`: things that may bear the mark after the first observation, `after`: those left after the true
    selects. `contrast`: how much the mark changes its bearer, in grey levels, by the role of the image.
    """

    target: int
    at_once: tuple[int, ...]
    after: tuple[int, ...]
    contrast: dict[Role, float]

    @property
    def answerable_at_once(self) -> bool:
        """Whether no second look is needed."""
        return self.at_once == (self.target,)

    @property
    def answerable_after(self) -> bool:
        """Whether the true selects show the answer."""
        return self.after == (self.target,)


class Oracle:
    """Looks at images of one scene, at the sizes of a preset."""

    def __init__(self, scene: Scene, preset: Preset, geometry: ImageGeometry) -> None:
        self._scene, self._stage = scene, Stage(scene)
        size = (scene.height, scene.width)
        self._plans: dict[Role, Plan] = {role: resize_plan(size, role, preset, geometry) for role in O3_ROLES}

    def suspects(self, images: Iterable[ImagePart], *, sensitivity: float = VISIBLE) -> tuple[int, ...]:
        """Things that may bear the mark: in no image do they look different from how they would with it."""
        shown = tuple(images)
        return tuple(
            number
            for number in range(len(self._scene.things))
            if all(value < sensitivity for _, value in self.changes(number, FINE, shown))
        )

    def contrast(self, target: int, images: Iterable[ImagePart]) -> dict[Role, float]:
        """Largest change of the target by the mark in images of each role, in grey levels."""
        largest: dict[Role, float] = {}
        for role, value in self.changes(target, "plain", tuple(images)):
            largest[role] = max(value, largest.get(role, 0.0))
        return largest

    def changes(self, number: int, texture: str, images: tuple[ImagePart, ...]) -> list[tuple[Role, float]]:
        """How much one thing would look different with another texture, on every image that shows it."""
        other = Stage(textured(self._scene, number, texture))
        found = []
        for image in images:
            cover = self._cover(number, image)
            if cover.any():
                seen, changed = self._look(self._stage, image), self._look(other, image)
                found.append((image.role, _distance(seen, changed, cover)))
        return found

    def _look(self, stage: Stage, image: ImagePart) -> NDArray[np.uint8]:
        return resize(stage.frame(image.frame)[0], self._plans[image.role])

    def _cover(self, number: int, image: ImagePart) -> NDArray[np.bool_]:
        """Pixels of the shown image that mostly show a thing, `bool [h, w]`."""
        mask = self._stage.mask(number, image.frame)
        grey = np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * 255
        cover: NDArray[np.bool_] = resize(grey, self._plans[image.role])[..., 0] > 127
        return cover


def read_detail(sample: Sample, preset: Preset, geometry: ImageGeometry) -> DetailReading:
    """Play the true trace of a *detail* sample and say what could be known when.

    Raises ValueError for a sample without exactly one target.
    """
    if len(sample.question.targets) != 1:
        raise ValueError(f"seed {sample.scene.seed}: {len(sample.question.targets)} targets, not one")
    oracle, target = Oracle(sample.scene, preset, geometry), sample.question.targets[0]
    observations = list(observed(sample, preset))
    first, everything = observations[0], [image for images in observations for image in images]
    return DetailReading(
        target, oracle.suspects(first), oracle.suspects(everything), oracle.contrast(target, everything)
    )


def observed(sample: Sample, preset: Preset) -> Iterable[tuple[ImagePart, ...]]:
    """The images of every turn of the true trace, first turn first."""
    episode = Episode(sample.scene.num_frames, sample.question.text, preset)
    if episode.observation is None:
        return
    low = [image.frame for image in episode.observation.images if image.role is Role.LOW]
    yield episode.observation.images
    for reply in true_trace(sample, low).replies:
        episode.step(format_reply(reply))
        if isinstance(reply, Select) and episode.observation is not None:
            yield episode.observation.images


def textured(scene: Scene, number: int, texture: str) -> Scene:
    """The scene with another texture on one thing."""
    things = enumerate(scene.things)
    return replace(
        scene, things=tuple(replace(thing, texture=texture) if i == number else thing for i, thing in things)
    )


def _distance(first: NDArray[np.uint8], second: NDArray[np.uint8], where: NDArray[np.bool_]) -> float:
    """Root mean square difference of the pixels `where`, in grey levels."""
    change = first[where].astype(np.float32) - second[where].astype(np.float32)
    return float(np.sqrt(np.mean(np.square(change))))
