"""Evaluation runner: one benchmark, one model, one folder: what is asked, answered and reported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videoseg.data.world.queries import FAMILIES
from videoseg.data.world.sampler import TEST_SEEDS
from videoseg.errors import UsageError
from videoseg.evaluation.answers import Group, grouped
from videoseg.evaluation.benchmark import evaluate
from videoseg.evaluation.generated import generated
from videoseg.evaluation.predictions import Opened, open_predictions
from videoseg.evaluation.protocols import Protocol, protocol
from videoseg.evaluation.reports import Run, write_report
from videoseg.evaluation.runner import Pool, Settings, Shard, Step, answering, provenance, run
from videoseg.evaluation.scoring import counts_mismatch, load_items
from videoseg.evaluation.store import Store, digest
from videoseg.evaluation.truth import Item


@dataclass(frozen=True, slots=True)
class Asked:
    """Which questions: a split of the dataset in the folder `data`, its first `limit` videos if given.

    The benchmark `world` needs no folder: `clips` of each of `families` are then drawn from `first_seed` on.
    """

    benchmark: str
    data: Path | None = None
    protocol: str = "official"
    split: str | None = None
    limit: int | None = None
    clips: int = 20
    first_seed: int = TEST_SEEDS.start
    families: tuple[str, ...] = FAMILIES
    allow_counts: bool = False

    def items(self, table: Protocol, out: Path) -> list[Item]:
        """All questions of the split; raises `DatasetError` and `UsageError`."""
        if self.data is not None:
            items = load_items(table, self.data, self.split, masks=False)
            counts_mismatch(table, items, self.split or table.split, self.allow_counts)
            return [item for item in items if item.key[0] not in table.excluded]
        if table.benchmark != "world":
            raise UsageError(f"{table.benchmark} needs --data, the folder of the dataset as it was published")
        if unknown := sorted(set(self.families) - set(FAMILIES)):
            raise UsageError(f"--families: no family {', '.join(unknown)}; there are {', '.join(FAMILIES)}")
        if self.clips < 1:
            raise UsageError(f"--clips is the number of clips of every family, at least 1; got {self.clips}")
        drawn = generated(out / "clips", self.clips, first_seed=self.first_seed, families=self.families)
        return list(drawn)


@dataclass(frozen=True, slots=True)
class Session:
    """A run in its folder; `items` are the questions that count, those of the first `limit` videos."""

    asked: Asked
    table: Protocol
    items: tuple[Item, ...]
    groups: tuple[Group, ...]
    store: Store

    @classmethod
    def open(cls, asked: Asked, settings: Settings, out: Path) -> Session:
        """Read the questions and begin a run, or go on with it.

        Raises `OutputError` where `out` holds a run of other questions or another model.
        """
        table = protocol(asked.benchmark, asked.protocol)
        items = asked.items(table, out)
        groups = grouped(items)
        store = Store(out)
        store.claim(head(asked, table, items, settings))
        if asked.limit is None:
            return cls(asked, table, tuple(items), tuple(groups), store)
        if asked.limit < 1:
            raise UsageError(f"--limit is a number of videos, at least 1; got {asked.limit}")
        chosen = groups[: asked.limit]
        kept = {group.video for group in chosen}
        return cls(asked, table, tuple(one for one in items if one.key[0] in kept), tuple(chosen), store)

    @property
    def published(self) -> bool:
        """Whether the true masks of the split are published."""
        return all(item.tracks is not None for item in self.items)

    def answer(
        self,
        settings: Settings,
        pool: Pool,
        shard: Shard | None = None,
        notify: Callable[[Step], None] | None = None,
    ) -> None:
        """Answer what is missing of a shard."""
        run(self.store, (shard or Shard()).of(self.groups), answering(settings, pool), pool, notify)

    def failures(self) -> dict[str, dict[str, Any]]:
        """Videos that could not be answered, with why."""
        return self.store.failures(group.video for group in self.groups)

    def open_videos(self) -> list[str]:
        """Videos that nobody has tried yet: other shards are at work, or will be."""
        failed = self.failures()
        return [g.video for g in self.groups if g.video not in failed and not self.store.has(g.video)]

    def report(self, processes: int = 1, lenient: bool = False) -> dict[str, Any]:
        """Score all predictions and write the report, whose contents are returned.

        Where every video failed the report says so and everything counts 0. Raises as `scoring.score` does.
        """
        made = any(self.store.predictions.glob("*.json"))
        source = open_predictions(self.store.predictions, self.items) if made else nullcontext(NOTHING)
        with source as opened:
            report = evaluate(
                self.table,
                self.items,
                opened.predictions,
                folder=self.asked.data or "",
                split=self.asked.split,
                processes=processes,
                lenient=lenient,
                allow_counts=self.asked.allow_counts or self.asked.limit is not None,
            )
            # Keys that are not asked for belong to videos beyond `limit`.
            return write_report(self.store.folder, report, self.items, opened.predictions, self.about())

    def about(self) -> Run:
        """What the report tells beside the scores."""
        failures = {video: f"{one['kind']}: {one['error']}" for video, one in self.failures().items()}
        return Run(
            split=self.asked.split or self.table.split,
            data=str(self.asked.data or ""),
            predictions=str(self.store.predictions),
            layout="videoseg eval",
            limit=self.asked.limit,
            failures=failures,
            provenance=provenance(self.store.provenances(group.video for group in self.groups)),
        )


def nothing(item: Item) -> None:
    """The `Predictions` of a run in which no video could be answered."""


NOTHING = Opened(nothing, "videoseg eval")


def head(asked: Asked, table: Protocol, items: Sequence[Item], settings: Settings) -> dict[str, Any]:
    """What the predictions depend on."""
    return {
        "benchmark": table.benchmark,
        "split": asked.split or table.split,
        "protocol": table.name,
        "questions": digest(items),
        **settings.head(),
    }
