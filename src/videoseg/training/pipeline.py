"""The tiny model's whole way at any scale: masks from words, SFT, cold start, scores (design §6).

One YAML file, one command; an interrupted run goes on where it stopped. Scores are those of `videoseg eval
world` on test clips, beside what blind guessing gets.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from videoseg.data.world.queries import FAMILIES
from videoseg.errors import UsageError
from videoseg.evaluation.benchmark import evaluate
from videoseg.evaluation.generated import Clip, ThingTrack, generated
from videoseg.evaluation.protocols import protocol
from videoseg.evaluation.runner import Pool, Settings
from videoseg.evaluation.scoring import Prediction
from videoseg.evaluation.session import Asked, Session
from videoseg.evaluation.truth import Item
from videoseg.training import stage0, supervised
from videoseg.training.config import SupervisedConfig
from videoseg.training.settings import build_settings
from videoseg.training.stage0 import WordsConfig

Notify = Callable[[str, dict[str, Any]], None]
"""Called with the name of a stage and what it logs."""


@dataclass(frozen=True)
class PipelineConfig:
    """Settings of the stages without `out`, `init` and `words`, which follow from `out` and their order.

    `clips` test clips of each of `families` are scored after every stage.
    """

    out: str
    words: Mapping[str, Any]
    sft: Mapping[str, Any]
    coldstart: Mapping[str, Any]
    clips: int = 20
    families: tuple[str, ...] = field(default=FAMILIES)

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.families) - set(FAMILIES)):
            raise UsageError(f"families: unknown {', '.join(unknown)}; there are {', '.join(FAMILIES)}")

    def stages(self) -> tuple[WordsConfig, SupervisedConfig, SupervisedConfig]:
        """The settings of every stage; raises UsageError naming the field that does not fit."""
        out, table = Path(self.out), str(Path(self.out) / "words" / "words.pt")
        words = build_settings(WordsConfig, {**self.words, "out": str(out / "words")}, "words")
        sft = {**self.sft, "out": str(out / "sft"), "words": table}
        cold = {**self.coldstart, "out": str(out / "coldstart"), "words": table}
        return (
            words,
            build_settings(SupervisedConfig, sft, "sft"),
            build_settings(SupervisedConfig, {**cold, "init": str(out / "sft" / "model")}, "coldstart"),
        )


def run(config: PipelineConfig, notify: Notify | None = None) -> Path:
    """Train and score; returns `OUT/summary.json`. Raises as the stages do."""
    words, sft, cold = config.stages()
    out, tell = Path(config.out), notify or (lambda stage, record: None)
    stage0.run(words, partial(tell, "words"))
    scores = {"blind": blind_scores(config)}
    for name, stage in (("sft", sft), ("coldstart", cold)):
        supervised.run(stage, partial(tell, name))
        scores[name] = model_scores(config, out / name / "model", out / f"eval-{name}")
        tell(name, {"JF": scores[name]["overall"]["JF"]})
    single = {"max_turns": 1}
    scores["coldstart, one turn"] = model_scores(config, out / "coldstart/model", out / "eval-single", single)
    target = out / "summary.json"
    target.write_text(json.dumps({"clips": config.clips, "scores": scores}, indent=1) + "\n")
    return target


def model_scores(
    config: PipelineConfig, model: Path, out: Path, overrides: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Scores of a checkpoint by family, of `videoseg eval world`."""
    settings = Settings(str(model), {"device": "cpu", **(overrides or {})})
    asked = Asked("world", clips=config.clips, families=tuple(config.families))
    session = Session.open(asked, settings, out)
    session.answer(settings, Pool())
    scores: dict[str, Any] = session.report()["scores"]
    return scores


def blind_scores(config: PipelineConfig) -> dict[str, Any]:
    """What perfect masks of a thing drawn at random get: the chance level."""
    table = protocol("world", "official")
    items = list(generated(Path(config.out) / "clips", config.clips, families=config.families))
    return evaluate(table, items, guessed, folder="", allow_counts=True).table


def guessed(item: Item) -> Prediction:
    """The true masks of one of the clip's things, whichever was asked for."""
    if not isinstance(item.video, Clip):
        raise UsageError(f"{'/'.join(item.key)} is no generated clip; blind guessing needs its scene")
    sample = item.video.sample
    thing = int(np.random.default_rng([sample.scene.seed, 5]).integers(len(sample.scene.things)))
    masks: Sequence[Any] = ThingTrack(sample, thing).read(range(sample.scene.num_frames))
    return Prediction(dict(zip(item.frames, masks, strict=True)))
