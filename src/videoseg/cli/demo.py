"""`videoseg demo`: the bundled model on the bundled clip, scored against the clip's truth."""

from __future__ import annotations

import json
from pathlib import Path

from videoseg.cli.segment import segment
from videoseg.cli.show import console


def demo(out: str = "videoseg-demo", device: str = "auto") -> int:
    """Run the whole system on a held-out generated clip, without any download.

    Args:
        out: folder for the results, replaced if it exists
        device: cpu, cuda, mps, or auto
    """
    from videoseg.evaluation.metrics import video_scores
    from videoseg.export.result import load
    from videoseg.masks import Rle
    from videoseg.models.checkpoints.hub import ASSETS

    clip = ASSETS / "tiny" / "demo.mp4"
    truth = json.loads((ASSETS / "tiny" / "demo_truth.json").read_text())
    code = segment(str(clip), [truth["query"]], model="tiny", out=out, device=device, overwrite=True)
    if code:
        return code
    result = load(out)
    target = [Rle.from_coco(rle) for rle in truth["masks"]]
    scores = video_scores(result.masklets, target)
    for name in sorted(path.name for path in Path(out).iterdir()):
        console.print(f"  {out}/{name}")
    console.print(f"[bold]J&F {100 * scores.jf:.1f}[/bold]  (J {100 * scores.j:.1f}, F {100 * scores.f:.1f})")
    return 0
