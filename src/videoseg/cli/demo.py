"""`videoseg demo`: the bundled model on the bundled clip, scored against the clip's truth."""

from __future__ import annotations

from pathlib import Path

from videoseg.cli.segment import segment
from videoseg.cli.show import console


def demo(out: str = "videoseg-demo", device: str = "auto") -> int:
    """Run the whole system on a held-out generated clip, without any download.

    Args:
        out: folder for the results, replaced if it exists
        device: cpu, cuda, mps, or auto
    """
    from videoseg.data.world.truth import read_truth
    from videoseg.evaluation.metrics import jf
    from videoseg.export.result import load
    from videoseg.models.checkpoints.hub import ASSETS

    clip = ASSETS / "tiny" / "demo.mp4"
    truth = read_truth(ASSETS / "tiny" / "demo_truth.json")[0]
    code = segment(str(clip), [truth.query], model="tiny", out=out, device=device, overwrite=True)
    if code:
        return code
    result = load(out)
    masks = [result.masklets.union(frame) for frame in range(result.masklets.num_frames)]
    j, f = jf(truth.masks(), masks)
    for path in sorted(Path(out).iterdir()):
        console.print(f"  {path}{'/' if path.is_dir() else ''}")
    console.print(f"[bold]J&F {50 * (j + f):.1f}[/bold]  (J {100 * j:.1f}, F {100 * f:.1f})")
    return 0
