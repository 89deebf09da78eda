"""`videoseg score`, `compare` and `submit`: masks of any system against a benchmark."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from rich.markup import escape
from rich.table import Table

from videoseg.cli.show import console, print_json
from videoseg.machine import peak_memory_mb


def score(
    predictions: str,
    *,
    benchmark: str,
    data: str,
    protocol: str = "official",
    split: str | None = None,
    out: str | None = None,
    processes: int = 1,
    lenient: bool = False,
    allow_counts: bool = False,
    json: bool = False,
) -> int:
    """Score predictions of any system by a benchmark's protocol; what is missing counts 0 and is listed.

    Args:
        predictions: folder or zip of PNG masks, results.json, or the folder of `videoseg eval`
        benchmark: mevis, ref-ytvos, ref-davis17, ref-sav, long-rvos, revos, reasonvos, groundmore or world
        data: the dataset as it unzips
        protocol: official (the benchmark's own script) or o3 (VideoSEG-O3's)
        split: instead of the protocol's own, such as valid_u
        out: write report.json and report.html to this folder
        processes: how many; the scores do not depend on it
        lenient: predictions that cannot be read count 0 and are listed, instead of an error
        allow_counts: accept other numbers of videos and expressions than were published
        json: print the report as JSON
    """
    from videoseg.evaluation.benchmark import evaluate
    from videoseg.evaluation.predictions import open_predictions
    from videoseg.evaluation.protocols import protocol as table_of
    from videoseg.evaluation.reports import Run, to_json, write_report
    from videoseg.evaluation.scoring import load_items

    table, start = table_of(benchmark, protocol), time.perf_counter()
    items = load_items(table, data, split)
    with open_predictions(predictions, items) as opened:
        report = evaluate(
            table,
            items,
            opened.predictions,
            folder=data,
            split=split,
            processes=processes,
            lenient=lenient,
            allow_counts=allow_counts,
        )
        made = {"seconds": round(time.perf_counter() - start, 3), "peak_memory_mb": peak_memory_mb()}
        run = Run(split or table.split, data, predictions, opened.layout, opened.unexpected, provenance=made)
        found = write_report(out, report, items, opened.predictions, run) if out else to_json(report, run)
    if json:
        print_json(found)
    else:
        print_report(found, out)
    return 0


def print_report(report: Mapping[str, Any], out: str | None = None) -> None:
    """The table of a report, and what was wrong with the predictions."""
    console.print(score_table(report))
    for name, what in (
        ("missing", "were not predicted and count 0"),
        ("malformed", "could not be read and count 0"),
        ("missing_frames", "lack masks for some frames"),
        ("unexpected", "are not asked for and were left out"),
        ("failures", "failed"),
    ):
        if report[name]:
            first = next(iter(report[name]))
            console.print(f"[yellow]{len(report[name]):,} {what}[/yellow], such as {escape(first)}")
    for line in report["counts_mismatch"]:
        console.print(f"[yellow]{escape(line)}[/yellow]")
    if out:
        console.print(f"written to {escape(out)}: report.json, report.html")


def score_table(report: Mapping[str, Any]) -> Table:
    """Groups and metrics; the interval of J&F stands in the title."""
    ends = report["ci95"].get("JF")
    title = f"{report['benchmark']} {report['split']}, protocol {report['protocol']} ({report['family']})"
    table = Table(title=title + (f", J&F {ends[0]:.1f} to {ends[1]:.1f}" if ends else ""))
    columns = list(dict.fromkeys(("JF", *report["scores"]["overall"])))
    table.add_column("")
    for name in columns:
        table.add_column("J&F" if name == "JF" else name, justify="right")
    for label, row in report["scores"].items():
        style = "bold" if label == "overall" else ""
        table.add_row(label, *(f"{row[name]:.2f}" for name in columns), style=style)
    return table


def compare(
    first: str,
    second: str,
    *,
    out: str | None = None,
    over: Literal["videos", "items"] = "videos",
    names: tuple[str, str] | None = None,
    json: bool = False,
) -> int:
    """Two reports of one benchmark: differences (second minus first) with paired bootstrap intervals.

    Args:
        first: report.json or its folder
        second: report.json or its folder
        out: write compare.json and compare.html to this folder
        over: what is drawn with replacement
        names: how the two are called
        json: print the comparison as JSON
    """
    from videoseg.evaluation.compare import compare as run
    from videoseg.evaluation.page import comparison_page
    from videoseg.evaluation.reports import as_text, read_report, write_files

    called = names or (first, second)
    found = run(read_report(first), read_report(second), over=over, names=called)
    if out is not None:
        write_files(Path(out), {"compare.json": as_text(found), "compare.html": comparison_page(found)})
    if json:
        print_json(found)
    else:
        console.print(comparison_table(found))
        if out:
            console.print(f"written to {escape(out)}: compare.json, compare.html")
    return 0


def comparison_table(found: Mapping[str, Any]) -> Table:
    """J&F of both by group, the difference and its interval."""
    table = Table(title=f"{found['benchmark']} {found['split']}, protocol {found['protocol']}: J&F")
    table.add_column("")
    for name in (*found["names"], "difference", f"95 % over {found['over']}"):
        table.add_column(escape(name), justify="right")
    for label, row in found["scores"].items():
        jf = row["JF"]
        ends = f"{jf['ci95'][0]:+.2f} to {jf['ci95'][1]:+.2f}"
        cells = (label, f"{jf['a']:.2f}", f"{jf['b']:.2f}", f"{jf['difference']:+.2f}", ends)
        table.add_row(*cells, style="bold" if label == "overall" else "")
    return table


def submit(
    predictions: str,
    *,
    benchmark: str,
    data: str,
    out: str,
    protocol: str = "official",
    split: str | None = None,
    fill: bool = False,
    allow_counts: bool = False,
) -> int:
    """Pack predictions as the zip that a benchmark's server (or its own script) takes, and check them first.

    Args:
        predictions: folder or zip of PNG masks, results.json, or the folder of `videoseg eval`
        benchmark: mevis, ref-ytvos, ref-davis17, long-rvos, revos or reasonvos
        data: the dataset as it unzips, with its pictures
        out: the zip to write
        protocol: official, or o3 for the layout that VideoSEG-O3's script packs
        split: instead of the one that the server takes
        fill: write empty masks where predictions are missing
        allow_counts: accept other numbers of videos and expressions than were published
    """
    from videoseg.evaluation.predictions import open_predictions
    from videoseg.evaluation.protocols import protocol as table_of
    from videoseg.evaluation.scoring import counts_mismatch, load_items
    from videoseg.evaluation.submission import layout_of, write_zip

    table = table_of(benchmark, protocol)
    chosen = split or layout_of(table).split or table.split
    items = load_items(table, data, chosen, masks=False)
    counts_mismatch(table, items, chosen, allow_counts)
    with open_predictions(predictions, items) as opened:
        written = write_zip(table, items, opened.predictions, out, fill=fill)
    console.print(f"{written.pictures:,} pictures of {len(items):,} expressions written to {escape(out)}")
    if written.filled:
        console.print(f"[yellow]{len(written.filled):,} were filled with empty masks[/yellow]")
    return 0
