"""Where the numbers of the reference implementations are."""

from __future__ import annotations

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def golden_root() -> Path:
    """Their folder: `VIDEOSEG_GOLDEN`, else `../shared/golden` beside the repository."""
    return Path(os.environ.get("VIDEOSEG_GOLDEN", REPOSITORY.parent / "shared" / "golden"))
