"""Data: the check of a dataset as one self-contained HTML page: counts, findings, statistics, pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image

from videoseg.data.check import Report, licence_line
from videoseg.data.manifest import info
from videoseg.data.sheet import Picture
from videoseg.errors import OutputError
from videoseg.video.cache import Frame

BINS = 16


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of a chart: its label and value, `height` in percent of the highest."""

    label: str
    count: int
    height: float


@dataclass(frozen=True, slots=True)
class Chart:
    """A histogram with its mean and median, and the labels at the ends of its axis."""

    title: str
    bars: tuple[Bar, ...]
    first: str
    last: str
    facts: str


@dataclass(frozen=True, slots=True)
class Shot:
    """A thumbnail as data URI, with its texts."""

    uri: str
    caption: str
    detail: str


def histogram(title: str, values: Sequence[float], unit: str = "", *, percent: bool = False) -> Chart | None:
    """A histogram of at most `BINS` bars, whole numbers in bins of whole width; None of no values."""
    if not values:
        return None
    data = np.asarray(values, dtype=float)
    scale = 100.0 if percent else 1.0
    low, high = float(data.min()), float(data.max())
    whole = bool((data == data.round()).all())
    if whole:
        step = max(1, int(np.ceil((high - low + 1) / BINS)))
        edges = np.arange(low, high + step + 1, step) - 0.5
    else:
        edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    counts, _ = np.histogram(data, edges)
    top = max(1, int(counts.max()))
    bars = tuple(
        Bar(_range(edges[i], edges[i + 1], scale, whole, unit), int(count), 100 * int(count) / top)
        for i, count in enumerate(counts)
    )
    facts = (
        f"mean {_number(data.mean() * scale)}{unit}, median {_number(float(np.median(data)) * scale)}{unit}"
    )
    return Chart(title, bars, f"{_number(low * scale)}{unit}", f"{_number(high * scale)}{unit}", facts)


def _number(value: float) -> str:
    if value == round(value):
        return f"{value:,.0f}"
    return f"{value:,.1f}" if abs(value) >= 1 else f"{value:.2g}"


def _range(low: float, high: float, scale: float, whole: bool, unit: str) -> str:
    if whole:
        first, last = round(low + 0.5), round(high - 0.5)
        return f"{first:,}{unit}" if first == last else f"{first:,} to {last:,}{unit}"
    return f"{_number(low * scale)} to {_number(high * scale)}{unit}"


def charts(report: Report) -> list[Chart]:
    """The histograms that this dataset has values for."""
    stats = report.statistics
    options = (
        histogram("Frames per video", stats.video_frames),
        histogram("Words per query", stats.query_words),
        histogram("Objects per query", stats.targets),
        histogram("Replies per dialogue", stats.turns),
        histogram("Mask area, share of the frame", stats.area_share, " %", percent=True),
    )
    return [chart for chart in options if chart is not None]


def write_page(report: Report, pictures: Sequence[Picture], path: Path | str) -> Path:
    """Write the page; raises `OutputError`."""
    target = Path(path)
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.get_template("check.html.jinja").render(
        report=report,
        info=info(report.dataset),
        licence=licence_line(report.dataset),
        charts=charts(report),
        kinds=report.statistics.kinds.most_common(8),
        sizes=report.statistics.sizes.most_common(8),
        shots=[Shot(jpeg_uri(item.image), item.caption, item.detail) for item in pictures],
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(page)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error}); check the folder") from error
    return target


def jpeg_uri(image: Frame) -> str:
    """A picture uint8 [H, W, 3] as data URI."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
