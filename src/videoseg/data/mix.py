"""Data: mixing datasets by repeats (O3 specification §10, §11), with bad samples loud by default."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal, TypeVar

import numpy as np

from videoseg.data.readers.base import Reader
from videoseg.data.sample import ImageTarget, RefImageSample, Sample
from videoseg.errors import DatasetError, UsageError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Share:
    """How a dataset takes part: every unit `repeats` times an epoch, `draws` queries of a unit each time.

    `frames` is how many frames training looks at (0: an image). Queries of a unit are drawn with
    replacement, as in the release.
    """

    dataset: str
    repeats: int
    draws: int = 1
    frames: int = 0


SFT: tuple[Share, ...] = (
    Share("refcoco", 1, 5),
    Share("refcoco+", 1, 5),
    Share("refcocog", 1, 5),
    Share("revos", 4, 5, 5),
    Share("mevis", 4, 5, 5),
    Share("ref-ytvos", 4, 5, 5),
    Share("ref-sav", 2, 5, 5),
    Share("long-rvos", 4, 5, 5),
    Share("chat-univi", 1, 1, 5),
    Share("gcg-refcocog", 1),
    Share("gcg-grandf", 10),
    Share("gcg-flickr30k", 1),
    Share("gcg-openpsg", 1),
    Share("timelens", 4, 5, 32),
)
"""Stage I, the released mixture."""

COLD_START_2B: tuple[Share, ...] = (Share("vts-cot", 2),)
COLD_START_4B: tuple[Share, ...] = (Share("vts-cot", 1),)
RL: tuple[Share, ...] = (Share("rl", 1),)
RECIPES: dict[str, tuple[Share, ...]] = {
    "sft": SFT,
    "coldstart-2b": COLD_START_2B,
    "coldstart-4b": COLD_START_4B,
    "rl": RL,
}


class Mix:
    """Units of several readers, each repeated; position and epoch decide what is drawn, nothing else.

    `on_bad="skip"` goes on to the next unit of the same dataset where a sample raises `DatasetError`, and
    counts it in `skipped`; the default raises.
    """

    def __init__(
        self,
        parts: Sequence[tuple[Reader[Any], Share]],
        *,
        seed: int = 0,
        on_bad: Literal["raise", "skip"] = "raise",
    ) -> None:
        if not parts:
            raise UsageError("a mixture needs at least one dataset")
        for reader, share in parts:
            if share.repeats < 1 or share.draws < 1:
                raise UsageError(
                    f"{share.dataset}: repeats {share.repeats} and draws {share.draws} must be 1 or more"
                )
            if len(reader.groups) == 0:
                raise UsageError(
                    f"{share.dataset}: {reader.folder} has no sample; leave it out of the mixture"
                )
        self.parts = tuple(parts)
        self.seed = seed
        self.on_bad = on_bad
        self.skipped: Counter[str] = Counter()
        self.first_error: dict[str, str] = {}
        self._ends = list(accumulate(len(reader.groups) * share.repeats for reader, share in parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def place(self, position: int) -> tuple[int, int]:
        """Number of the part and of its unit at a position of the epoch."""
        if not 0 <= position < len(self):
            raise IndexError(f"position {position} of a mixture of {len(self)}")
        part = bisect.bisect_right(self._ends, position)
        before = self._ends[part - 1] if part else 0
        return part, (position - before) % len(self.parts[part][0].groups)

    def draw(self, position: int, epoch: int = 0) -> list[Sample]:
        """The samples drawn at a position of an epoch; raises `DatasetError`, or skips."""
        return self.read(position, epoch, lambda samples: samples)

    def read(self, position: int, epoch: int, use: Callable[[list[Sample]], T]) -> T:
        """What `use` makes of the drawn samples; its `DatasetError`s are skipped and counted as well."""
        part, unit = self.place(position)
        reader, share = self.parts[part]
        for attempt in range(len(reader.groups)):
            rng = np.random.default_rng([self.seed, epoch, position, attempt])
            group = reader.groups[(unit + attempt) % len(reader.groups)]
            try:
                return use([reader[group[int(i)]] for i in _choice(len(group), share.draws, rng)])
            except DatasetError as error:
                if self.on_bad == "raise":
                    raise
                self.skipped[share.dataset] += 1
                self.first_error.setdefault(share.dataset, str(error))
        raise DatasetError(
            f"{share.dataset}: no unit can be read; the first error is {self.first_error[share.dataset]}"
        )

    def sizes(self) -> Mapping[str, int]:
        """Positions of every dataset in an epoch."""
        return {share.dataset: len(reader.groups) * share.repeats for reader, share in self.parts}


def _choice(size: int, draws: int, rng: np.random.Generator) -> Sequence[int]:
    return [0] if size == 1 and draws == 1 else [int(i) for i in rng.choice(size, draws if size > 1 else 1)]


def draw_phrases(
    sample: RefImageSample, count: int, rng: np.random.Generator
) -> list[tuple[str, ImageTarget]]:
    """`count` (phrase, object) pairs of an image, drawn with replacement, a phrase of each at random."""
    chosen = [sample.targets[int(i)] for i in rng.choice(len(sample.targets), count)]
    return [(target.texts[int(rng.integers(len(target.texts)))], target) for target in chosen]
