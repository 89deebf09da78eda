"""XMem frame by frame: which frames are segmented, remembered, and renew the sensory state (R1 spec §6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from videoseg.errors import UsageError
from videoseg.models.xmem.memory import MemoryOptions, XMemMemory
from videoseg.models.xmem.network import FrameKeys, XMem, compete


class XMemSession:
    """One sweep over a clip in one direction, without gradients."""

    def __init__(self, xmem: XMem, options: MemoryOptions | None = None) -> None:
        self._xmem = xmem
        self._options = options or MemoryOptions()
        self.memory = XMemMemory(self._options)
        self.hidden: Tensor | None = None
        self._clock = -1
        self._remembered = 0
        self._deepened = -(self._options.deep_every or 0)

    @torch.no_grad()
    def step(
        self,
        frame: FrameKeys,
        masks: Tensor | None = None,
        objects: Sequence[int] | None = None,
        *,
        last: bool = False,
    ) -> Tensor:
        """Probabilities [1 + N, H, W] of the next frame, background first.

        `masks` [N, H, W] in [0, 1] at the frame's size give the objects numbered `objects` (None: all, so
        that nothing is predicted); rows of other known objects are ignored, unknown objects enter here.
        `last`: nothing comes after, so nothing is remembered.
        """
        self._clock += 1
        options = self._options
        remember = (masks is not None or self._clock - self._remembered >= options.every) and not last
        due = options.deep_every is None or self._clock - self._deepened >= options.deep_every
        update = not last and (options.deep_every is not None or not remember)
        probabilities = None
        if masks is None or objects is not None:
            probabilities = self._predict(frame, update)
        if masks is not None:
            probabilities = self._given(frame, masks, probabilities, objects)
        assert probabilities is not None
        if remember:
            self._remember(frame, probabilities[1:], deepen=due)
        return frame.crop(probabilities)

    def state(self) -> dict[str, Any]:
        """Everything remembered, as plain values and tensors; stays valid while the session goes on."""
        clocks = (self._clock, self._remembered, self._deepened)
        return {"clocks": clocks, "hidden": self.hidden, "memory": self.memory.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self._clock, self._remembered, self._deepened = state["clocks"]
        self.hidden = None if state["hidden"] is None else state["hidden"].to(self._xmem.device)
        self.memory.restore(state["memory"], self._xmem.device)

    def _predict(self, frame: FrameKeys, update: bool) -> Tensor:
        answer = self.memory.read(frame.key[0].float(), frame.selection[0].float())
        if self.hidden is None:
            raise UsageError("XMem has no objects yet: give masks on the first frame")
        with self._xmem.precision():
            logits, hidden = self._xmem.segment(frame, answer[None], self.hidden, update)
        if update:
            self.hidden = hidden
        return logits.softmax(1)[0]

    def _given(
        self, frame: FrameKeys, masks: Tensor, predicted: Tensor | None, objects: Sequence[int] | None
    ) -> Tensor:
        """Probabilities where masks win over what was predicted for the other objects; new objects enter."""
        masks = F.pad(masks.to(frame.image.dtype), frame.pad)
        if predicted is not None:
            others = [row for row in range(len(predicted) - 1) if row not in (objects or ())]
            masks[others] = predicted[1:][others] * (masks.sum(0) <= 0.5)
        fresh = self._xmem.fresh_hidden(frame, len(masks))
        self.hidden = (
            fresh if self.hidden is None else torch.cat([self.hidden, fresh[:, self.hidden.shape[1] :]], 1)
        )
        return compete(masks[None]).softmax(1)[0]

    def _remember(self, frame: FrameKeys, masks: Tensor, *, deepen: bool) -> None:
        with self._xmem.precision():
            values = self._xmem.encode_value(frame, masks[None])
            if deepen and self.hidden is not None:
                self.hidden = self._xmem.deepen(values, self.hidden)
                self._deepened = self._clock
        self.memory.add(
            frame.key[0].float(), frame.shrinkage[0].float(), frame.selection[0].float(), values[0].float()
        )
        self._remembered = self._clock
