"""The policy of stage III as one module: dialogues in; log-probabilities, masks and [SEG]s out (§12.3).

`Policy` is what accelerate wraps: everything with a gradient happens in its `forward` (design §4).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from videoseg.models.o3 import O3Model
from videoseg.models.vision_speed import speed_up_vision
from videoseg.models.vlm import VLM
from videoseg.training.dialogue_batch import DialogueBatch
from videoseg.training.forward import TeacherForced
from videoseg.training.grpo import selected_log_probs, trained_positions
from videoseg.training.reading import read_dialogues


@dataclass(frozen=True, eq=False, slots=True)
class PolicyOutput:
    """Of the P trained tokens, row by row: `log_probs` and `entropy` float32 `[P]`.

    `mask_logits` `[M, s, s]` per mask query of the batch; `anchor` goes into the loss.
    """

    log_probs: Tensor
    entropy: Tensor
    mask_logits: Tensor
    anchor: Tensor


class Policy(nn.Module):
    """A model that trains, and what it needs per batch."""

    def __init__(self, model: O3Model) -> None:
        super().__init__()
        self.teacher = TeacherForced(model)

    def forward(self, batch: DialogueBatch) -> PolicyOutput:
        """One pass; the softmax covers the trained tokens only and is in float32."""
        model = self.teacher.model
        output = self.teacher(batch)
        tokens = batch.ids[output.rows, output.columns]
        log_probs, entropy = selected_log_probs(output.hidden, model.vlm.logits, tokens)
        return PolicyOutput(log_probs, entropy, output.mask_logits, output.anchor)


def _frozen_copy(vlm: VLM) -> VLM:
    """A copy whose modules are its own: replaced forward methods would still be those of the original."""
    twin = copy.deepcopy(vlm).requires_grad_(False).eval()
    patched = [part for part in twin.modules() if part.__dict__.pop("forward", None) is not None]
    if patched:
        speed_up_vision(twin.model.model.visual)
    return twin


class Reference:
    """The model before training: a frozen copy of its language and vision, or the policy without adapters."""

    def __init__(self, vlm: VLM, disabled: Callable[[], AbstractContextManager[None]] | None = None) -> None:
        self._disabled = disabled or nullcontext
        self._vlm = vlm if disabled else _frozen_copy(vlm)

    @torch.no_grad()
    def __call__(self, batch: DialogueBatch) -> Tensor:
        """Log-probabilities float32 `[P]` of the trained tokens; masks are not decoded."""
        with self._disabled():
            states, _ = read_dialogues(self._vlm, batch)
            where, columns = trained_positions(batch.loss_mask)
            tokens = batch.ids[where, columns]
            return selected_log_probs(states.norm[where, columns - 1], self._vlm.logits, tokens)[0]
