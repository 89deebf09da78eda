"""Evaluation: reports and comparisons as self-contained HTML pages, made from their JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from videoseg.data import page as data_page
from videoseg.data.page import Chart, histogram
from videoseg.evaluation.pictures import PREDICTED, TRUE, Shot
from videoseg.export.trace_html import readable

TITLES = {
    "mevis": "MeViS",
    "ref-ytvos": "Ref-YouTube-VOS",
    "ref-davis17": "Ref-DAVIS17",
    "ref-sav": "Ref-SAV",
    "long-rvos": "Long-RVOS",
    "revos": "ReVOS",
    "reasonvos": "ReasonVOS",
    "groundmore": "GroundMoRe",
    "world": "The generated world",
}
NAMES = {"group": "By kind of expression", "length": "By length of the video", "turns": "By number of turns"}


def render(template: str, **values: Any) -> str:
    """A page of this folder; the style is that of the data pages."""
    folders = [Path(__file__).parent, Path(data_page.__file__).parent]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(**values)


def report_page(report: Mapping[str, Any], shots: Sequence[Shot]) -> str:
    """The page of a report as `reports.to_json` makes it."""
    overall, provenance = report["scores"]["overall"], report["provenance"]
    return render(
        "report.html.jinja",
        report=report,
        title=TITLES[report["benchmark"]],
        model=model_line(provenance.get("model")),
        overall=overall,
        metrics=[*dict.fromkeys(("JF", *overall))],
        malformed=[f"{name}: {problem}" for name, problem in report["malformed"].items()],
        lacking=[f"{name}: {len(frames)} frames" for name, frames in report["missing_frames"].items()],
        failures=[f"{name}: {problem}" for name, problem in report["failures"].items()],
        names=NAMES,
        charts=charts(report),
        dialogue=dialogue_rows(report["dialogue"]),
        shots=shots,
        colour_true=TRUE,
        colour_predicted=PREDICTED,
        sources=list(dict.fromkeys(row["source"] for row in report["published"])),
        provenance=readable_all(provenance),
    )


def comparison_page(data: Mapping[str, Any]) -> str:
    """The page of a comparison as `compare.compare` makes it."""
    scores = {label: row["JF"] for label, row in data["scores"].items()}
    overall, ends = scores["overall"], [end for row in scores.values() for end in row["ci95"]]
    low, high = min(0.0, *ends), max(0.0, *ends)
    scale = 100 / ((high - low) or 1.0)
    rows = [
        {
            **row,
            "label": label,
            "ends": row["ci95"],
            "left": (row["ci95"][0] - low) * scale,
            "width": (row["ci95"][1] - row["ci95"][0]) * scale,
            "at": (row["difference"] - low) * scale,
            "unsure": row["ci95"][0] <= 0 <= row["ci95"][1],
        }
        for label, row in scores.items()
    ]
    return render(
        "compare.html.jinja",
        data=data,
        title=TITLES[data["benchmark"]],
        names=data["names"],
        overall=overall,
        verdict=verdict(overall["ci95"], data["over"]),
        forest=rows,
        low=low,
        high=high,
        zero=-low * scale,
        provenance=[readable_all(one) for one in data["provenance"]],
    )


def verdict(ends: Sequence[float], over: str) -> str:
    """What the interval of the difference allows to say."""
    if ends[0] > 0 or ends[1] < 0:
        return f"The interval lies on one side of 0: other {over} would hardly turn the result around."
    return f"The interval holds 0: with other {over} the result might be the other way around."


def readable_all(provenance: Mapping[str, Any]) -> dict[str, str]:
    """What is known, as text."""
    return {name: readable(value) for name, value in provenance.items() if value not in ("", None)}


def model_line(model: Any) -> str:
    """Name of the model and the first letters of its weights' hashes; "" where it is not known."""
    if not isinstance(model, Mapping):
        return str(model or "")
    hashes = ", ".join(f"{file} {digest[:12]}" for file, digest in dict(model.get("sha256") or {}).items())
    return f"{model.get('name', '')} ({hashes})" if hashes else str(model.get("name", ""))


def charts(report: Mapping[str, Any]) -> list[Chart]:
    """How J&F and the number of turns are spread over the expressions."""
    items = report["items"].values()
    turns = [item["turns"] for item in items if "turns" in item]
    spread = histogram("J&F of the expressions", [50 * (item["J"] + item["F"]) for item in items])
    return [chart for chart in (spread, histogram("Turns per dialogue", turns)) if chart is not None]


def dialogue_rows(summary: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """What there is to say of the dialogues, line by line."""
    if not summary:
        return []
    found = [
        ("every reply valid", summary["valid_format"]),
        ("target visible on the keyframe", summary["keyframe_hit"]),
        *((f"interval, {name}", value) for name, value in (summary["grounding"] or {}).items()),
    ]
    lines = [(name, f"{value:.1f} %") for name, value in found if value is not None]
    return [("dialogues", f"{summary['expressions']:,}"), *lines]
