"""Supervised training of R1's reasoner on the generated world (R1 spec §7, §9 no. 26): the tiny model's way.

Cross-entropy on the true replies, with the aids of the tiny O3 and one more: every visual token of the target
frame tells the box of what it shows. Nothing of the aids remains in the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from videoseg.data.world.sampler import WorldSpec
from videoseg.models.causal_blocks import WATCHED
from videoseg.models.checkpoints.folder import load_folder
from videoseg.models.checkpoints.hub import resolve
from videoseg.models.checkpoints.r1 import is_r1, load_reasoner, r1_preset, save_reasoner
from videoseg.models.tiny_r1 import reasoner_from
from videoseg.training.aid_batch import AidBatch, join_aids
from videoseg.training.aid_terms import GAZE_LAYER
from videoseg.training.aids import Aids, gaze_loss, recall_loss
from videoseg.training.collate import DialogueRow, join_rows
from videoseg.training.dialogue_batch import DialogueBatch
from videoseg.training.loop import Report, Run, RunSettings, seed_for
from videoseg.training.losses import token_loss
from videoseg.training.preparation import make_fast
from videoseg.training.r1_examples import R1Example, draw_r1
from videoseg.training.r1_task import R1Policy
from videoseg.training.schedule import schedule
from videoseg.training.sources import by_lot

AIDS = {"dense": 0.5, "place": 0.2, "gaze": 0.5, "box": 4.0}


@dataclass(frozen=True)
class R1SftConfig:
    """One run: from `init`, a tiny O3 or R1 checkpoint, on questions about samples `first_seed` on.

    `think` is the share of replies with a chain of thought; 0 trains the short baseline of Table 4. `aids`
    are weights of the training aids; rates are those of Muon for matrices and of AdamW for the rest.
    """

    out: str
    init: str = "tiny"
    steps: int = 600
    batch: int = 12
    first_seed: int = 3_000_000
    families: dict[str, float] = field(default_factory=dict)
    think: float = 1.0
    aids: dict[str, float] = field(default_factory=lambda: dict(AIDS))
    lr: float = 2e-3
    lr_rest: float = 1e-3
    weight_decay: float = 0.01
    warmup: int = 30
    final_lr: float = 0.03
    threads: int = 1
    seed: int = 0
    bf16: bool = True
    save_minutes: float = 3.0
    log_every: int = 10


@dataclass(frozen=True, eq=False, slots=True)
class R1Batch:
    """Dialogues, what the aids ask of them, and the boxes of their visual tokens `[image tokens, 4]`."""

    dialogue: DialogueBatch
    aids: AidBatch
    boxes: Tensor


class R1Trainee(nn.Module):
    """The reasoner with the heads of the aids; one `forward(batch)` gives all loss terms."""

    def __init__(self, policy: R1Policy, weights: dict[str, float]) -> None:
        super().__init__()
        self.policy, self.weights = policy, weights
        self.heads, self.box = Aids(policy.vlm.width), nn.Linear(policy.vlm.width, 4)
        for name, head in self.heads.named_children():
            head.requires_grad_(name in weights)
        self.box.requires_grad_("box" in weights)
        self._watched = policy.vlm.model.model.language_model.layers[GAZE_LAYER].self_attn
        setattr(self._watched, WATCHED, "gaze" in weights)

    def forward(self, batch: R1Batch) -> dict[str, Tensor]:
        """Cross-entropy `text`, the aids' terms, their weighted sum `loss`, and the token `accuracy`."""
        states, images, rows, columns = self.policy.read(batch.dialogue)
        logits = self.policy.vlm.logits(states.norm[rows, columns - 1])
        goal = batch.dialogue.ids[rows, columns]
        terms = {"text": token_loss(logits, goal).mean()}
        shown = [images[number].tokens for row in batch.dialogue.images for number in row]
        terms |= self._aids(batch, torch.cat(shown))
        total = [self.weights.get(name, 1.0) * term for name, term in terms.items()]
        accuracy = (logits.argmax(-1) == goal).float().mean().detach()
        return {**terms, "loss": torch.stack(total).sum(), "accuracy": accuracy}

    def _aids(self, batch: R1Batch, tokens: Tensor) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        if "dense" in self.weights:
            terms["dense"] = self.heads.dense_loss(tokens, batch.aids.looks)
        if "place" in self.weights:
            terms["place"] = self.heads.place_loss(tokens, batch.aids.places)
        if "gaze" in self.weights:
            query, key = self._watched.kept
            self._watched.kept = None
            gaze = gaze_loss(query[:, 0], key[:, 0], batch.aids, self._watched.scaling)
            terms["gaze"] = gaze + recall_loss(query[:, -1], key[:, -1], batch.aids, self._watched.scaling)
        asked = ~batch.boxes.isnan().any(1)
        if "box" in self.weights and bool(asked.any()):
            terms["box"] = (self.box(tokens[asked]).float() - batch.boxes[asked]).abs().mean()
        return terms


def join(examples: Sequence[R1Example], pad_id: int, image_id: int) -> R1Batch:
    """Examples as one batch."""
    rows = [DialogueRow(example.chunk, example.patches) for example in examples]
    boxes = torch.cat([example.boxes for example in examples])
    return R1Batch(join_rows(rows, pad_id), join_aids(examples, image_id), boxes)


def run(config: R1SftConfig, report: Report | None = None) -> Path:
    """Train on a CPU; writes metrics, states to resume from, and the reasoner's folder `OUT/model`."""
    torch.set_num_threads(config.threads)
    seed_for(config.seed)
    folder = resolve(config.init)
    vlm, text = load_reasoner(folder) if is_r1(folder) else reasoner_from(load_folder(folder), config.seed)
    policy = R1Policy(vlm, text)
    make_fast(cast(Any, policy), True, False)
    trainee = R1Trainee(policy, config.aids).train()
    settings = RunSettings(
        config.out, config.seed, config.bf16, save_minutes=config.save_minutes, device="cpu"
    )
    with Run(settings) as running:
        running.prepare(trainee, _optimizers(trainee, config))
        running.resume(seed=config.seed)
        running.describe(asdict(config), model=text.source)
        while running.step < config.steps:
            record = _step(running, policy, config)
            if (running.step - 1) % config.log_every == 0 or running.step == config.steps:
                running.log(record, report, config.steps)
            running.keep_going()
        running.save()
        return save_reasoner(vlm, text, running.out / "model")


def _step(running: Run, policy: R1Policy, config: R1SftConfig) -> dict[str, Any]:
    spec = WorldSpec(families=config.families) if config.families else WorldSpec()
    preset, first = r1_preset(policy.text.config), config.first_seed + running.step * config.batch
    examples = [
        draw_r1(seed, spec, policy.text, preset, think=by_lot(seed, config.think))
        for seed in range(first, first + config.batch)
    ]
    batch = join(examples, policy.end_id, policy.vlm.config.image_token_id)
    terms: dict[str, Tensor] = {}

    def loss(given: R1Batch) -> Tensor:
        terms.update(running.module(given))
        return terms["loss"]

    norm = running.update([batch], loss, schedule(running.step, config.steps, config.warmup, config.final_lr))
    return {name: round(float(term.detach()), 5) for name, term in terms.items()} | {"norm": round(norm, 3)}


def _optimizers(trainee: R1Trainee, config: R1SftConfig) -> list[torch.optim.Optimizer]:
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in trainee.named_parameters():
        if parameter.requires_grad:
            inner = parameter.ndim == 2 and ("layers." in name or "blocks." in name)
            (matrices if inner else rest).append(parameter)
    shared: dict[str, Any] = {"weight_decay": config.weight_decay}
    return [
        torch.optim.Muon(matrices, lr=config.lr, adjust_lr_fn="match_rms_adamw", **shared),
        torch.optim.AdamW(rest, lr=config.lr_rest, betas=(0.9, 0.98), fused=True, **shared),
    ]
