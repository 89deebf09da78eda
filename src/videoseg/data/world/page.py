"""Generated world: the statistics of a set of clips as one self-contained page."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from videoseg.data.world.queries import FAMILIES
from videoseg.data.world.scene import MOTIONS
from videoseg.data.world.sheet import COLOURS, Strip
from videoseg.data.world.stats import Facts, families_of, summarise
from videoseg.errors import OutputError

SHARES = 10
NUMBERS = 12
Value = Callable[[Facts], Any]


@dataclass(frozen=True, slots=True)
class Part:
    """One family's part of a bar: height in percent of the tallest bar."""

    family: str
    count: int
    height: float


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: what it stands for, how many samples, its parts from the bottom."""

    label: str
    count: int
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """A histogram, stacked by family; `note` says what is counted."""

    title: str
    note: str
    bars: tuple[Bar, ...]


def charts(facts: Sequence[Facts]) -> list[Chart]:
    """The histograms of the page."""
    return [
        _numbers(facts, "Words per query", "", lambda item: item.words),
        _numbers(facts, "Clip length", "frames", lambda item: item.num_frames),
        _numbers(facts, "Things per clip", "", lambda item: item.things),
        _words(facts, "Motion of the target", "none: no such object", _target_motion),
        _words(facts, "Motion of all things", "", lambda item: item.motions),
        _shares(facts, "Size of the target", "of the frame where it shows", lambda item: item.area, 0.01),
        _shares(facts, "Visibility of the target", "of the clip's frames", lambda item: item.seen),
        _shares(facts, "Start of the answer's interval", "of the clip", lambda item: item.start),
        _shares(facts, "Length of the answer's interval", "of the clip", lambda item: item.interval),
        _shares(facts, "Keyframe of the answer", "place in the clip", lambda item: item.keyframe),
        _numbers(facts, "Replies per trace", "1: answered at once", lambda item: item.turns),
        _numbers(facts, "Thinking per trace", "words in all replies", lambda item: item.think_words),
    ]


def _target_motion(item: Facts) -> tuple[str, ...]:
    return (item.target_motion or "none",)


def _numbers(facts: Sequence[Facts], title: str, note: str, value: Value) -> Chart:
    """Whole numbers: one bar each, or ranges where there are many."""
    values = [value(item) for item in facts]
    low, high = min(values), max(values)
    step = -(-(high - low + 1) // NUMBERS)
    used = sorted(set(values))
    if step > 1 and len(used) <= NUMBERS:
        labels, bin_of = [str(number) for number in used], {number: i for i, number in enumerate(used)}
        return _chart(title, note, labels, [(item, bin_of[value(item)]) for item in facts])
    starts = range(low, high + 1, step)
    labels = [str(start) for start in starts]
    note = note if step == 1 else f"{note}, in steps of {step}"
    return _chart(title, note, labels, [(item, (value(item) - low) // step) for item in facts])


def _shares(facts: Sequence[Facts], title: str, note: str, value: Value, width: float = 0.1) -> Chart:
    """Shares of one in equal bins, in percent; the last bin holds its upper end and everything above."""
    labels = [f"{100 * width * place:.0f}" for place in range(SHARES)]
    labels[-1] += "" if width * SHARES >= 1 else "+"
    members = [
        (item, min(SHARES - 1, int(value(item) / width + 1e-9))) for item in facts if value(item) is not None
    ]
    return _chart(title, f"% {note}, in steps of {100 * width:.0f}", labels, members)


def _words(facts: Sequence[Facts], title: str, note: str, value: Callable[[Facts], tuple[str, ...]]) -> Chart:
    members = [(item, word) for item in facts for word in value(item)]
    there = {word for _, word in members}
    labels = [name for name in (*MOTIONS, "none") if name in there]
    return _chart(title, note, labels, [(item, labels.index(word)) for item, word in members])


def _chart(title: str, note: str, labels: Sequence[str], members: Sequence[tuple[Facts, int]]) -> Chart:
    counts = Counter((place, item.family) for item, place in members)
    totals = Counter(place for _, place in members)
    tallest = max(totals.values(), default=1)
    names = families_of([item for item, _ in members])
    bars = []
    for place, label in enumerate(labels):
        parts = tuple(
            Part(name, counts[place, name], round(100 * counts[place, name] / tallest, 2))
            for name in names
            if counts[place, name]
        )
        bars.append(Bar(label, totals[place], parts))
    return Chart(title, note, tuple(bars))


def write_page(facts: Sequence[Facts], items: Sequence[Strip], path: Path | str) -> Path:
    """Write the page; raises OutputError where it cannot be written, ValueError without any sample."""
    target, names = Path(path), families_of(facts)
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    colours = {
        name: "#{:02x}{:02x}{:02x}".format(*COLOURS[i % len(COLOURS)]) for i, name in enumerate(_order(names))
    }
    html = environment.get_template("stats.html.jinja").render(
        summary=summarise(facts),
        charts=charts(facts),
        colours=colours,
        queries=Counter(item.query for item in facts).most_common(12),
        strips=[(_uri(item), item) for item in items],
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(html, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error}); check the folder") from error
    return target


def _order(names: Sequence[str]) -> list[str]:
    """All known families first, so that a family keeps its colour whatever else is there."""
    return [*FAMILIES, *(name for name in names if name not in FAMILIES)]


def _uri(item: Strip) -> str:
    buffer = io.BytesIO()
    Image.fromarray(item.image).save(buffer, format="JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
