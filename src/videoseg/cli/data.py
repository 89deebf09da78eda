"""`videoseg data`: the generated world."""

from __future__ import annotations

from typing import Literal

from videoseg.cli.show import console

Family = Literal["appearance", "motion", "temporal", "detail", "absent"]


def world(
    out: str,
    *,
    count: int = 10,
    first_seed: int = 0,
    family: Family | None = None,
    overwrite: bool = False,
) -> int:
    """Write generated clips with their exact truth: NAME.mp4 and NAME.json.

    Args:
        out: folder to write
        count: how many clips
        first_seed: seed of the first; a seed always gives the same clip
        family: only questions of this family
        overwrite: write into a folder that holds something
    """
    from pathlib import Path

    from videoseg.data.world.clip import generate
    from videoseg.errors import OutputError

    folder = Path(out)
    if folder.exists() and any(folder.iterdir()) and not overwrite:
        raise OutputError(f"{folder} holds something already; give another folder or --overwrite")
    paths = generate(folder, range(first_seed, first_seed + count), family=family)
    console.print(f"{len(paths)} clips written to {folder}")
    return 0
