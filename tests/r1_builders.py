"""An R1 for tests: a reasoner that says what it is told, the real SAM2 and XMem with random weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from builders import SMALL_SAM2
from videoseg.dialogue.episode import Observation
from videoseg.dialogue.r1 import R1Preset
from videoseg.models.r1 import R1Model
from videoseg.models.tiny import build_sam2
from videoseg.systems.r1 import R1System
from videoseg.systems.reasoner import Draw, Said
from videoseg.types import ShownFrame
from xmem_builders import random_xmem

INTERVAL = "The event happens in {} - {} seconds."


@dataclass
class ScriptedReasoner:
    """Gives the replies of `script` in turn, a list per question; keeps what it was asked."""

    script: Sequence[Sequence[str]]
    asked: list[tuple[Observation, Draw]] = field(default_factory=list)

    @property
    def source(self) -> dict[str, Any]:
        return {"name": "script"}

    def check(self, query: str) -> None:
        pass

    def look(self, frames: Any, frame_size: tuple[int, int], preset: R1Preset) -> ScriptedReasoner:
        return self

    def ask(self, observation: Observation, draw: Draw) -> list[Said]:
        replies = self.script[len(self.asked)]
        self.asked.append((observation, draw))
        return [Said(text, len(text.split())) for text in replies]

    def shown(self, observation: Observation) -> tuple[ShownFrame, ...]:
        return tuple(ShownFrame(image.frame, image.role, 28, 28) for image in observation.images)


def random_r1(script: Sequence[Sequence[str]], **fields: Any) -> R1System:
    """A system on random SAM2 and XMem."""
    torch.manual_seed(0)
    preset = R1Preset().override(**fields)
    xmem = random_xmem() if preset.tracker == "xmem" else None
    model = R1Model(build_sam2(**SMALL_SAM2), xmem=xmem)
    return R1System(model, ScriptedReasoner(script), preset)
