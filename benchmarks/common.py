"""How every benchmark of this folder stores its result: one JSON file per measured ratio."""

from __future__ import annotations

import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"


def record(
    name: str, ours: Sequence[float], baseline: Sequence[float], unit: str, **remarks: Any
) -> dict[str, Any]:
    """Write `results/<name>.json` from the measurements of both sides and return what was written.

    `ours` and `baseline` become their medians, `ratio` is ours over baseline, `spread` the range of ours
    relative to its median; `remarks` (JSON values) are stored too. Machine paths are not.
    """
    middle, other = statistics.median(ours), statistics.median(baseline)
    result = {
        "name": name,
        "ours": round(middle, 6),
        "baseline": round(other, 6),
        "unit": unit,
        "ratio": round(middle / other, 4),
        "spread": round((max(ours) - min(ours)) / middle, 4) if middle else 0.0,
        "runs": len(ours),
        "machine": machine(),
        "commit": commit(),
        "command": command(),
        **remarks,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"{name}: {middle:.4g} against {other:.4g} {unit}, ratio {result['ratio']}")
    return result


def machine() -> dict[str, Any]:
    """CPU model, cores, torch version and threads."""
    import torch

    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def commit() -> str:
    """The commit, marked `+changes` if the working tree differs from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    head = git("rev-parse", "--short", "HEAD")
    if not head:
        return "none"
    return head + ("+changes" if git("status", "--porcelain", "--", "src") else "")


def command() -> str:
    """The command line, from the repository's root."""
    script = Path(sys.argv[0]).resolve()
    name = script.relative_to(REPOSITORY) if script.is_relative_to(REPOSITORY) else script.name
    return shlex.join(["python", str(name), *sys.argv[1:]])
