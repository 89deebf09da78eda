"""Ask a video a question in words; get masks and the reasoning that led there."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from videoseg.export.result import save
    from videoseg.masks import Masklet, Masklets, Rle
    from videoseg.systems import load
    from videoseg.types import Query, Result, Trace
    from videoseg.video.reader import Video

__version__ = "0.1.0"
__all__ = ["Masklet", "Masklets", "Query", "Result", "Rle", "Trace", "Video", "load", "save", "segment"]

_HOMES = {
    "Masklet": "videoseg.masks",
    "Masklets": "videoseg.masks",
    "Query": "videoseg.types",
    "Result": "videoseg.types",
    "Rle": "videoseg.masks",
    "Trace": "videoseg.types",
    "Video": "videoseg.video.reader",
    "load": "videoseg.systems",
    "save": "videoseg.export.result",
    "segment": "videoseg.systems",
}


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that `import videoseg` stays free of torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'videoseg' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
