"""VideoSeg-R1 as one module: SAM2 with boxes and points, XMem, and a Qwen-VL reasoner unless it is remote."""

from __future__ import annotations

from typing import Any

from torch import nn

from videoseg.models.o3 import TextSide
from videoseg.models.sam2 import Sam2
from videoseg.models.vlm import VLM
from videoseg.models.xmem import XMem


class R1Model(nn.Module):
    """The networks of R1 (specification §1); how they talk to each other is in `systems.r1`.

    `vlm` and `text` are None where an endpoint reasons. The tracker `xmem` needs `xmem`, the tracker `sam2`
    that SAM2's own memory was loaded, which `memory` tells.
    """

    def __init__(
        self,
        sam2: Sam2,
        *,
        vlm: VLM | None = None,
        text: TextSide | None = None,
        xmem: XMem | None = None,
        memory: bool = True,
    ) -> None:
        super().__init__()
        self.sam2 = sam2
        self.vlm = vlm
        self.text = text
        self.xmem = xmem
        self.memory = memory
        self.source: dict[str, Any] = {}
        """Names, places and hashes of the parts, for the provenance of results."""
