"""`videoseg eval`: a benchmark's questions answered by a model, and the answers scored."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn

from videoseg.cli.score import print_report
from videoseg.cli.show import console, print_json

if TYPE_CHECKING:
    from videoseg.evaluation.runner import Step
    from videoseg.evaluation.session import Session

Benchmark = Literal[
    "mevis",
    "ref-ytvos",
    "ref-davis17",
    "ref-sav",
    "long-rvos",
    "revos",
    "reasonvos",
    "groundmore",
    "world",
]
EVERY = 30.0
"""Seconds between two lines of progress where there is no terminal."""


def evaluate(
    benchmark: Benchmark,
    *,
    data: str | None = None,
    model: str = "tiny",
    protocol: Literal["official", "o3"] = "official",
    split: str | None = None,
    out: str | None = None,
    limit: int | None = None,
    clips: int = 20,
    first_seed: int | None = None,
    families: list[str] | None = None,
    shard: str = "1/1",
    processes: int = 0,
    ray: bool = False,
    system: Literal["o3", "r1"] | None = None,
    preset: str | None = None,
    propagation: str | None = None,
    tracker: str | None = None,
    max_turns: int | None = None,
    overrides: dict[str, Any] | None = None,
    original_sam2: str | None = None,
    xmem: str | None = None,
    sam2: str | None = None,
    endpoint: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    temperature: float = 0.0,
    seed: int = 0,
    lenient: bool = False,
    allow_counts: bool = False,
    json: bool = False,
) -> int:
    """Answer every question of a benchmark's split and score the masks.

    The same command goes on after an interruption, tries again what failed, and else only scores.

    Args:
        benchmark: which one
        data: folder of the dataset as it was published; world without it draws its clips itself
        model: tiny, videoseg-o3-2b, videoseg-o3-4b, a folder, hf:owner/name or ms:owner/name
        protocol: official, the benchmark's own way to score, or o3, that of VideoSEG-O3
        split: default: the one that is scored without a server
        out: folder of the run, default eval-<benchmark>
        limit: only the first so many videos
        clips: for world without data: clips of every family
        first_seed: for world without data: seed of the first clip (default: of the test split)
        families: for world without data: only questions of these families
        shard: I/N: only part I of N of the videos; all parts share one folder, the last one scores
        processes: workers, each with a model on a GPU of its own; 0: one per GPU
        ray: let the workers be actors of the Ray cluster that RAY_ADDRESS names (else of a local one)
        system: o3 or r1; without it the model tells
        preset: default or released; without it the checkpoint's own
        propagation: inject_every_frame, inject_once, original_sam2 or per_frame
        tracker: what carries the keyframe's mask through the video: sam2 or xmem
        max_turns: at most so many looks
        overrides: further fields of the preset or its budget, such as '{"low_frames": 10}'
        original_sam2: Meta's unmodified SAM2 weights, for propagation original_sam2
        xmem: weights for tracker xmem; tiny models bring their own
        sam2: for r1, SAM2's weights; tiny models bring their own
        endpoint: for r1, address of an OpenAI-compatible endpoint that serves the model
        device: cpu, cuda, mps, or auto
        dtype: float32, bfloat16, float16, or auto
        temperature: for o3; 0 is greedy
        seed: for sampling
        lenient: a malformed prediction counts 0 instead of ending the scoring
        allow_counts: go on where the dataset has not as many videos or expressions as were published
        json: print the report as JSON on standard output
    """
    from videoseg.data.world.queries import FAMILIES
    from videoseg.data.world.sampler import TEST_SEEDS
    from videoseg.evaluation.runner import Settings, Shard, pool_of
    from videoseg.evaluation.session import Asked, Session

    part, pool = Shard.parse(shard), pool_of(processes, ray, device)
    options: dict[str, Any] = {
        "system": system,
        "preset": preset,
        "propagation": propagation,
        "tracker": tracker,
        "max_turns": max_turns,
        "original_sam2": original_sam2,
        "xmem": xmem,
        "sam2": sam2,
        "endpoint": endpoint,
        "device": device,
        "dtype": dtype,
        "temperature": temperature or None,
        "seed": seed,
        **(overrides or {}),
    }
    asked = Asked(
        benchmark,
        Path(data) if data else None,
        protocol,
        split,
        limit,
        clips,
        TEST_SEEDS.start if first_seed is None else first_seed,
        tuple(families) if families else FAMILIES,
        allow_counts,
    )
    settings = Settings(model, options)
    session = Session.open(asked, settings, Path(out or f"eval-{benchmark}"))
    try:
        with following() as notify:
            session.answer(settings, pool, part, notify)
    except KeyboardInterrupt:
        console.print("what was done is kept; the same command goes on from there")
        raise
    content = _score(session, max(1, pool.count), lenient)
    if json and content:
        print_json(content)
    return _exit_code(session)


def _score(session: Session, processes: int, lenient: bool) -> dict[str, Any] | None:
    """The report, where all videos have been tried and the true masks are published."""
    folder = escape(str(session.store.folder))
    if left := session.open_videos():
        console.print(f"{len(left)} of {len(session.groups)} videos are left to other shards; no report yet")
        return None
    if len(session.failures()) == len(session.groups):
        console.print("no video could be answered; there is nothing to score")
        return None
    if not session.published:
        console.print(
            "the masks of this split are not published; `videoseg submit` packs the predictions in "
            f"{folder} for the server"
        )
        return None
    content = session.report(processes, lenient)
    print_report(content, str(session.store.folder))
    return content


def _exit_code(session: Session) -> int:
    """0, or for videos that failed 3 if their own data are at fault, else 1."""
    failures = session.failures()
    for video, failure in failures.items():
        console.print(f"[red]failed[/red] {escape(video)}: {failure['kind']}: {escape(failure['error'])}")
    if not failures:
        return 0
    console.print(
        f"tracebacks are in {escape(str(session.store.folder / 'failures'))}; the same command tries again"
    )
    return 3 if all(failure["bad_input"] for failure in failures.values()) else 1


@contextmanager
def following() -> Iterator[Any]:
    """A bar with the time that is left on a terminal, a line now and then elsewhere; gives `notify(step)`."""
    pace = Pace()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("masks", total=None, left="")

        def notify(step: Step) -> None:
            text = pace.told(step)
            bar.update(task, completed=step.masks, total=step.total, left=text)
            if step.error:
                console.print(f"[red]failed[/red] {escape(step.video)}: {escape(step.error)}")
            if not console.is_terminal and pace.due():
                console.print(f"masks {text}")

        yield notify


@dataclass
class Pace:
    """How fast it goes, from what this run did itself; `now` is a clock in seconds."""

    now: Any = time.monotonic
    began: float = field(init=False)
    first: int | None = None
    spoken: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.spoken = self.now()

    def told(self, step: Step) -> str:
        """`done of total, time left`."""
        if self.first is None:
            self.first, self.began = step.masks, self.now()
        made, seconds = step.masks - self.first, self.now() - self.began
        left = f", {clock(seconds / made * (step.total - step.masks))} left" if made else ""
        return f"{step.masks:,} of {step.total:,}{left}"

    def due(self) -> bool:
        """Whether it is time for a line."""
        if self.now() - self.spoken < EVERY:
            return False
        self.spoken = self.now()
        return True


def clock(seconds: float) -> str:
    """`h:mm:ss`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
