"""Supervised training of O3, one loop for stages I and II (O3 specification §10, §11).

The loss is cross-entropy on assistant tokens plus, for the [SEG] of every turn, masks decoded exactly as
inference decodes the keyframe; the world's training aids come on top. Every dialogue counts the same, so the
update does not depend on how a batch is divided over micro-batches and processes.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from videoseg.errors import DatasetError
from videoseg.models.o3 import O3Model
from videoseg.training.aid_terms import AidTerms
from videoseg.training.batches import StageBatch, micro_batches
from videoseg.training.config import SupervisedConfig
from videoseg.training.dialogue_batch import DialogueBatch
from videoseg.training.export import export
from videoseg.training.features import with_features
from videoseg.training.forward import ForwardOutput, TeacherForced, queried
from videoseg.training.held_out import Watch
from videoseg.training.loop import Report, Run, RunSettings, seed_for
from videoseg.training.losses import group_means, mask_iou, mask_loss, per_dialogue, token_loss
from videoseg.training.optim import optimizers
from videoseg.training.preparation import prepare_model, prepare_words
from videoseg.training.schedule import schedule
from videoseg.training.sources import open_source
from videoseg.training.words import WordTable, decode_loss


class Trainee(nn.Module):
    """Model, aids and losses as one module with one `forward(batch)`, which accelerate wraps."""

    def __init__(self, model: O3Model, config: SupervisedConfig, table: WordTable | None = None) -> None:
        super().__init__()
        self.teacher = TeacherForced(model)
        self.aids = AidTerms(model, config.weights.aids, table) if config.weights.aids else None
        self._config = config

    def forward(self, batch: StageBatch) -> dict[str, Tensor]:
        """The `loss` with gradient, its terms, and what is only reported: token accuracy and mask IoU."""
        output = self.teacher(batch.dialogue)
        terms = self._text(batch.dialogue, output)
        if self._config.masks:
            terms |= self._masks(batch.dialogue, output)
        if self.aids is not None and batch.aids is not None:
            terms |= self.aids(batch.aids, batch.dialogue, output)
        weights = vars(self._config.weights) | {"mask": 1.0}
        weighted = [weights[name] * term for name, term in terms.items() if name in weights]
        return {**terms, "loss": torch.stack(weighted).sum() + output.anchor}

    def _text(self, batch: DialogueBatch, output: ForwardOutput) -> dict[str, Tensor]:
        """Mean over dialogues of the mean over their trained tokens."""
        logits = self.teacher.model.vlm.logits(output.hidden)
        goal = batch.ids[output.rows, output.columns]
        right = (logits.argmax(-1) == goal).float()
        each = (token_loss(logits, goal), right)
        text, accuracy = (group_means(values, output.rows, len(batch.ids)).mean() for values in each)
        return {"text": text, "accuracy": accuracy.detach()}

    def _masks(self, batch: DialogueBatch, output: ForwardOutput) -> dict[str, Tensor]:
        if not batch.masks:
            return {"mask": output.anchor}
        config, weights = self._config, self._config.weights
        truth = torch.stack([query.truth for query in batch.masks if query.truth is not None]).float()
        if config.mask_loss == "points":
            each = mask_loss(
                output.mask_logits, truth, points=config.points, bce=weights.bce, dice=weights.dice
            )
        else:
            each = decode_loss(output.candidates, truth, bce=weights.bce, dice=weights.dice).each
        segs = queried(batch, output.seg_rows)
        mask = per_dialogue(each, segs, output.seg_rows, len(batch.ids))
        return {"mask": mask, "iou": mask_iou(output.mask_logits, truth).mean()}


def run(config: SupervisedConfig, report: Report | None = None) -> Path:
    """Train; writes `OUT/metrics.jsonl`, curves, states to resume from, and the checkpoint `OUT/model`.

    Calls `report` with every logged record. Raises CheckpointError or UsageError for what the run is made of,
    DatasetError naming the sample that cannot be used, InterruptedRunError after it has saved.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    seed_for(config.seed)
    model = prepare_model(config)
    trainee = Trainee(model, config, prepare_words(config, model)).train()
    settings = RunSettings(
        config.out,
        config.seed,
        config.bf16,
        config.accumulation,
        config.clip,
        config.save_minutes,
        config.device,
    )
    with Run(settings) as running:
        Stage(running, trainee, config).train(report)
        return export(running, model, config.lora, Path(config.out) / "model")


class Stage:
    """A run at work: rows in, updates out."""

    def __init__(self, running: Run, trainee: Trainee, config: SupervisedConfig) -> None:
        self.run = running
        self.trainee = trainee
        self.config = config
        self.group = config.batch * config.accumulation * running.accelerator.num_processes
        self.source, self.cache = open_source(trainee.teacher.model, config, self.group)
        self.steps = config.steps or math.ceil(config.epochs * self.source.size / self.group)
        running.prepare(trainee, optimizers(trainee, config))
        running.resume(
            rows=self.group, seed=config.seed, data=repr((config.data, config.first_seed, config.families))
        )
        running.describe(asdict(config), model=trainee.teacher.model.text.source)
        self.watch = Watch(running, trainee, config, self.terms_of, self.cache)

    def train(self, report: Report | None) -> None:
        """Updates until the last one; saves at the end."""
        config, running = self.config, self.run
        batches = iter(micro_batches(self.source, self.trainee.teacher.model, running, config, self.steps))
        warmup = config.warmup if config.warmup >= 1 else config.warmup * self.steps
        while running.step < self.steps:
            factor = schedule(running.step, self.steps, round(warmup), config.final_lr)
            self.terms: dict[str, list[float]] = defaultdict(list)
            drawn = (next(batches) for _ in range(config.accumulation))
            norm = running.update(drawn, self._loss, factor)
            looked = self.watch.look(running.step)
            if looked or (running.step - 1) % config.log_every == 0 or running.step == self.steps:
                means = {name: round(sum(v) / len(v), 5) for name, v in self.terms.items()}
                running.log(
                    {**means, "norm": round(norm, 3), **self._skipped(), **looked}, report, self.steps
                )
            running.keep_going()
        running.save()

    def _loss(self, batch: StageBatch) -> Tensor:
        """The loss of one micro-batch, noted for the log."""
        self._count(batch)
        terms = self.terms_of(batch)
        for name, term in terms.items():
            self.terms[name].append(float(term.detach()))
        return terms["loss"]

    def terms_of(self, batch: StageBatch) -> dict[str, Tensor]:
        """Loss terms of a micro-batch; dropout and points depend on its rows alone."""
        with self.run.accelerator.autocast():
            dialogue = batch.dialogue.to(self.run.accelerator.device)
            dialogue = with_features(dialogue, self.trainee.teacher.model.sam2, self.cache)
        seed_for(self.config.seed, batch.number)
        terms: dict[str, Tensor] = self.run.module(replace(batch, dialogue=dialogue))
        return terms

    def _count(self, batch: StageBatch) -> None:
        """Count skipped samples; too many of them are an error."""
        if not batch.skipped:
            return
        self.run.kept["skipped"] = self.run.kept.get("skipped", 0) + len(batch.skipped)
        if self.run.kept["skipped"] > self.config.skip_bad:
            raise DatasetError(
                f"{self.run.kept['skipped']} samples could not be used, skip_bad allows "
                f"{self.config.skip_bad}; one of them: {batch.skipped[-1]}"
            )

    def _skipped(self) -> dict[str, Any]:
        return {"skipped": self.run.kept["skipped"]} if self.run.kept.get("skipped") else {}
