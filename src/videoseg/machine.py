"""What a number was made with: versions, commit of the source tree, memory (design contract 8). No torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from videoseg import __version__


def versions(packages: Iterable[str]) -> dict[str, Any]:
    """Versions of videoseg, Python and some packages, and the commit; JSON-ready."""
    return {
        "videoseg": __version__,
        "commit": commit(),
        "python": sys.version.split()[0],
        "packages": {name: version(name) for name in packages},
    }


def peak_memory_mb() -> float | None:
    """Largest resident memory of this process so far, in MB (2**20 bytes); None on Windows."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / 2**20 if sys.platform == "darwin" else peak / 2**10, 1)


@lru_cache(maxsize=1)
def commit() -> str | None:
    """Commit of the source tree that this package runs from, `-dirty` appended; None when installed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
