"""XMem, the mask propagation of VideoSeg-R1 (R1 specification §6): network, memories, one step."""

from videoseg.models.xmem.memory import MemoryOptions
from videoseg.models.xmem.network import FrameKeys, XMem
from videoseg.models.xmem.session import XMemSession
from videoseg.models.xmem.sizes import TINY, XMemSizes

__all__ = ["TINY", "FrameKeys", "MemoryOptions", "XMem", "XMemSession", "XMemSizes"]
