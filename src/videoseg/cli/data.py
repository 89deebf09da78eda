"""`videoseg data`: the generated world, checks of real datasets, conversion of own data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.markup import escape

from videoseg.cli.show import console, print_json, progress_bar
from videoseg.errors import DatasetError, OutputError, UsageError

if TYPE_CHECKING:
    from videoseg.data.check import Report
    from videoseg.data.readers.base import Reader
    from videoseg.data.world.sampler import WorldSpec

Family = Literal["appearance", "motion", "temporal", "detail", "none"]
Layout = Literal["video", "mevis", "ref-ytvos", "vts-cot", "rl", "all"]


def world(
    out: str,
    *,
    count: int = 10,
    first_seed: int = 0,
    family: Family | None = None,
    layout: Layout = "video",
    width: int = 224,
    height: int = 160,
    frames: int | None = None,
    workers: int = 1,
    sheet: str | None = None,
    stats: str | None = None,
    overwrite: bool = False,
) -> int:
    """Write generated clips with their exact truth, as videos or in the layouts of real datasets.

    Args:
        out: folder to write
        count: how many clips
        first_seed: seed of the first; a seed always gives the same clip, and belongs to train, valid or test
        family: only questions of this family
        layout: video (NAME.mp4 and NAME.json), or a dataset's own layout; all: every one of these
        width: of a frame, in pixels
        height: of a frame, in pixels
        frames: length of every clip (default: 16 to 32)
        workers: how many processes; what is written does not depend on it
        sheet: also write a contact sheet to this PNG file
        stats: also write statistics to this HTML file
        overwrite: write into a folder that holds something
    """
    from videoseg.data.world.sampler import WorldSpec

    try:
        lengths = WorldSpec.lengths if frames is None else (frames,)
        spec = WorldSpec(width=width, height=height, lengths=lengths)
    except ValueError as error:
        raise UsageError(str(error)) from error
    seeds = range(first_seed, first_seed + count)
    with progress_bar() as update:
        _write_world(Path(out), layout, seeds, spec, family, workers, overwrite, update)
        _describe_world(seeds, spec, family, sheet, stats, workers, update)
    return 0


def _write_world(
    folder: Path,
    layout: str,
    seeds: range,
    spec: WorldSpec,
    family: str | None,
    workers: int,
    overwrite: bool,
    update: Any,
) -> None:
    from videoseg.data.world.layouts import write_layouts, write_videos
    from videoseg.data.world.plan import LAYOUTS, Plan, split_of

    if layout == "video":
        if folder.exists() and any(folder.iterdir()) and not overwrite:
            raise OutputError(f"{folder} holds something already; give another folder or --overwrite")
        paths = write_videos(folder, seeds, spec, family, workers=workers, progress=update)
        console.print(f"{len(paths)} clips written to {escape(str(folder))}")
        return
    every = LAYOUTS if split_of(seeds) == "train" else ("mevis", "ref-ytvos")
    plan = Plan(seeds, spec, family, every if layout == "all" else (layout,))
    done = write_layouts(folder, plan, workers=workers, overwrite=overwrite, progress=update)
    counts = ", ".join(f"{name} {number:,}" for name, number in done.counts.items())
    console.print(f"{len(seeds):,} clips of split {plan.split} in {escape(str(folder))}; samples: {counts}")


def _describe_world(
    seeds: range,
    spec: WorldSpec,
    family: str | None,
    sheet: str | None,
    stats: str | None,
    workers: int,
    update: Any,
) -> None:
    """The contact sheet and the statistics, where they are asked for."""
    if sheet is None and stats is None:
        return
    from videoseg.data.world.page import write_page
    from videoseg.data.world.sheet import contact_sheet, strips
    from videoseg.data.world.stats import collect

    shown = strips(seeds, spec, family)
    if sheet is not None:
        console.print(f"contact sheet: {escape(str(contact_sheet(shown, sheet)))}")
    if stats is not None:
        facts = collect(seeds, spec, family, workers=workers, progress=update)
        console.print(f"statistics: {escape(str(write_page(facts, shown, stats)))}")


def check(
    folder: str,
    *,
    dataset: str,
    split: str = "train",
    videos: str | None = None,
    out: str | None = None,
    limit: int | None = None,
    deep: bool = False,
    complete: bool = False,
    pictures: int = 12,
    json: bool = False,
) -> int:
    """Read a dataset once and say what is missing or damaged.

    Args:
        folder: the dataset as it unzips (for own data, the JSONL file)
        dataset: name of its reader, such as mevis; an unknown name lists them
        split: train, valid, ...
        videos: folder of the video sets that vts-cot and rl refer to
        out: write report.html, sheet.png and report.json to this folder
        limit: read this many evenly spread samples only
        deep: decode every mask instead of three per query
        complete: fail as well where the counts are not those of the published dataset
        pictures: how many samples the page and the sheet show
        json: print the report as JSON
    """
    from videoseg.data.check import check as read_through
    from videoseg.data.readers import open_dataset

    reader = open_dataset(dataset, folder, split, videos=videos)
    with progress_bar() as update:
        report = read_through(
            reader, limit=limit, masks_per_sample=None if deep else 3, progress=None if json else update
        )
    if out is not None:
        _write_report(reader, report, Path(out), pictures)
    if json:
        print_json(report.summary())
    else:
        _print_report(report, out)
    good = report.ok and (report.complete or not complete)
    return 0 if good else DatasetError.exit_code


def _write_report(reader: Reader[Any], report: Report, out: Path, count: int) -> None:
    from json import dumps

    from videoseg.data.page import write_page
    from videoseg.data.sheet import contact_sheet
    from videoseg.data.sheet import pictures as draw

    shown = draw(reader, count)
    write_page(report, shown, out / "report.html")
    (out / "report.json").write_text(dumps(report.summary(), indent=2) + "\n")
    if shown:
        contact_sheet(shown, out / "sheet.png")


def _print_report(report: Report, out: str | None) -> None:
    from videoseg.data.check import licence_line

    console.print(
        f"[bold]{report.dataset}[/bold] {report.split}: {escape(licence_line(report.dataset))}",
        soft_wrap=True,
    )
    for row in report.counts:
        expected = "not stated" if row.expected is None else f"{row.expected:,}"
        mark = " [yellow]differs (unconfirmed)[/yellow]" if row.doubtful else " [red]differs[/red]"
        console.print(f"  {row.name}: {row.found:,} (expected {expected}){mark if row.differs else ''}")
    for note in report.notes:
        console.print(f"  [dim]{escape(note)}[/dim]")
    for finding in report.findings:
        console.print(f"  [red]bad:[/red] {escape(finding)}", soft_wrap=True)
    colour = "red" if report.bad else "green"
    console.print(
        f"[{colour}]{report.checked:,} of {report.total:,} samples read, {report.bad:,} bad[/{colour}]"
    )
    if out is not None:
        console.print(f"written to {escape(out)}")


def convert(
    source: str,
    out: str,
    *,
    form: Literal["coco", "yt-vis", "yt-vos", "davis", "cvat", "label-studio"],
    media: str | None = None,
    query: str = "{label}",
    boxes: Literal["error", "fill", "skip"] = "error",
    texts: list[str] | None = None,
) -> int:
    """Convert an export of another tool to the JSONL of own data.

    Args:
        source: the export (a file, or the folder of YouTube-VOS and DAVIS)
        out: the JSONL file to write; its paths are relative to its folder
        form: what the export is
        media: the video file or folder of images, where the export does not say
        query: text of objects without one of their own; fields {label}, {id}, {video}
        boxes: boxes are no masks: stop, fill them, or skip them
        texts: files with queries (DAVIS text files, YouTube-VOS expression files)
    """
    from videoseg.data.convert import convert as run
    from videoseg.data.convert.common import Options

    options = Options(Path(media) if media else None, query, boxes, tuple(Path(text) for text in texts or ()))
    console.print(f"{run(form, source, out, options):,} queries written to {escape(out)}")
    return 0
