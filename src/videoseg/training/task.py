"""What stage III trains on, seen from the trainer: prompts to rollouts, rollouts to rows, masks to outcomes.

`Task` is all that the trainer knows of a system; `O3Task` is VideoSEG-O3's (specification §12).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from videoseg.dialogue.preset import Preset
from videoseg.dialogue.render import ImageRef
from videoseg.models.o3 import O3Model
from videoseg.systems.player import View
from videoseg.training.calibration import TurnMasks
from videoseg.training.collate import DialogueRow
from videoseg.training.dialogue_batch import MaskQuery
from videoseg.training.losses import mask_iou, mask_loss
from videoseg.training.prompts import Prompt
from videoseg.training.rewards.base import Outcome
from videoseg.training.rollout import Generator, Rollout, Said, replay, roll_out, view_of


@dataclass(frozen=True, eq=False, slots=True)
class Judged:
    """One rollout with its masks: what rewards read (detached), and what has gradients.

    `mask_loss` is L_vid + L_key, a scalar; `masks` are the keyframe masks per turn, for the calibration.
    """

    outcome: Outcome
    mask_loss: Tensor
    masks: tuple[TurnMasks, ...]


class Task(Protocol):
    """Everything about the system that is trained; rows and judgements follow the order of the rollouts."""

    def rollouts(self, prompts: Sequence[Prompt], copies: int, seed: int, first_group: int) -> list[Rollout]:
        """`copies` dialogues per prompt by the policy as it is, those of a prompt in a row."""
        ...

    def restored(self, said: Sequence[Said], prompts: Sequence[Prompt], first_group: int) -> list[Rollout]:
        """Rollouts from stored replies, as many per prompt as there are."""
        ...

    def row(self, rollout: Rollout, prompt: Prompt) -> DialogueRow:
        """The rollout as a row of the teacher-forced pass, with a query for every mask to be judged."""
        ...

    def judge(self, rollout: Rollout, prompt: Prompt, row: DialogueRow, logits: Tensor) -> Judged:
        """Compare the masks `[queries of the row, s, s]` with the truth."""
        ...

    def release(self) -> None:
        """Forget what was kept of the prompts of this step."""
        ...


@dataclass(eq=False, slots=True)
class _Scene:
    """Pixels and truth of one prompt, made once: rows of a group hold the same tensors."""

    view: View
    patches: dict[object, Tensor] = field(default_factory=dict)
    frames: dict[int, Tensor] = field(default_factory=dict)
    truths: dict[int, Tensor] = field(default_factory=dict)


class O3Task:
    """VideoSEG-O3: masks on the first turn's high-resolution frames and on each turn's keyframe (§8.1)."""

    def __init__(self, model: O3Model, preset: Preset, generator: Generator) -> None:
        self.model = model
        self.preset = preset
        self._generator = generator
        self._scenes: dict[str, _Scene] = {}

    def rollouts(
        self, prompts: Sequence[Prompt], copies: int, seed: int, first_group: int = 0
    ) -> list[Rollout]:
        """See `Task`."""
        views = [self._scene(prompt).view for prompt in prompts]
        with torch.no_grad():
            return roll_out(self._generator, prompts, views, self.preset, copies, seed, first_group)

    def restored(
        self, said: Sequence[Said], prompts: Sequence[Prompt], first_group: int = 0
    ) -> list[Rollout]:
        """See `Task`."""
        copies = len(said) // len(prompts)
        return [
            replay(one, prompt, self._scene(prompt).view, self.preset, first_group + number // copies)
            for number, one in enumerate(said)
            for prompt in [prompts[number // copies]]
        ]

    def row(self, rollout: Rollout, prompt: Prompt) -> DialogueRow:
        """See `Task`. The last [SEG] of a turn counts (§16 no. 15); a turn without one has no query."""
        scene = self._scene(prompt)
        chunk = scene.view.renderer.dialogue(rollout.exchanges())
        patches = [self._patches(scene, prompt, image) for image in chunk.images]
        wanted = sorted({*rollout.high_frames, *(turn.keyframe for turn in rollout.turns)})
        frames = [self._frame(scene, prompt, frame) for frame in wanted]
        queries = []
        said = 0
        for number, turn in enumerate(rollout.turns):
            here = turn.ids.count(self.model.seg_id)
            if here:
                seg = said + here - 1
                queries += [
                    MaskQuery(0, seg, wanted.index(frame), None, "video", number)
                    for frame in rollout.high_frames
                ]
                queries.append(MaskQuery(0, seg, wanted.index(turn.keyframe), None, "keyframe", number))
            said += here
        return DialogueRow(chunk, patches, frames, tuple(queries), prompt.key)

    def judge(self, rollout: Rollout, prompt: Prompt, row: DialogueRow, logits: Tensor) -> Judged:
        """See `Task`. On an empty truth an empty mask has IoU 1, on a keyframe 0 (§12.6)."""
        scene = self._scene(prompt)
        wanted = sorted({*rollout.high_frames, *(turn.keyframe for turn in rollout.turns)})
        count, turns = len(rollout.high_frames), len(rollout.turns)
        ious = [[0.0] * count for _ in range(turns)]
        key_ious = [0.0] * turns
        losses: dict[str, list[Tensor]] = {"video": [], "keyframe": []}
        masks = [TurnMasks(0)] * turns
        if row.masks:
            truth = torch.stack([self._truth(scene, prompt, wanted[q.frame]) for q in row.masks])
            truth = truth.to(logits.device)
            found = mask_iou(logits, truth).tolist()
            terms = mask_loss(logits, truth, bce=1.0, dice=1.0)
            for number, query in enumerate(row.masks):
                losses[query.kind].append(terms[number])
                if query.kind == "keyframe":
                    key_ious[query.turn] = found[number] if bool(truth[number].any()) else 0.0
                    mask = logits[number : number + 1]
                    masks[query.turn] = TurnMasks(1, mask, mask.detach())
            video = [number for number, query in enumerate(row.masks) if query.kind == "video"]
            for place, number in enumerate(video):
                ious[row.masks[number].turn][place % count] = found[number]
        loss = sum((torch.stack(part).mean() for part in losses.values() if part), logits.new_zeros(()))
        outcome = Outcome(
            rollout.texts,
            prompt.presence,
            tuple(tuple(turn) for turn in ious),
            tuple(key_ious),
            {"query": prompt.query, "kind": prompt.kind, "key": prompt.key},
        )
        return Judged(outcome, loss, tuple(masks))

    def release(self) -> None:
        """See `Task`."""
        self._scenes.clear()

    def _scene(self, prompt: Prompt) -> _Scene:
        if prompt.key not in self._scenes:
            self._scenes[prompt.key] = _Scene(view_of(prompt, self.model, self.preset))
        return self._scenes[prompt.key]

    def _patches(self, scene: _Scene, prompt: Prompt, image: ImageRef) -> Tensor:
        if image.key not in scene.patches:
            pixels = scene.view.renderer.patches(image, prompt.frames[image.frame])
            scene.patches[image.key] = torch.from_numpy(pixels)
        return scene.patches[image.key]

    def _frame(self, scene: _Scene, prompt: Prompt, index: int) -> Tensor:
        if index not in scene.frames:
            scene.frames[index] = self.model.sam2.preprocess(prompt.frames[index])
        return scene.frames[index]

    def _truth(self, scene: _Scene, prompt: Prompt, index: int) -> Tensor:
        if index not in scene.truths:
            scene.truths[index] = torch.from_numpy(np.ascontiguousarray(prompt.mask(index))).float()
        return scene.truths[index]
