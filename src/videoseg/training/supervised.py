"""Supervised training of O3 on the generated world: one loop for stages I and II (O3 specification §10, §11).

The loss is cross-entropy on assistant tokens plus, for the [SEG] of every turn, the mask decoded exactly
as inference decodes the keyframe; training aids come on top. Everything that needs gradients happens in
one `forward(batch)`. A run resumes from `OUT/last.pt` where it stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from videoseg.data.world.sampler import WorldSpec
from videoseg.models.causal_blocks import WATCHED, use_causal_blocks
from videoseg.models.checkpoints.folder import load_folder, save_folder
from videoseg.models.o3 import O3Model
from videoseg.models.tiny import build_o3
from videoseg.models.vision_speed import prefer_plain_attention, speed_up_vision
from videoseg.models.vlm import ImageFeatures, States
from videoseg.training.aids import Aids, distil_loss, gaze_loss, recall_loss
from videoseg.training.collate import Batch, collate
from videoseg.training.config import LossWeights, SupervisedConfig
from videoseg.training.examples import Mention, SegTarget, draw_example
from videoseg.training.losses import token_loss
from videoseg.training.schedule import schedule
from videoseg.training.stage0 import load_words
from videoseg.training.words import DecodeLoss, WordTable, decode_loss

GAZE_LAYER = 2
Report = Callable[[dict[str, Any]], None]


class Trainee(nn.Module):
    """Model, aids and losses as one module with one `forward(batch)`."""

    def __init__(self, model: O3Model, weights: LossWeights, table: WordTable | None, masks: bool) -> None:
        super().__init__()
        self.model = model
        self.aids = Aids(model.vlm.width)
        self.table = table
        self.weights = weights
        self.masks = masks
        if table is not None:
            table.requires_grad_(False)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Loss terms by name, and what is only reported: token accuracy and mask IoU."""
        images = self.model.vlm.encode_images(batch.patches, batch.grids)
        states = self.model.vlm(batch.ids, self._positions(batch, images), images=images)
        terms = self._text(batch, states) | self._aids(batch, states, images)
        if batch.segs:
            terms |= self._segs(batch, states, images)
        return terms

    def _aids(self, batch: Batch, states: States, images: list[ImageFeatures]) -> dict[str, Tensor]:
        """The aids that do not need a [SEG], as far as they have a weight."""
        weights, terms = self.weights, {}
        tokens = torch.cat([image.tokens for image in images])
        if weights.dense:
            terms["dense"] = self.aids.dense_loss(tokens, batch.looks)
        if weights.place:
            terms["place"] = self.aids.place_loss(tokens, batch.places)
        if weights.mention:
            terms["mention"] = self._mentions(batch, states, images)
        if weights.gaze:
            terms["gaze"] = self._gaze(batch)
        return terms

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """The weighted sum of the loss terms."""
        weights = asdict(self.weights) | {"mask": 1.0}
        return torch.stack([weights[name] * term for name, term in terms.items() if name in weights]).sum()

    def _positions(self, batch: Batch, images: list[ImageFeatures]) -> Tensor:
        bounds = [*batch.first_image, len(images)]
        rows = [
            self.model.vlm.rope_positions(ids, images[start:stop])
            for ids, start, stop in zip(batch.ids, bounds, bounds[1:], strict=False)
        ]
        return torch.stack(rows, dim=1)

    def _text(self, batch: Batch, states: States) -> dict[str, Tensor]:
        wanted = batch.loss_mask[:, 1:]
        logits = self.model.vlm.logits(states.norm[:, :-1][wanted])
        goal = batch.ids[:, 1:][wanted]
        right = (logits.argmax(-1) == goal).float().mean().detach()
        return {"text": token_loss(logits, goal), "accuracy": right}

    def _mentions(self, batch: Batch, states: States, images: list[ImageFeatures]) -> Tensor:
        positions = torch.tensor([mention.position for mention in batch.mentions], dtype=torch.long)
        spoken = states.prenorm[batch.mention_rows, positions]
        shown = _seen(batch, images, batch.mention_rows, batch.mentions)
        return self.aids.pointer_loss(spoken, shown, batch.mentions)

    def _gaze(self, batch: Batch) -> Tensor:
        """One head of the watched layer looks at what is mentioned, another recalls what was said."""
        module = self.model.vlm.model.model.language_model.layers[GAZE_LAYER].self_attn
        query, key = module.kept
        module.kept = None
        gaze = gaze_loss(query[:, 0], key[:, 0], batch, module.scaling)
        return gaze + recall_loss(query[:, -1], key[:, -1], batch, module.scaling)

    def _segs(self, batch: Batch, states: States, images: list[ImageFeatures]) -> dict[str, Tensor]:
        positions = torch.tensor([seg.position for seg in batch.segs])
        seg_states = states.prenorm[batch.seg_rows, positions]
        prompts = self.model.embed(seg_states)
        terms: dict[str, Tensor] = {}
        if self.weights.pointer:
            shown = _seen(batch, images, batch.seg_rows, batch.segs)
            terms["pointer"] = self.aids.pointer_loss(seg_states, shown, batch.segs)
        if self.weights.vec and self.masks:
            terms["vec"] = self.aids.vec_loss(seg_states, batch.segs)
        if self.weights.distil and self.table is not None:
            words = torch.tensor([seg.words for seg in batch.segs])
            terms["distil"] = distil_loss(prompts, self.table(words))
        if self.masks:
            decoded = self._decode(batch, prompts)
            terms |= {"mask": decoded.total, "iou": decoded.iou.mean()}
        return terms

    def _decode(self, batch: Batch, prompts: Tensor) -> DecodeLoss:
        sam2 = self.model.sam2
        features = sam2.encode(torch.stack([seg.image for seg in batch.segs]))
        masks = sam2.decode_all(features, sam2.unconditioned(features), sam2.prompt_language(prompts))
        target = torch.stack([seg.mask for seg in batch.segs])
        return decode_loss(masks, target, bce=self.weights.bce, dice=self.weights.dice)


def _seen(
    batch: Batch, images: list[ImageFeatures], rows: Tensor, items: Sequence[SegTarget | Mention]
) -> list[Tensor]:
    """Visual tokens of the image that each item speaks of."""
    firsts = [batch.first_image[int(row)] for row in rows]
    return [images[first + item.shown].tokens for first, item in zip(firsts, items, strict=True)]


class Optimizers:
    """Muon for the language model's matrices (or AdamW), AdamW for the rest; one schedule for all."""

    def __init__(self, trainee: Trainee, config: SupervisedConfig) -> None:
        matrices, rest, sam2 = [], [], []
        for name, parameter in trainee.named_parameters():
            if not parameter.requires_grad:
                continue
            if ".sam2." in name:
                sam2.append(parameter)
            elif parameter.ndim == 2 and ("layers." in name or "blocks." in name):
                matrices.append(parameter)
            else:
                rest.append(parameter)
        groups = [{"params": rest, "lr": config.lr_rest}, {"params": sam2, "lr": config.lr_sam2}]
        shared: dict[str, Any] = {"weight_decay": config.weight_decay}
        self.all: list[torch.optim.Optimizer] = []
        if config.optimizer == "muon":
            self.all.append(
                torch.optim.Muon(matrices, lr=config.lr, adjust_lr_fn="match_rms_adamw", **shared)
            )
        else:
            groups.append({"params": matrices, "lr": config.lr})
        groups = [group for group in groups if group["params"]]
        self.all.append(torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True, **shared))
        self._parameters = [p for p in trainee.parameters() if p.requires_grad]
        for optimizer in self.all:
            for group in optimizer.param_groups:
                group["top_lr"] = group["lr"]
        self._config = config

    def step(self, loss: Tensor, step: int) -> float:
        """One update; returns the gradient's norm before clipping."""
        config = self._config
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(self._parameters, config.clip))
        factor = schedule(step, config.steps, config.warmup, config.final_lr)
        for optimizer in self.all:
            for group in optimizer.param_groups:
                group["lr"] = group["top_lr"] * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return norm


def run(config: SupervisedConfig, report: Report | None = None) -> Path:
    """Train, writing `OUT/metrics.jsonl`, `OUT/last.pt` every few minutes and the checkpoint `OUT/model`.

    Calls `report` with every logged record. Raises CheckpointError if `init` or `words` cannot be read.
    """
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    prefer_plain_attention()
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    trainee = prepare(config)
    optimizers = Optimizers(trainee, config)
    start = resume(out / "last.pt", trainee, optimizers)
    saved = started = time.monotonic()
    with (out / "metrics.jsonl").open("a") as log:
        for step in range(start, config.steps):
            record = train_step(trainee, optimizers, config, step)
            if step % config.log_every == 0 or step + 1 == config.steps:
                record |= {"step": step, "seconds": round(time.monotonic() - started, 1)}
                log.write(json.dumps(record) + "\n")
                log.flush()
                if report:
                    report(record)
            if time.monotonic() - saved > 60 * config.save_minutes:
                save(out, trainee, optimizers, step + 1)
                saved = time.monotonic()
    save(out, trainee, optimizers, config.steps)
    return out / "model"


def prepare(config: SupervisedConfig) -> Trainee:
    """The model (from `init` or fresh) with frozen parts, aids, and stage 0's words and SAM2 if given."""
    model = load_folder(Path(config.init)) if config.init else build_o3(seed=config.seed)
    table = None
    if config.words:
        stage0 = load_words(Path(config.words))
        table = WordTable(model.sam2.width)
        table.load_state_dict(stage0["table"])
        if not config.init or config.sam2_from_words:
            model.sam2.load_state_dict(stage0["sam2"])
    speed_up_vision(model.vlm.model.model.visual)
    if next(model.parameters()).device.type == "cpu":
        use_causal_blocks(model.vlm.model.model.language_model)
        setattr(model.vlm.model.model.language_model.layers[GAZE_LAYER].self_attn, WATCHED, True)
    trainee = Trainee(model, config.weights, table, config.masks)
    frozen = (*config.freeze, *(() if config.masks else ("sam2.",)))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen) and parameter.is_floating_point())
    return trainee.train()


def train_step(
    trainee: Trainee, optimizers: Optimizers, config: SupervisedConfig, step: int
) -> dict[str, Any]:
    """Draw a batch, update, and return the numbers to log."""
    batch = draw(trainee.model, config, step)
    with torch.autocast("cpu", torch.bfloat16, enabled=config.bf16):
        terms = trainee(batch)
    norm = optimizers.step(trainee.total(terms), step)
    record = {name: round(float(term.detach()), 5) for name, term in terms.items()}
    return record | {"norm": round(norm, 3)}


def draw(model: O3Model, config: SupervisedConfig, step: int) -> Batch:
    """The batch of a step; depends on the seeds only."""
    spec = WorldSpec(families=config.families) if config.families else WorldSpec()
    first = config.first_seed + step * config.batch
    examples = [
        draw_example(seed, spec, model, masks=config.masks) for seed in range(first, first + config.batch)
    ]
    return collate(examples, model.end_id, model.vlm.config.image_token_id)


def save(out: Path, trainee: Trainee, optimizers: Optimizers, step: int) -> None:
    """Write the resumable state (moved into place at the end) and the checkpoint folder."""
    state = {
        "step": step,
        "trainee": trainee.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers.all],
    }
    torch.save(state, out / "last.pt.part")
    (out / "last.pt.part").replace(out / "last.pt")
    save_folder(trainee.model, out / "model")


def resume(path: Path, trainee: Trainee, optimizers: Optimizers) -> int:
    """Load the state of an interrupted run; returns the step to go on with (0 if there is none)."""
    if not path.exists():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    trainee.load_state_dict(state["trainee"])
    for optimizer, saved in zip(optimizers.all, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return int(state["step"])
