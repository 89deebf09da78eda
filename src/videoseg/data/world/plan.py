"""Generated world: what a written set holds, and the fingerprint by which a run goes on where it stopped."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from videoseg.data.world.sampler import TEST_SEEDS, TRAIN_SEEDS, VALID_SEEDS, WorldSpec
from videoseg.dialogue.preset import Budget, Preset
from videoseg.errors import UsageError

LAYOUTS = ("mevis", "ref-ytvos", "vts-cot", "rl")
"""Names of layouts, as `open_dataset` knows them."""
TRACED = ("vts-cot", "rl")
"""Layouts that refer to the frames and masks of the MeViS one."""
SPLITS: dict[str, range] = {"train": TRAIN_SEEDS, "valid": VALID_SEEDS, "test": TEST_SEEDS}
SHOWN = Preset(budget=Budget(low_frames=6, high_frames=3, later_frames=3))
"""How the true traces are played: the frame counts of the bundled tiny model."""
GENERATOR = (
    "draw",
    "queries",
    "phrases",
    "relations",
    "sampler",
    "scene",
    "trace",
    "wording",
    "records",
    "files",
)


def split_of(seeds: range) -> str:
    """`train`, `valid` or `test`: the split whose range holds all seeds; raises UsageError."""
    if not len(seeds):
        raise UsageError("no seeds: at least one clip must be asked for")
    low, high = sorted((seeds[0], seeds[-1]))
    for name, members in SPLITS.items():
        if low in members and high in members:
            return name
    ranges = ", ".join(f"{name} {members.start} to {members.stop - 1}" for name, members in SPLITS.items())
    raise UsageError(f"seeds {low} to {high} are not of one split; there are {ranges}")


@dataclass(frozen=True)
class Plan:
    """A set of clips to write: seeds, kind of clips, layouts, and how true traces are shown.

    All questions are of `family` if it is given, else as `spec.families` weighs them. Raises UsageError for
    unknown layouts, seeds of two splits, or training layouts of held-out seeds.
    """

    seeds: range
    spec: WorldSpec = field(default_factory=WorldSpec)
    family: str | None = None
    layouts: tuple[str, ...] = LAYOUTS
    shown: Preset = SHOWN

    def __post_init__(self) -> None:
        unknown = [name for name in self.layouts if name not in LAYOUTS]
        if unknown or not self.layouts:
            raise UsageError(
                f"unknown layout {', '.join(unknown) or '(none)'}; there are {', '.join(LAYOUTS)}"
            )
        traced = [name for name in self.layouts if name in TRACED]
        if traced and self.split != "train":
            raise UsageError(
                f"{' and '.join(traced)} hold training dialogues, but seeds {self.seeds.start} on are of the "
                f"split {self.split}; ask for mevis or ref-ytvos, or for training seeds"
            )

    @property
    def split(self) -> str:
        """The split that the seeds belong to."""
        return split_of(self.seeds)

    @property
    def mevis(self) -> bool:
        """Whether frames are written in the MeViS layout, by itself or for the traced layouts."""
        return any(name != "ref-ytvos" for name in self.layouts)

    def to_json(self) -> dict[str, Any]:
        """Everything that decides what the files hold; equal plans write equal bytes."""
        seeds = {"first": self.seeds.start, "count": len(self.seeds), "step": self.seeds.step}
        return {
            "split": self.split,
            "seeds": seeds,
            "spec": {**asdict(self.spec), "lengths": list(self.spec.lengths)},
            "family": self.family,
            "layouts": sorted(self.layouts),
            "shown": asdict(self.shown),
            "generator": generator_digest(),
        }


@lru_cache(maxsize=1)
def generator_digest() -> str:
    """Names the code that draws clips: parts of a set written by another version do not fit it."""
    digest = hashlib.sha256()
    for name in GENERATOR:
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
    return digest.hexdigest()[:16]
