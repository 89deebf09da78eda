"""VTS-CoT builder: from a dataset and a teacher to checked cold-start dialogues (O3 spec §11, §13).

Samples are worked on side by side; each finished one goes to the journal, and when all are done the dialogues
are written in the order of the dataset. So a run that was killed gives the same file as one that was not.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from videoseg import __version__
from videoseg.data.own import write_rows
from videoseg.data.readers.base import Reader
from videoseg.data.sample import RefVideoSample
from videoseg.dialogue.grammar import RESERVED
from videoseg.errors import (
    DatasetError,
    OutputError,
    RemoteError,
    RemoteRefusedError,
    UsageError,
)
from videoseg.models.remote import RemoteChat, for_each, run_async
from videoseg.models.remote_types import ChatSettings
from videoseg.training.cot.checks import Truth
from videoseg.training.cot.items import FOLDER, in_mask_order, own_row, vts_item, vts_name
from videoseg.training.cot.journal import Journal
from videoseg.training.cot.play import Gallery, PlaySettings, Teacher, Try, play
from videoseg.training.cot.report import Report, report

Progress = Callable[[str, int, int], None]
HOPELESS = frozenset({401, 403, 404})
"""Refusals that will meet every request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSettings:
    """What to build.

    tries: dialogues per sample before it is given up, each with a seed of its own.
    samples: numbers of the dataset's samples to use, all of them by default.
    concurrency: samples at a time.
    patience: failed requests of samples in a row after which the run stops.
    skip_bad: leave out samples that cannot be read (and count them) instead of stopping.
    """

    out: Path
    tries: int = 3
    seed: int = 0
    samples: range | None = None
    concurrency: int = 8
    patience: int = 8
    skip_bad: bool = False
    play: PlaySettings = field(default_factory=PlaySettings)

    def __post_init__(self) -> None:
        for name in ("tries", "concurrency", "patience"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; give at least 1")
        if self.seed < 0:
            raise UsageError(f"seed is {self.seed}; give 0 or more")


def build(
    reader: Reader[Any],
    chat: ChatSettings,
    settings: BuildSettings,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Build the dialogues of a dataset with a teacher behind an endpoint; see `build_with`."""

    async def work() -> Report:
        async with RemoteChat(chat) as teacher:
            return await build_with(
                reader, teacher, chat.model, settings, overwrite=overwrite, progress=progress
            )

    return run_async(work())


async def build_with(
    reader: Reader[Any],
    teacher: Teacher,
    teacher_name: str,
    settings: BuildSettings,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Build with any teacher; writes the dialogues and `<name>.report.json`, returns the report.

    A repeated call goes on with what an earlier one left in `<name>.journal.jsonl`; samples whose requests
    failed are asked again. Raises UsageError on samples outside the dataset, OutputError where results of
    another run are in the way, DatasetError on a bad sample unless `skip_bad`, RemoteError where the
    endpoint refuses every request or stays away.
    """
    place = Place.of(reader, settings)
    numbers = _numbers(reader, settings)
    place.prepare(reader, overwrite)
    head = _head(reader, teacher_name, settings)
    with Journal(place.journal, head) as journal:
        run = _Run(reader, teacher, settings, place, journal, numbers, progress)
        waiting = [number for number in numbers if number not in journal.records]
        run.show()
        await for_each(waiting, run.sample, settings.concurrency)
        made = report(head, numbers, journal.records, run.failed)
        place.write(journal.item(number) for number in numbers if run.written(number))
        _write(place.report, [json.dumps(made.data, indent=1, ensure_ascii=False)])
    return made


@dataclass(frozen=True, slots=True)
class Place:
    """The files of a run. `vts`: VTS-CoT layout, otherwise lines of the own-data schema."""

    items: Path
    vts: bool

    @classmethod
    def of(cls, reader: Reader[Any], settings: BuildSettings) -> Place:
        """`VTS-CoT/<name>.json`, or `<dataset>.jsonl`, in the output folder."""
        name = vts_name(reader)
        if name:
            return cls(settings.out / FOLDER / f"{name}.json", True)
        return cls(settings.out / f"{reader.dataset}.jsonl", False)

    @property
    def journal(self) -> Path:
        """Beside the items."""
        return self.items.with_suffix(".journal.jsonl")

    @property
    def report(self) -> Path:
        """Beside the items."""
        return self.items.with_suffix(".report.json")

    def prepare(self, reader: Reader[Any], overwrite: bool) -> None:
        """Remove what an earlier run left if it may be; raises OutputError for files of another origin."""
        source = getattr(reader, "path", None)
        if source is not None and self.items.absolute() == Path(source).absolute():
            raise OutputError(f"{self.items}: this is the dataset itself; give another folder")
        if overwrite:
            for path in (self.items, self.journal, self.report):
                path.unlink(missing_ok=True)
        elif self.items.exists() and not self.journal.exists():
            raise OutputError(f"{self.items} exists, without a journal; give another folder, or overwrite")

    def write(self, items: Iterator[dict[str, Any]]) -> None:
        """The items in order, one a line, in one go."""
        if self.vts:
            _write(self.items, _list_lines(items))
        else:
            write_rows(items, self.items)


@dataclass(eq=False, slots=True)
class _Run:
    """A run under way: what it reads, where it writes, what failed so far."""

    reader: Reader[Any]
    teacher: Teacher
    settings: BuildSettings
    place: Place
    journal: Journal
    numbers: range
    progress: Progress | None
    failed: dict[int, str] = field(default_factory=dict)
    in_a_row: int = 0

    def written(self, number: int) -> bool:
        """Whether a sample has a dialogue."""
        return number in self.journal.records and bool(self.journal.records[number]["written"])

    async def sample(self, number: int) -> None:
        """Make the dialogue of one sample and keep it; a failed request is noted, and fatal if it lasts."""
        try:
            record = await self._record(number)
        except RemoteError as error:
            self._failure(number, error)
        else:
            self.in_a_row = 0
            self.journal.add(number, record)
        self.show()

    def show(self) -> None:
        """Report progress."""
        if self.progress:
            self.progress("dialogues", len(self.journal.records) + len(self.failed), len(self.numbers))

    def _failure(self, number: int, error: RemoteError) -> None:
        if isinstance(error, RemoteRefusedError) and error.status in HOPELESS:
            raise error
        self.failed[number] = str(error)
        self.in_a_row += 1
        if self.in_a_row >= self.settings.patience:
            raise RemoteError(
                f"{self.in_a_row} samples in a row could not be asked; what is done is kept, and the same "
                f"command goes on from there. The last error: {error}"
            ) from error

    async def _record(self, number: int) -> dict[str, Any]:
        try:
            sample, truth = await asyncio.to_thread(self._read, number)
            if sample is None or truth is None:
                return _skipped(f"sample {number}", "has_dialogue")
            if why := unfit(sample, truth, vts=self.place.vts):
                return _skipped(f"{sample.origin.key}: {sample.query}", why)
            return await self._tries(number, sample, truth)
        except DatasetError as error:
            if not self.settings.skip_bad:
                raise
            return _skipped(str(error), "bad_sample")

    def _read(self, number: int) -> tuple[RefVideoSample | None, Truth | None]:
        sample = self.reader[number]
        if not isinstance(sample, RefVideoSample):
            return None, None
        return sample, Truth.of(sample)

    async def _tries(self, number: int, sample: RefVideoSample, truth: Truth) -> dict[str, Any]:
        settings = self.settings
        gallery = Gallery(sample, settings.play.preset)
        tries: list[Try] = []
        for attempt in range(settings.tries):
            seed = _seed(settings.seed, number, attempt)
            tries.append(await play(sample, truth, gallery, self.teacher, settings.play, seed))
            if tries[-1].dialogue is not None:
                break
        return {
            "name": f"{sample.origin.key}: {sample.query}",
            "skipped": None,
            "tries": [one.record() for one in tries],
            "item": await asyncio.to_thread(self._item, sample, tries[-1]),
        }

    def _item(self, sample: RefVideoSample, last: Try) -> dict[str, Any] | None:
        if last.dialogue is None:
            return None
        if self.place.vts:
            return vts_item(sample, last.dialogue, self.settings.play.preset)
        return own_row(sample, last.dialogue, self.place.items.parent)


def unfit(sample: RefVideoSample, truth: Truth, *, vts: bool) -> str:
    """Why a sample cannot become a dialogue whoever plays it, or an empty text."""
    if not truth.areas:
        return "no_annotated_frame"
    if truth.expected and not truth.visible:
        return "target_never_visible"
    if "<|" in sample.query or any(text in sample.query for text in RESERVED):
        return "reserved_text_in_query"
    if vts and not in_mask_order(sample):
        return "frames_out_of_order"
    return ""


def _skipped(name: str, why: str) -> dict[str, Any]:
    return {"name": name, "skipped": why, "tries": [], "item": None}


def _seed(seed: int, number: int, attempt: int) -> int:
    """31 bits that depend on all three."""
    return int(np.random.SeedSequence([seed, number, attempt]).generate_state(1)[0] >> 1)


def _numbers(reader: Reader[Any], settings: BuildSettings) -> range:
    numbers = settings.samples if settings.samples is not None else range(len(reader))
    if len(numbers) == 0 or min(numbers) < 0 or max(numbers) >= len(reader):
        raise UsageError(
            f"samples {numbers.start} to {numbers.stop - 1} of {reader.dataset} {reader.split}, which has "
            f"{len(reader)} (0 to {len(reader) - 1})"
        )
    return numbers


def _head(reader: Reader[Any], teacher_name: str, settings: BuildSettings) -> dict[str, Any]:
    """What must be the same for a journal to be gone on with; the range of samples may change."""
    return {
        "videoseg": __version__,
        "dataset": reader.dataset,
        "folder": reader.folder.absolute().name,
        "split": reader.split,
        "samples_of_dataset": len(reader),
        "teacher": teacher_name,
        "tries": settings.tries,
        "seed": settings.seed,
        "play": asdict(settings.play),
    }


def _list_lines(items: Iterable[Any]) -> Iterator[str]:
    """A JSON list with an item a line."""
    mark = "["
    for item in items:
        yield f"{mark}\n{json.dumps(item, ensure_ascii=False)}"
        mark = ","
    yield "\n]" if mark == "," else "[]"


def _write(path: Path, parts: Iterable[str]) -> None:
    """Write beside `path` and rename, so that there is never half a file."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            for part in parts:
                file.write(part)
            file.write("\n")
        os.replace(partial, path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error}); the journal is kept") from error
    finally:
        partial.unlink(missing_ok=True)
