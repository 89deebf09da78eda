"""XMem propagation: peak memory at 2,000 frames against 200, and time per frame against SAM2's propagation.

Memory: an XMem with the published memory settings and few channels, in a process of its own for each length,
frames made on demand; at 2,000 frames its long-term memory is full and forgets. Time: the published networks
(62 M parameters, random weights, SAM2's large or small one) or the bundled ones, at equal pixels, one object,
in the middle of a long sweep, when memories are as full as they get. Seconds are of processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from common import record

LENGTHS = (200, 2000)


def measure_memory(frames: int, size: int, max_long: int) -> dict[str, float]:
    """Track one object from the middle both ways; megabytes at the peak, tokens at the end of each sweep."""
    import numpy as np
    import torch

    from videoseg.models.xmem import MemoryOptions, XMem, XMemSizes
    from videoseg.tracking.xmem import XMemFrames, XMemTracker

    torch.manual_seed(0)
    xmem = XMem(XMemSizes(8, (1, 1, 1), (1, 1, 1), 32, 128, 16, 32, 16), size).eval()
    generator = np.random.default_rng(0)
    video = XMemFrames(xmem, lambda _: generator.integers(0, 256, (size, size, 3), np.uint8))
    tracker = XMemTracker(xmem, num_frames=frames, options=MemoryOptions(max_long=max_long))
    keyframe, mask = frames // 2, torch.zeros(1, size, size, dtype=torch.bool)
    mask[:, size // 4 : size // 2, size // 4 : size // 2] = True
    tracker.start(video(keyframe), mask, keyframe)
    most = 0
    started = time.process_time()
    for frame in [*range(keyframe + 1, frames), *range(keyframe - 1, -1, -1)]:
        tracker.step(video(frame), frame)
        most = max(most, tracker.live_memories.pointers)
    seconds = time.process_time() - started
    unit = 2**20 if sys.platform == "darwin" else 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return {"megabytes": peak, "long_tokens": most, "milliseconds": 1000 * seconds / frames}


def memory_apart(frames: int, size: int, max_long: int) -> dict[str, float]:
    """`measure_memory` in a fresh process."""
    arguments = ["--measure", str(frames), "--size", str(size), "--max-long", str(max_long)]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**18)}  # read by glibc only
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def xmem_steps(xmem: Any, pixels: int, warm: int) -> Callable[[], None]:
    """One frame of XMem, encoded and tracked, behind `warm` frames."""
    import numpy as np
    import torch

    from videoseg.tracking.xmem import XMemFrames, XMemTracker

    xmem.image_size = pixels
    generator = np.random.default_rng(0)
    video = XMemFrames(xmem, lambda _: generator.integers(0, 256, (pixels, pixels, 3), np.uint8))
    tracker = XMemTracker(xmem)
    mask = torch.zeros(1, pixels, pixels, dtype=torch.bool)
    mask[:, pixels // 4 : pixels // 2, pixels // 4 : pixels // 2] = True
    tracker.start(video(0), mask, 0)
    return _stepping(tracker.step, video, warm)


def sam2_steps(sam2: Any, warm: int) -> Callable[[], None]:
    """One frame of SAM2's propagation, prompted once, behind `warm` frames."""
    import numpy as np
    import torch

    from videoseg.tracking.sam2 import Sam2Tracker, VideoFeatures

    generator = np.random.default_rng(0)
    shape = (sam2.image_size, sam2.image_size, 3)
    video = VideoFeatures(sam2, lambda _: generator.integers(0, 256, shape, np.uint8), cache=0)
    tracker = Sam2Tracker(sam2, "inject_once")
    with torch.no_grad():
        tracker.start(video(0), sam2.prompt_language(torch.randn(1, sam2.width)), 0)
    return _stepping(tracker.step, video, warm)


def _stepping(step: Callable[[Any, int], Any], video: Callable[[int], Any], warm: int) -> Callable[[], None]:
    import torch

    last = 0

    @torch.no_grad()
    def forward() -> None:
        nonlocal last
        last += 1
        step(video(last), last)

    for _ in range(warm):
        forward()
    return forward


def timed(forward: Callable[[], None], frames: int) -> float:
    """Milliseconds of processor time per frame."""
    started = time.process_time()
    for _ in range(frames):
        forward()
    return 1000 * (time.process_time() - started) / frames


def compare_time(which: str, runs: int) -> None:
    """Time per frame of both trackers at equal pixels, interleaved."""
    import torch

    from videoseg.models.checkpoints.xmem import load_xmem
    from videoseg.models.sam2 import Sam2
    from videoseg.models.sam2_config import sam2_config
    from videoseg.models.tiny import build_sam2
    from videoseg.models.xmem import XMem, XMemSizes

    torch.manual_seed(0)
    if which == "tiny":
        sam2, xmem, warm, frames = build_sam2(), load_xmem(), 60, 25
    else:
        sam2, xmem, warm, frames = Sam2(sam2_config(which, 512)), XMem(XMemSizes()).eval(), 8, 5
    steps = xmem_steps(xmem, sam2.image_size, warm), sam2_steps(sam2, warm)
    ours, baseline = [], []
    for _ in range(runs):
        ours.append(timed(steps[0], frames))
        baseline.append(timed(steps[1], frames))
    record(
        f"xmem_time_{which}",
        ours,
        baseline,
        f"ms of processor time per frame, XMem against SAM2 ({which}), {sam2.image_size} x {sam2.image_size}",
        xmem_parameters=sum(p.numel() for p in xmem.parameters()),
        sam2_parameters=sum(p.numel() for p in sam2.parameters()),
        frames_before=warm,
    )


def compare_memory(size: int, max_long: int, runs: int) -> None:
    """Peak memory of both lengths, each in a process of its own."""
    found: dict[int, list[dict[str, float]]] = {length: [] for length in LENGTHS}
    for length in LENGTHS * runs:
        found[length].append(memory_apart(length, size, max_long))
    short, long = LENGTHS
    record(
        "xmem_memory_length",
        [one["megabytes"] for one in found[long]],
        [one["megabytes"] for one in found[short]],
        f"MB peak, {long} against {short} frames",
        model=f"XMem with few channels, {size} px, one object, keyframe in the middle, long-term {max_long}",
        long_tokens={str(length): found[length][0]["long_tokens"] for length in LENGTHS},
        milliseconds={str(length): round(found[length][0]["milliseconds"], 2) for length in LENGTHS},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--time", choices=("tiny", "small", "large"), action="append", default=None)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--max-long", type=int, default=1000)
    parser.add_argument("--measure", type=int, help="internal: frames of one measurement of memory")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    if options.measure:
        print(json.dumps(measure_memory(options.measure, options.size, options.max_long)))
        return
    if not options.no_memory:
        compare_memory(options.size, options.max_long, options.runs)
    for which in options.time or ["tiny"]:
        compare_time(which, options.runs)


if __name__ == "__main__":
    main()
