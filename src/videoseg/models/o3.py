"""VideoSEG-O3 as one module: Qwen3-VL, the [SEG] projector and language-prompted SAM2.

O3 specification §5 (architecture) and §6 (the [SEG] feature).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from videoseg.dialogue.budget import ImageGeometry
from videoseg.dialogue.chatml import END, PAD
from videoseg.dialogue.preset import Preset, preset
from videoseg.dialogue.render import Renderer, check_template
from videoseg.errors import CheckpointError
from videoseg.models.sam2 import Sam2
from videoseg.models.vlm import VLM
from videoseg.models.xmem import XMem

SEG_TOKEN = "[SEG]"
ADDED_TOKENS = (SEG_TOKEN, "<p>", "</p>", "<vp>", "</vp>")


def build_projector(width: int, prompt_width: int) -> nn.Sequential:
    """`text_hidden_fcs`: Linear(d, d), ReLU, Linear(d, prompt width); the dropout of 0 is left out."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, prompt_width))


@dataclass(frozen=True, eq=False, slots=True)
class TextSide:
    """What turns dialogues into tokens and back; belongs to a checkpoint but holds no weights."""

    tokenizer: PreTrainedTokenizerBase
    geometry: ImageGeometry
    preset: Preset
    config: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    """Tokenizer and processor files as they were read, to be saved again unchanged."""
    source: dict[str, Any] = field(default_factory=dict)
    """Name, place and SHA-256 of the checkpoint, for the provenance of results."""

    @classmethod
    def checked(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        geometry: ImageGeometry,
        config: dict[str, Any],
        files: dict[str, bytes],
    ) -> TextSide:
        """The text side of a checkpoint with its own preset; `CheckpointError` on an unfit chat template."""
        check_template(tokenizer)
        settings = dict(config.get("videoseg", {}).get("preset", {}))
        return cls(tokenizer, geometry, preset(settings.pop("name", "default"), **settings), config, files)

    def token_id(self, token: str) -> int:
        """Id of a special token; `CheckpointError` if the tokenizer lacks it."""
        index = self.tokenizer.convert_tokens_to_ids(token)
        if not isinstance(index, int) or index == self.tokenizer.unk_token_id:
            raise CheckpointError(
                f"the tokenizer has no token {token!r}; was it saved with the O3 tokens added?"
            )
        return index

    def renderer(self, frame_size: tuple[int, int], other: Preset | None = None) -> Renderer:
        """The one renderer of dialogues for a video of (height, width), with another preset if given."""
        return Renderer(self.tokenizer, self.geometry, other or self.preset, frame_size)


class O3Model(nn.Module):
    """The networks of VideoSEG-O3; how they talk to each other is in `systems.o3`.

    `original_sam2` is needed by the propagation mode `original_sam2` only (O3 specification §8.3), `xmem` by
    the tracker of that name.
    """

    def __init__(
        self,
        vlm: VLM,
        projector: nn.Module,
        sam2: Sam2,
        text: TextSide,
        original_sam2: Sam2 | None = None,
    ) -> None:
        super().__init__()
        self.vlm = vlm
        self.projector = projector
        self.sam2 = sam2
        self.original_sam2 = original_sam2
        self.xmem: XMem | None = None
        self.text = text
        self.seg_id = text.token_id(SEG_TOKEN)
        self.end_id = text.token_id(END)
        self.stop_ids = (self.end_id, text.token_id(PAD))

    def embed(self, states: Tensor) -> Tensor:
        """Pre-norm [SEG] states `[..., D]` to SAM2 prompt vectors `[..., 256]`."""
        weight = next(self.projector.parameters())
        projected: Tensor = self.projector(states.to(weight))
        return projected
