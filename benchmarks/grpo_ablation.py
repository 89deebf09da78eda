"""Small GRPO runs beside each other: variants of a recipe, several seeds each, scores with intervals.

    python benchmarks/grpo_ablation.py configs/tiny-grpo-ablation.yaml --docs docs

The YAML file names the recipe (`base`), changes that hold for all runs (`overrides`), the seeds, the measures
and the variants, each a set of changes. A run that is finished is not repeated, a broken-off one goes on.
Every run answers the same held-out prompts before and after, greedily; intervals are bootstrapped over seeds
and prompts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from common import commit, machine
from numpy.typing import NDArray

from videoseg.training.grpo_config import GrpoConfig
from videoseg.training.grpo_trainer import run_grpo
from videoseg.training.rewards.registry import DEFAULT
from videoseg.training.settings import read_settings

BOOTSTRAPS = 4000


@dataclass(frozen=True)
class Ablation:
    """What to run; `variants` map a name to changes of the recipe."""

    base: str
    out: str
    variants: dict[str, dict[str, Any]]
    seeds: tuple[int, ...] = (0, 1, 2)
    overrides: dict[str, Any] = field(default_factory=dict)
    measures: tuple[str, ...] = ("frames_iou", "keyframe_iou", "default_reward", "well_formed", "turns")


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe")
    parser.add_argument("--docs", default="docs")
    parser.add_argument("--only", nargs="*", help="names of variants")
    parser.add_argument("--table", action="store_true", help="only the table, of the runs that are finished")
    options = parser.parse_args()
    ablation = read_settings(Ablation, options.recipe)
    chosen = options.only or list(ablation.variants)
    if not options.table:
        for seed in ablation.seeds:  # seed by seed, so that an early table has every variant
            for name in chosen:
                run_one(ablation, name, seed)
                write(ablation, Path(options.docs))
    write(ablation, Path(options.docs))


def folder_of(ablation: Ablation, name: str, seed: int) -> Path:
    return Path(ablation.out) / f"{name.replace(' ', '-')}-{seed}"


def run_one(ablation: Ablation, name: str, seed: int) -> None:
    """One training run, unless it is finished."""
    folder = folder_of(ablation, name, seed)
    if (folder / "model").is_dir():
        return
    first = 10_000_000 + 1_000_000 * seed  # other prompts for another seed
    given = {
        **ablation.overrides,
        "prompts.first_seed": first,
        **with_all_rewards(ablation.variants[name]),
        "seed": seed,
        "out": str(folder),
    }
    config = read_settings(GrpoConfig, ablation.base, given)
    print(f"{name}, seed {seed}: {folder}", flush=True)
    run_grpo(config, lambda record: print(f"  {record['step'] + 1}/{record['of']}", end="\r", flush=True))


def with_all_rewards(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Rewards that a variant does not use are logged all the same."""
    if "rewards" not in changes:
        return dict(changes)
    return {**changes, "rewards": {**dict.fromkeys(DEFAULT, 0.0), **changes["rewards"]}}


def held_out(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]] | None:
    """What the run knew of the held-out prompts before and after; None if it is not finished."""
    if not (folder / "model").is_dir():
        return None
    files = sorted((folder / "held_out").glob("*.json"))
    return json.loads(files[0].read_text()), json.loads(files[-1].read_text())


def column(facts: Sequence[Mapping[str, Any]], name: str) -> NDArray[np.float64]:
    """One number per held-out prompt; `default_reward` is the sum of the seven, whatever was trained on."""
    if name == "default_reward":
        found = [sum(fact["rewards"][each] for each in DEFAULT) for fact in facts]
    else:
        found = [fact[name] for fact in facts]
    return np.array(found, dtype=np.float64)


def interval(values: NDArray[np.float64]) -> list[float]:
    """Mean and 95 % bounds of `[seeds, prompts]`: seeds and prompts are drawn with replacement."""
    rng = np.random.default_rng(0)
    seeds, prompts = values.shape
    means = [
        np.nanmean(values[rng.integers(seeds, size=seeds)][:, rng.integers(prompts, size=prompts)])
        for _ in range(BOOTSTRAPS)
    ]
    return [round(float(x), 4) for x in (np.nanmean(values), *np.percentile(means, [2.5, 97.5]))]


def collect(ablation: Ablation) -> dict[str, Any]:
    """Per variant and measure: mean with interval, and the same of the paired gain over the cold start."""
    rows: dict[str, Any] = {}
    for name in ablation.variants:
        runs = [held_out(folder_of(ablation, name, seed)) for seed in ablation.seeds]
        done = [run for run in runs if run is not None]
        if not done:
            continue
        before = {m: np.stack([column(run[0], m) for run in done]) for m in ablation.measures}
        after = {m: np.stack([column(run[1], m) for run in done]) for m in ablation.measures}
        if not rows:
            first = {m: {"mean": interval(before[m][:1])} for m in ablation.measures}
            rows["cold start"] = {"seeds": 1, "prompts": before[ablation.measures[0]].shape[1], **first}
        rows[name] = {"seeds": len(done), "prompts": after[ablation.measures[0]].shape[1]} | {
            m: {"mean": interval(after[m]), "gain": interval(after[m] - before[m])} for m in ablation.measures
        }
    return rows


def markdown(rows: Mapping[str, Any], measures: Sequence[str]) -> str:
    """A table: mean [interval], and the gain over the cold start."""
    lines = ["| variant | seeds | " + " | ".join(measures) + " |", "|" + "---|" * (len(measures) + 2)]
    for name, row in rows.items():
        cells = []
        for measure in measures:
            mean, low, high = row[measure]["mean"]
            cell = f"{mean:.3f} [{low:.3f}, {high:.3f}]"
            if "gain" in row[measure]:
                gain, low, high = row[measure]["gain"]
                cell += f"; {gain:+.3f} [{low:+.3f}, {high:+.3f}]"
            cells.append(cell)
        lines.append(f"| {name} | {row['seeds']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot(rows: Mapping[str, Any], measures: Sequence[str], path: Path) -> None:
    """Gains over the cold start with their intervals, a panel per measure."""
    from matplotlib.figure import Figure

    names = [name for name in rows if name != "cold start"]
    figure = Figure(figsize=(3.2 * len(measures), 0.45 * len(names) + 1.4), layout="constrained")
    panels = figure.subplots(1, len(measures), squeeze=False, sharey=True)[0]
    for panel, measure in zip(panels, measures, strict=True):
        gains = np.array([rows[name][measure]["gain"] for name in names])
        spread = np.abs(gains[:, 1:].T - gains[:, 0])
        panel.errorbar(gains[:, 0], range(len(names)), xerr=spread, fmt="o", markersize=4, capsize=2)
        panel.axvline(0, color="grey", linewidth=0.8)
        panel.set_title(f"{measure}: gain over the cold start", fontsize=9)
        panel.set_yticks(range(len(names)), names)
        panel.grid(alpha=0.3)
    panels[0].invert_yaxis()
    figure.savefig(path, dpi=110)


def write(ablation: Ablation, docs: Path) -> None:
    """`grpo-ablation.json`, `.md` and `.png` in `docs`, from the finished runs."""
    rows = collect(ablation)
    if len(rows) < 2:
        return
    docs.mkdir(parents=True, exist_ok=True)
    record = {"recipe": ablation.base, "overrides": ablation.overrides, "variants": ablation.variants}
    record |= {"seeds": list(ablation.seeds), "machine": machine(), "commit": commit(), "results": rows}
    (docs / "grpo-ablation.json").write_text(json.dumps(record, indent=2) + "\n")
    (docs / "grpo-ablation.md").write_text(markdown(rows, ablation.measures))
    plot(rows, ablation.measures[:4], docs / "grpo-ablation.png")


if __name__ == "__main__":
    main()
