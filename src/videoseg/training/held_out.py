"""How a supervised run does on what it does not train on: losses, and pictures of generated dialogues."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from videoseg.data.sheet import Picture, contact_sheet, drawn
from videoseg.dialogue.episode import Episode
from videoseg.dialogue.preset import Preset
from videoseg.masks import Rle
from videoseg.models.causal_blocks import cached_attention
from videoseg.models.o3 import O3Model
from videoseg.models.session import RowInput, Session, greedy
from videoseg.systems.images import ImageStore
from videoseg.systems.player import Player, View
from videoseg.training.batches import StageBatch, stage_batch
from videoseg.training.collate import DialogueRow
from videoseg.training.config import SupervisedConfig
from videoseg.training.features import FeatureCache
from videoseg.training.loop import Run
from videoseg.training.prompts import Prompt
from videoseg.training.sources import Source, open_held_out

if TYPE_CHECKING:
    from videoseg.training.supervised import Trainee

COLUMNS = 4


@dataclass(frozen=True, eq=False, slots=True)
class Answered:
    """What the model said, the pre-norm state `[D]` of its [SEG], and the frame to draw on."""

    replies: tuple[str, ...]
    frame: int
    state: Tensor | None


class Watch:
    """Looks at a run every `held_out.every` updates; `terms` gives the loss terms of a micro-batch."""

    def __init__(
        self,
        running: Run,
        trainee: Trainee,
        config: SupervisedConfig,
        terms: Callable[[StageBatch], dict[str, Tensor]],
        cache: FeatureCache | None,
    ) -> None:
        self._run = running
        self._trainee = trainee
        self._model: O3Model = trainee.teacher.model
        self._config = config
        self._terms = terms
        self._source: Source | None = None
        if config.held_out.every:
            self._source = open_held_out(self._model, config, cache)

    def look(self, step: int) -> dict[str, float]:
        """Held-out numbers if it is time for them, else nothing; pictures lie in `OUT/held_out`."""
        settings = self._config.held_out
        if self._source is None or step % settings.every:
            return {}
        self._trainee.eval()
        with torch.no_grad():
            found = self._numbers(self._source, settings.rows)
            sharded = self._run.accelerator.distributed_type in ("FSDP", "DEEPSPEED")
            if settings.dialogues and self._run.is_main and not sharded:
                language = self._model.vlm.model.model.language_model
                with self._run.accelerator.autocast(), cached_attention(language):
                    self._pictures(self._source, settings.dialogues, step)
        self._run.accelerator.wait_for_everyone()
        self._trainee.train()
        return found

    def _numbers(self, source: Source, rows: int) -> dict[str, float]:
        """Means over rows; every process takes as many, so that all make the same number of passes."""
        processes, rank = self._run.accelerator.num_processes, self._run.accelerator.process_index
        found: dict[str, list[float]] = defaultdict(list)
        for number in range(rank, -(-rows // processes) * processes, processes):
            batch = stage_batch([source.item(number)], number, self._model)
            for name, term in self._terms(batch).items():
                found[f"held_{name}"].append(float(term))
        return {name: round(sum(values) / len(values), 5) for name, values in found.items()}

    def _pictures(self, source: Source, count: int, step: int) -> None:
        """One sheet of dialogues, the predicted mask beside the true one, and their texts."""
        items: list[Picture] = []
        told: list[dict[str, Any]] = []
        for number in range(self._config.held_out.rows):
            prompt = source.prompt(number)
            if prompt is None or len(told) == count:
                continue
            multi_turn = not self._config.data or prompt.kind == "trace"
            said = self._play(prompt) if multi_turn else self._reply(source.item(number).row)
            items += self._drawn(prompt, said)
            told.append({"prompt": prompt.key, "frame": said.frame, "replies": list(said.replies)})
        if items:
            home = self._run.out / "held_out"
            contact_sheet(items, home / f"step-{step:08d}.png", columns=COLUMNS)
            (home / f"step-{step:08d}.json").write_text(json.dumps(told, indent=2) + "\n")

    def _play(self, prompt: Prompt) -> Answered:
        """The dialogue that inference would hold."""
        preset: Preset = self._model.text.preset
        renderer = self._model.text.renderer(prompt.frame_size, preset)
        view = View(renderer, ImageStore(self._model.vlm, renderer, prompt.frames))
        episode = Episode(prompt.num_frames, prompt.query, preset)
        dialogue = Player(self._model, preset).play([episode], [view])[0]
        found = dialogue.seg_state(self._model.seg_id, preset.seg_rule)
        texts = tuple(turn.text for turn in dialogue.turns)
        return Answered(texts, episode.keyframe(), found[1] if found else None)

    def _reply(self, row: DialogueRow) -> Answered:
        """The answer to the first question of a row."""
        model, start = self._model, int(np.argmax(row.chunk.loss_mask))
        session = Session(model.vlm)
        images = model.vlm.encode_images(row.patches, [image.grid for image in row.chunk.images])
        session.extend([RowInput(row.chunk.ids[:start].tolist(), images)])
        limit = model.text.preset.budget.max_new_tokens
        forbidden = (model.vlm.config.image_token_id,)
        reply = session.generate(greedy, model.stop_ids, limit, forbidden)[0]
        session.flush()
        text = model.text.tokenizer.decode(reply.ids, skip_special_tokens=False)
        place = reply.ids.index(model.seg_id) if model.seg_id in reply.ids else None
        state = None if place is None else reply.states[place]
        return Answered((text,), row.chunk.images[len(row.chunk.images) // 2].frame, state)

    def _drawn(self, prompt: Prompt, said: Answered) -> list[Picture]:
        """The predicted and the true mask on the frame that was drawn on."""
        frame = prompt.frames[said.frame]
        masks = [self._mask(frame, said.state), prompt.mask(said.frame)]
        details = (f"frame {said.frame}, {len(said.replies)} turns", "truth")
        return [
            drawn(frame, [Rle.encode(mask)], prompt.query, detail)
            for mask, detail in zip(masks, details, strict=True)
        ]

    def _mask(self, frame: np.ndarray, state: Tensor | None) -> np.ndarray:
        if state is None:
            return np.zeros(frame.shape[:2], dtype=bool)
        sam2 = self._model.sam2
        features = sam2.encode(sam2.preprocess(frame)[None])
        prediction = sam2.segment(features, sam2.prompt_language(self._model.embed(state)[None]))
        size = (frame.shape[0], frame.shape[1])
        return np.asarray((sam2.upsample(prediction.logits, size)[0] > 0).cpu().numpy())
