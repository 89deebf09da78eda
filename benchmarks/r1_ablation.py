"""The directions of VideoSeg-R1's Tables 4 to 7 on the bundled small model, with 95 % intervals.

    python benchmarks/r1_ablation.py train configs/tiny-r1-ablation.yaml    # Tables 4 and 7: short trainings
    python benchmarks/r1_ablation.py train configs/tiny-r1-chain.yaml       # the same where RL has a choice
    python benchmarks/r1_ablation.py prompts configs/tiny-r1-ablation.yaml  # Table 6, on single frames
    python benchmarks/r1_ablation.py videos configs/tiny-r1-ablation.yaml   # Table 5, on whole test clips

Every stage adds its part to `r1-ablation.json` (`r1-chain.json`) in `docs` and draws the picture anew. What
is finished is not repeated. Models answer the same held-out questions greedily: R1's accuracy reward (0 to 3)
and the IoU of SAM2's mask on the target frame; `sampled` is the accuracy of replies drawn at temperature 1,
which RL works on. Intervals are bootstrapped over seeds and questions, or over clips.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import commit, machine
from grpo_ablation import interval
from numpy.typing import NDArray

from videoseg.data.world.sampler import WorldSpec, draw_sample
from videoseg.dialogue.cues import parse_cues
from videoseg.dialogue.grammar import thought
from videoseg.dialogue.r1 import R1Preset, answer_map
from videoseg.errors import ReplyError
from videoseg.evaluation.compare import compare
from videoseg.evaluation.reports import read_report
from videoseg.models.r1 import R1Model
from videoseg.systems import load_r1
from videoseg.systems.r1 import sam2_prompt
from videoseg.tracking.sam2 import VideoFeatures
from videoseg.training.difficulty import AXES
from videoseg.training.grpo_config import GrpoConfig
from videoseg.training.grpo_trainer import run_grpo
from videoseg.training.length import quantile_budgets, thresholds
from videoseg.training.prompts import Prompt, WorldPrompts, world_prompt
from videoseg.training.r1_supervised import R1SftConfig
from videoseg.training.r1_supervised import run as run_supervised
from videoseg.training.r1_task import R1Policy, R1Task
from videoseg.training.rewards.r1 import accuracy, scene_truth
from videoseg.training.rollout import Rollout, Sampling
from videoseg.training.settings import build_settings, read_settings
from videoseg.types import StopReason

TRAINING_SEEDS, SEEDS_APART, ROWS, COPIES = 40_000_000, 1_000_000, 16, 2
MEASURES = ("accuracy", "sampled", "iou", "think_tokens", "well_formed")
ALL = "all three"
KINDS = {
    "point": ("point",),
    "box": ("box",),
    "box + negative": ("box", "negative"),
    "box + point": ("box", "point"),
    ALL: ("box", "point", "negative"),
}
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Ablation:
    """What to train from the model `init`, and which `model` Tables 5 and 6 are measured on.

    `variants` name changes of the recipe `supervised` or `grpo`, whichever they hold, as `{grpo: {...}}`;
    `from` starts at another variant's result, `length` adds the length term, with budgets measured on
    `init`. `pairs` are variants whose difference is wanted. `questions` are held-out ones; `videos` are
    overrides of `videoseg eval world --system r1`, each compared with the first.
    """

    out: str
    init: str
    model: str
    variants: dict[str, dict[str, Any]]
    supervised: dict[str, Any]
    grpo: dict[str, Any]
    families: dict[str, float]
    pairs: list[tuple[str, str]] = field(default_factory=list)
    seeds: tuple[int, ...] = (0, 1)
    first_question: int = 1_000_000_000
    questions: int = 300
    videos: dict[str, dict[str, Any]] = field(default_factory=dict)
    clips: int = 24


def main() -> None:
    """One stage."""
    parser = argparse.ArgumentParser()
    parser.add_argument("stage", choices=("train", "prompts", "videos", "table"))
    parser.add_argument("recipe")
    parser.add_argument("--docs", default="docs")
    parser.add_argument("--only", nargs="*", help="names of variants")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ablation = read_settings(Ablation, options.recipe)
    docs = Path(options.docs) / Path(options.recipe).stem.removeprefix("tiny-")
    if options.stage == "train":
        for seed in ablation.seeds:  # seed by seed, so that an early table has every variant
            for name in options.only or ablation.variants:
                train(ablation, name, seed)
                write(docs, training=collect(ablation))
    elif options.stage == "prompts":
        write(docs, prompts=prompt_kinds(ablation))
    elif options.stage == "videos":
        write(docs, videos=whole_videos(ablation))
    else:
        write(docs)


def answers(
    ablation: Ablation, model: str, folder: Path, kinds: Collection[str] = (ALL,)
) -> list[dict[str, Any]]:
    """What a model answers to the held-out questions, with masks by `kinds` of prompts; kept in `folder`."""
    path = folder / "answers.json"
    if path.is_file():
        return list(json.loads(path.read_text()))
    system = load_r1(model, sam2="tiny-r1", xmem="tiny-xmem")
    vlm, text = system.model.vlm, system.model.text
    assert vlm is not None
    assert text is not None
    policy = R1Policy(vlm, text).eval()
    task, drawn = (R1Task(policy, system.preset, each) for each in (Sampling(0.0), Sampling(1.0, 1.0, 0)))
    source = WorldPrompts(ablation.first_question, WorldSpec(families=ablation.families))
    facts: list[dict[str, Any]] = []
    for start in range(0, ablation.questions, ROWS):
        prompts = [source[number] for number in range(start, min(start + ROWS, ablation.questions))]
        sampled = drawn.rollouts(prompts, COPIES, start)
        for number, (prompt, best) in enumerate(zip(prompts, task.rollouts(prompts, 1, 0), strict=True)):
            replies = [best, *sampled[number * COPIES : (number + 1) * COPIES]]
            facts.append(fact(system.model, system.preset, prompt, replies, kinds))
            thinking = text.tokenizer.encode(thought(best.texts[0]) or "", add_special_tokens=False)
            facts[-1]["think_tokens"] = len(thinking)
        task.release()
        drawn.release()
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(facts))
    return facts


@torch.no_grad()
def fact(
    model: R1Model, preset: R1Preset, prompt: Prompt, replies: Sequence[Rollout], kinds: Collection[str]
) -> dict[str, Any]:
    """Rewards of the first, greedy reply and of the others, and the IoU of its mask by kind of prompt."""
    best = replies[0]
    size, target = prompt.frame_size, best.turns[0].keyframe
    truth = scene_truth(prompt.objects(target) if prompt.objects else [prompt.mask(target)])
    worth = [accuracy(reply.texts[0], truth, preset.extent) for reply in replies]
    try:
        cues = parse_cues(best.texts[0], answer_map(size, preset), size).objects
    except ReplyError:
        cues = ()
    features, union = VideoFeatures(model.sam2, prompt.frames.__getitem__), prompt.mask(target)
    ious = {}
    for name in kinds:
        chosen, found = preset.override(prompts=KINDS[name]), np.zeros_like(union)
        for cue in cues:
            mask = model.sam2.segment(features(target), sam2_prompt(model, chosen, cue, size))
            found |= (model.sam2.upsample(mask.logits, size) > 0)[0].numpy()
        ious[name] = float((found & union).sum() / (found | union).sum())
    return {
        "key": prompt.key,
        "kind": prompt.kind,
        "reply": best.texts[0],
        "accuracy": worth[0],
        "sampled": float(np.mean(worth[1:])),
        "well_formed": best.stop is StopReason.ANSWER,
        "iou": ious[ALL],
        "ious": ious,
    }


def folder_of(ablation: Ablation, name: str, seed: int) -> Path:
    return Path(ablation.out) / f"{name.replace(' ', '-').replace(',', '')}-{seed}"


def train(ablation: Ablation, name: str, seed: int) -> None:
    """One training and its answers, unless they are there."""
    variant, folder = ablation.variants[name], folder_of(ablation, name, seed)
    init = str(folder_of(ablation, variant["from"], seed) / "model") if "from" in variant else ablation.init
    first = TRAINING_SEEDS + SEEDS_APART * seed  # other questions for another seed
    given = {"out": str(folder), "init": init, "seed": seed}
    print(f"{name}, seed {seed}", flush=True)
    if not (folder / "model").is_dir() and "supervised" in variant:
        changes = {"families": ablation.families, "first_seed": first, **ablation.supervised}
        run_supervised(build_settings(R1SftConfig, changes | variant["supervised"] | given), show)
    elif not (folder / "model").is_dir():
        changes = {"prompts": {"first_seed": first, "families": ablation.families}, **ablation.grpo}
        if variant.get("length"):
            measured = length_of(ablation, first, changes["steps"] * changes["batch"])
            changes["length"] = measured | variant["length"]
        run_grpo(build_settings(GrpoConfig, changes | variant["grpo"] | given), show)
    answers(ablation, str(folder / "model"), folder)


def show(record: Mapping[str, Any]) -> None:
    names = (
        "step",
        "reward/mean",
        "reward/r1_accuracy/mean",
        "tokens_per_turn",
        "entropy",
        "text",
        "seconds",
    )
    if record["step"] % 5 == 0:
        print({name: record[name] for name in names if name in record}, flush=True)


def base(ablation: Ablation) -> list[dict[str, Any]]:
    return answers(ablation, ablation.init, Path(ablation.out) / "base", KINDS)


def length_of(ablation: Ablation, first: int, count: int) -> dict[str, Any]:
    """The length term's settings: budgets from the thoughts of `init`, difficulty by rule: no model rates."""
    path, spec = Path(ablation.out) / f"ratings-{first}.jsonl", WorldSpec(families=ablation.families)
    rows = [rating(seed, spec) for seed in range(first, first + count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    easy, hard = thresholds([float(np.mean([row[axis] for axis in AXES])) for row in rows])
    tokens = quantile_budgets([one["think_tokens"] for one in base(ablation)])
    return {"tokens": tokens, "easy": easy, "hard": hard, "ratings": str(path)}


def rating(seed: int, spec: WorldSpec) -> dict[str, Any]:
    """The five axes of a generated clip, from what is known of its scene."""
    sample = draw_sample(seed, spec)
    things, kind = sample.scene.things, sample.question.family
    numbers = (
        2 * len(things),
        8 if kind == "detail" else 5 if kind == "several" else 3,
        9 if kind == "temporal" else 1,
        1 + 2 * sum(thing.motion != "still" for thing in things),
        6 if kind in ("relation", "several") else 2,
    )
    return {"key": world_prompt(sample).key} | dict(zip(AXES, (min(10, n) for n in numbers), strict=True))


def column(facts: list[dict[str, Any]], measure: str) -> Values:
    return np.array([one[measure] for one in facts], dtype=np.float64)


def collect(ablation: Ablation) -> dict[str, Any]:
    """Means, gains over the base and wanted differences, each with its interval, of the finished runs."""
    start, done = base(ablation), {}
    for name in ablation.variants:
        paths = [folder_of(ablation, name, seed) / "answers.json" for seed in ablation.seeds]
        found = [json.loads(path.read_text()) for path in paths if path.is_file()]
        if found:
            done[name] = {m: np.stack([column(one, m) for one in found]) for m in MEASURES}
    before = {m: column(start, m)[None] for m in MEASURES}
    rows: dict[str, Any] = {"base": {"seeds": 1} | {m: {"mean": interval(before[m])} for m in MEASURES}}
    for name, after in done.items():
        rows[name] = {"seeds": len(after["iou"])} | {
            m: {"mean": interval(after[m]), "gain": interval(after[m] - before[m])} for m in MEASURES
        }
    differences = {
        f"{b} - {a}": {m: interval(paired(done[b][m], done[a][m])) for m in MEASURES}
        for a, b in ablation.pairs
        if a in done and b in done
    }
    lengths = quantile_budgets([one["think_tokens"] for one in start])
    settings: dict[str, Any] = {
        "init": ablation.init,
        "supervised": ablation.supervised,
        "grpo": ablation.grpo,
    }
    settings |= {"variants": ablation.variants, "budgets": lengths, "questions": ablation.questions}
    return {**settings, "rows": rows, "differences": differences}


def paired(b: Values, a: Values) -> Values:
    count = min(len(a), len(b))
    return np.asarray(b[:count] - a[:count])


def prompt_kinds(ablation: Ablation) -> dict[str, Any]:
    """Table 6: the same answers of `model`, other parts of them given to SAM2."""
    facts = answers(ablation, ablation.model, Path(ablation.out) / "model", KINDS)
    ious = {name: np.array([[one["ious"][name] for one in facts]]) for name in KINDS}
    rows = {name: {"iou": interval(ious[name])} for name in KINDS}
    for name in KINDS:
        rows[name]["against point"] = interval(ious[name] - ious["point"])
        rows[name]["against box"] = interval(ious[name] - ious["box"])
    found = [one for one, iou in zip(facts, ious[ALL][0], strict=True) if iou > 0.5]
    right = {name: interval(np.array([[one["ious"][name] for one in found]])) for name in KINDS}
    return {
        "questions": len(facts),
        "rows": rows,
        "where all three exceed 0.5": {"questions": len(found), **right},
    }


def whole_videos(ablation: Ablation) -> dict[str, Any]:
    """Table 5 (and any other `overrides`): J&F of test clips, and differences from the first of `videos`."""
    reports: dict[str, Any] = {}
    for name, overrides in ablation.videos.items():
        out = Path(ablation.out) / f"videos-{name}"
        if not (out / "report.json").is_file():
            command = ["videoseg", "eval", "world", "--system", "r1", "--model", ablation.model]
            command += [
                "--clips",
                str(ablation.clips),
                "--out",
                str(out),
                "--overrides",
                json.dumps(overrides),
            ]
            subprocess.run(command, check=True)
        reports[name] = read_report(out / "report.json")
    first = next(iter(reports.values()))
    rows = {}
    for name, report in reports.items():
        made = compare(first, report)["scores"]["overall"]["JF"]
        rows[name] = {key: report["scores"]["overall"][key] for key in ("J", "F", "JF")}
        rows[name] |= {"ci95": report["ci95"]["JF"], "difference": [made["difference"], *made["ci95"]]}
    return {"clips": len(first["items"]), "overrides": ablation.videos, "rows": rows}


def write(docs: Path, **parts: Any) -> None:
    """Add parts to the JSON file of that name and draw what there is beside it."""
    path = docs.with_suffix(".json")
    known = json.loads(path.read_text()) if path.is_file() else {}
    known |= {"machine": machine(), "commit": commit(), **parts}
    path.write_text(json.dumps(known, indent=2) + "\n")
    plot(known, docs.with_suffix(".png"))


def plot(known: Mapping[str, Any], path: Path) -> None:
    """A panel per table: paired differences from its first row, with intervals."""
    from matplotlib.figure import Figure

    panels: list[tuple[str, dict[str, list[float]]]] = []
    gains = {n: row for n, row in known.get("training", {}).get("rows", {}).items() if n != "base"}
    for measure, title in (
        ("iou", "Tables 4, 7: IoU, gain over the start"),
        ("think_tokens", "Table 7: tokens"),
    ):
        panels.append((title, {name: row[measure]["gain"] for name, row in gains.items()}))
    videos = list(known.get("videos", {}).get("rows", {}).items())[1:]
    panels.append(("Table 5: J&F against full", {name: row["difference"] for name, row in videos}))
    kinds = list(known.get("prompts", {}).get("rows", {}).items())[1:]
    panels.append(("Table 6: IoU against point", {name: row["against point"] for name, row in kinds}))
    shown = [panel for panel in panels if panel[1]]
    figure = Figure(figsize=(4.2 * len(shown), 3.2), layout="constrained")
    for axes, (title, rows) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        values = np.array(list(rows.values()))
        spread = np.abs(values[:, 1:].T - values[:, 0])
        axes.errorbar(values[:, 0], range(len(rows)), xerr=spread, fmt="o", markersize=4, capsize=2)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.axvline(0, color="grey", linewidth=0.8)
        axes.set_title(title, fontsize=9)
        axes.grid(alpha=0.3)
        axes.invert_yaxis()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
