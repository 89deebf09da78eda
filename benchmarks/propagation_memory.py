"""Peak memory and time of mask propagation: 2,000 frames against 200, and against keeping every memory.

Each measurement runs in a process of its own, because peak memory never falls again, and with an allocator
that returns freed blocks, so that the peak is what is held and not how it is scattered. The model is a micro
SAM2; frames are made on demand, so only tracking can grow. Seconds are of processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass

from common import record

LENGTHS = (200, 2000)


@dataclass(frozen=True)
class Measurement:
    megabytes: float
    seconds_per_frame: float


def measure(kind: str, frames: int, size: int) -> Measurement:
    """Track one object from the middle frame both ways; `kind` is "bounded" or "kept"."""
    import numpy as np
    import torch

    from videoseg.models.sam2 import Sam2
    from videoseg.models.sam2_config import sam2_config
    from videoseg.tracking.sam2 import Sam2Tracker, VideoFeatures

    class KeepEverything(Sam2Tracker):
        def _forget(self, frame: int, sign: int) -> None:
            """Memories of all frames stay, as in the reference implementations."""

    torch.manual_seed(0)
    sam2 = Sam2(sam2_config("micro", size, width=64, memory_layers=1, memory_mlp=64, decoder_mlp=64))
    generator = np.random.default_rng(0)
    video = VideoFeatures(sam2, lambda _: generator.integers(0, 256, (size, size, 3), np.uint8), cache=0)
    tracker = (KeepEverything if kind == "kept" else Sam2Tracker)(sam2, num_frames=frames)
    keyframe = frames // 2
    with torch.no_grad():
        started = time.process_time()
        tracker.start(video(keyframe), sam2.prompt_language(torch.randn(1, sam2.width)), keyframe)
        for frame in [*range(keyframe + 1, frames), *range(keyframe - 1, -1, -1)]:
            tracker.step(video(frame), frame)
        seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return Measurement(peak / unit, seconds / frames)


def measure_apart(kind: str, frames: int, size: int) -> Measurement:
    """`measure` in a fresh process."""
    arguments = ["--measure", kind, "--frames", str(frames), "--size", str(size)]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**18)}  # read by glibc only
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return Measurement(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256, help="side of SAM2's input")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--measure", choices=("bounded", "kept"), help="internal: one measurement")
    parser.add_argument("--frames", type=int, default=LENGTHS[0], help="internal: its frames")
    options = parser.parse_args()
    if options.measure:
        import torch

        torch.set_num_threads(1)
        print(json.dumps(vars(measure(options.measure, options.frames, options.size))))
        return
    compare(options.size, options.runs)


def compare(size: int, runs: int) -> None:
    """Measure all four combinations and record three ratios."""
    combinations = [(kind, frames) for kind in ("bounded", "kept") for frames in LENGTHS]
    found: dict[tuple[str, int], list[Measurement]] = {key: [] for key in combinations}
    for kind, frames in combinations * runs:  # interleaved, so that other load falls on all alike
        found[kind, frames].append(measure_apart(kind, frames, size))

    def memory(kind: str, frames: int) -> list[float]:
        return [m.megabytes for m in found[kind, frames]]

    short, long = LENGTHS
    remark = {"model": f"micro SAM2, {size} px, one object, keyframe in the middle"}
    record(
        "propagation_memory_length",
        memory("bounded", long),
        memory("bounded", short),
        f"MB peak, {long} against {short} frames",
        **remark,
    )
    record(
        "propagation_memory_kept",
        memory("bounded", long),
        memory("kept", long),
        f"MB peak at {long} frames, bounded against all memories kept",
        kept_length_ratio=round(memory("kept", long)[0] / memory("kept", short)[0], 4),
        **remark,
    )
    record(
        "propagation_time",
        [1000 * m.seconds_per_frame for m in found["bounded", long]],
        [1000 * m.seconds_per_frame for m in found["bounded", short]],
        f"ms of processor time per frame, {long} against {short} frames",
        **remark,
    )


if __name__ == "__main__":
    main()
