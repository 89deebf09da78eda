"""Clips made on the spot: every frame carries its index as a row of black and white blocks."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

BITS = 12
BLOCK = 8


def painted(index: int, height: int = 48, width: int = 96) -> np.ndarray:
    """A frame whose top row of blocks spells `index` in binary, red at left and blue at right below."""
    frame = np.zeros((height, width, 3), dtype=np.uint8)
    for bit in range(BITS):
        frame[:BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 255 * (index >> bit & 1)
    frame[BLOCK:, : width // 2] = (255, 0, 0)
    frame[BLOCK:, width // 2 :] = (0, 0, 255)
    return frame


def index_of(frame: np.ndarray) -> int:
    """What `painted` wrote."""
    centers = frame[BLOCK // 2, BLOCK // 2 : BITS * BLOCK : BLOCK].mean(axis=1)
    return sum(1 << bit for bit, value in enumerate(centers) if value > 127)


def encode(
    path: Path,
    count: int = 30,
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    size: tuple[int, int] = (48, 96),
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
    time_of: Callable[[int], int] = lambda index: index,
    rotation: tuple[float, bool] | None = None,
) -> Path:
    """Encode `count` painted frames at 10 ticks per second."""
    with av.open(str(path), "w", options=muxer or {}) as container:
        stream: Any = container.add_stream(codec, rate=10)
        stream.height, stream.width = size
        stream.pix_fmt = pixels
        stream.options = options or {}
        stream.codec_context.thread_count = 1
        if rotation is not None:
            stream.set_display_rotation(rotation[0], hflip=rotation[1])
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(painted(index, *size), "rgb24")
            frame.pts, frame.time_base = time_of(index), Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture
def clip(tmp_path: Path) -> Callable[..., Path]:
    """`clip("a.mp4", 30, ...)` encodes painted frames and returns the path."""

    def make(name: str, count: int = 30, **how: Any) -> Path:
        return encode(tmp_path / name, count, **how)

    return make


@pytest.fixture
def read_index() -> Callable[[np.ndarray], int]:
    """Recognises a painted frame."""
    return index_of


@pytest.fixture
def paint() -> Callable[..., np.ndarray]:
    """Paints the frame of an index."""
    return painted
