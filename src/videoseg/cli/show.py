"""What the commands print: turns as they happen, progress, results."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from videoseg.types import Answer, Cues, Query, Result, Role, Turn, Vote

console = Console(stderr=True, highlight=False)
LOOKS = {
    Role.LOW: "low-resolution frames",
    Role.HIGH: "high-resolution frames",
    Role.KEYFRAME: "keyframe",
    Role.SEGMENT: "frames of the key segment",
    Role.REFERENCE: "reference frames",
    Role.TARGET: "target frame",
}


def print_turn(query: Query, turn: Turn) -> None:
    """One turn: what was looked at, what was thought, what was decided."""
    console.print(
        f"[bold]turn {turn.index}[/bold] of [cyan]{escape(query.text)}[/cyan]  "
        f"[dim]{turn.num_tokens} tokens, {turn.seconds:.1f} s[/dim]"
    )
    console.print(f"  looked at {_looked(turn)}")
    for name, text in turn.steps:
        console.print(f"  [dim]{escape(name)}:[/dim] {escape(text)}")
    console.print(f"  → {_decided(turn)}")
    if turn.reply and turn.error:
        console.print(f"  [yellow]{escape(turn.error)}[/yellow]")


def _looked(turn: Turn) -> str:
    counts = Counter(shown.role for shown in turn.shown)
    sizes = {shown.role: f"{shown.width}x{shown.height}" for shown in turn.shown}
    frames = [f"{count} {LOOKS[role]} ({sizes[role]})" for role, count in counts.items()]
    return ", ".join(frames)


def _decided(turn: Turn) -> str:
    if turn.reply is None:
        return f"[red]no valid step:[/red] {escape(turn.error or 'unreadable reply')}"
    reply = turn.reply
    if isinstance(reply, Vote):
        return f"{len(reply.values)} of {reply.asked} replies read: {_voted(reply)}"
    if isinstance(reply, Cues):
        boxes = ", ".join(str(list(cue.box)) for cue in reply.objects)
        return f"answers with {len(reply.objects)} object{'s' * (len(reply.objects) != 1)} {boxes}"
    verb = "answers" if isinstance(reply, Answer) else "selects"
    mask = "with a mask" if reply.has_seg else "without a mask"
    return f"{verb} frames {reply.interval.start}-{reply.interval.end}, keyframe {reply.keyframe}, {mask}"


def _voted(vote: Vote) -> str:
    spread = ", ".join(f"{value:.2g}" for value in vote.spread)
    frames = f"frames {vote.interval.start}-{vote.interval.end}"
    chosen = frames if vote.keyframe is None else f"frame {vote.keyframe} of {frames}"
    return f"{chosen}, spread {spread or '-'}"


def print_result(result: Result, folder: Any = None) -> None:
    """The outcome of one query in three lines."""
    shown = len(result.masklets)
    rows = zip(*(masklet.rles for masklet in result.masklets), strict=True)
    frames = sum(any(code.area for code in row) for row in rows)
    console.print(
        f"[green]{escape(result.query.text)}[/green]: {shown} object{'s' * (shown != 1)}, "
        f"mask on {frames} of {result.masklets.num_frames} frames, keyframe {result.trace.keyframe}, "
        f"stopped by {result.trace.stop.value}"
    )
    for warning in result.trace.warnings:
        console.print(f"  [yellow]warning:[/yellow] {escape(warning)}")
    if folder is not None:
        console.print(f"  written to {escape(str(folder))}")


@contextmanager
def progress_bar() -> Iterator[Any]:
    """A bar on the terminal; gives `update(stage, done, total)`."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def update(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)

        yield update


def print_json(data: Any) -> None:
    """Machine-readable output on standard output."""
    sys.stdout.write(json.dumps(data, indent=2) + "\n")
