"""XMem propagation: peak memory along 2,000 frames, and time per frame against SAM2's propagation.

Memory: the published network (62 M parameters, random weights) and limits in a process of its own, frames
made on demand, the keyframe in the middle. With `--every 1` each sweep remembers 1,000 frames, so that
long-term memory is full (10,000 tokens) and forgets for more than half of the way; at the published 5 it
would be half full at the end. Time: the published networks (random weights, SAM2's large or small one) or the
bundled ones, at equal pixels, one object, behind so long a past that XMem's long-term memory is full. Seconds
are of processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from common import record

FRAMES, WINDOW = 2000, 200


def measure_memory(size: int, every: int) -> list[dict[str, float]]:
    """Track one object from the middle both ways; what is known after each window of frames.

    `peak`: megabytes of the process at most so far; `held`: megabytes of the tracker's tensors at that frame;
    `long`: tokens of long-term memory.
    """
    import numpy as np
    import torch

    from videoseg.models.xmem import MemoryOptions, XMem, XMemSizes
    from videoseg.tracking.xmem import XMemFrames, XMemTracker

    torch.manual_seed(0)
    xmem = XMem(XMemSizes(), size).eval()
    generator = np.random.default_rng(0)
    video = XMemFrames(xmem, lambda _: generator.integers(0, 256, (size, size, 3), np.uint8))
    tracker = XMemTracker(xmem, num_frames=FRAMES, options=MemoryOptions(every=every))
    keyframe, mask = FRAMES // 2, torch.zeros(1, size, size, dtype=torch.bool)
    mask[:, size // 4 : size // 2, size // 4 : size // 2] = True
    tracker.start(video(keyframe), mask, keyframe)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    found = []
    for done, frame in enumerate([*range(keyframe + 1, FRAMES), *range(keyframe - 1, -1, -1)], start=2):
        tracker.step(video(frame), frame)
        if done % WINDOW == 0:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
            held = sum(tensor.nbytes for tensor in tensors(tracker.state())) / 2**20
            found.append({"peak": peak, "held": held, "long": tracker.live_memories.pointers})
    return found


def tensors(state: Any) -> Iterator[Any]:
    """Every tensor in a tracker's state."""
    if isinstance(state, dict):
        for value in state.values():
            yield from tensors(value)
    elif hasattr(state, "nbytes"):
        yield state


def memory_apart(size: int, every: int) -> list[dict[str, float]]:
    """`measure_memory` in a fresh process."""
    arguments = ["--measure", "--size", str(size), "--every", str(every)]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**18)}  # read by glibc only
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def xmem_steps(xmem: Any, pixels: int, warm: int) -> Callable[[], None]:
    """One frame of XMem, encoded and tracked, behind `warm` frames."""
    import numpy as np
    import torch

    from videoseg.models.xmem import MemoryOptions
    from videoseg.tracking.xmem import XMemFrames, XMemTracker

    xmem.image_size = pixels
    generator = np.random.default_rng(0)
    video = XMemFrames(xmem, lambda _: generator.integers(0, 256, (pixels, pixels, 3), np.uint8))
    options = MemoryOptions()
    tracker = XMemTracker(xmem, options=options)
    mask = torch.zeros(1, pixels, pixels, dtype=torch.bool)
    mask[:, pixels // 4 : pixels // 2, pixels // 4 : pixels // 2] = True
    tracker.start(video(0), mask, 0)
    fill(tracker, options.max_long)
    return _stepping(tracker.step, video, warm)


def fill(tracker: Any, max_long: int) -> None:
    """Give a tracker that saw one frame a long past made of it: 6 frames and `max_long` tokens."""
    import torch

    state = tracker.state()
    memory = state["session"]["memory"]
    first, cells = memory["work"], memory["work"]["keys"].shape[-1]
    for bank, tokens in (("work", 6 * cells), ("long", max_long)):
        copies = -(-tokens // cells)
        memory[bank] = {name: torch.cat([part] * copies, -1)[..., :tokens] for name, part in first.items()}
    tracker.restore(state, lambda: None)


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


def compare_memory(size: int, every: int, runs: int) -> None:
    """Peak memory of the whole way against that of its first window."""
    found = [memory_apart(size, every) for _ in range(runs)]
    rounded = [{name: round(value, 1) for name, value in one.items()} for one in found[0]]
    record(
        "xmem_memory_length",
        [windows[-1]["peak"] for windows in found],
        [windows[0]["peak"] for windows in found],
        f"MB peak, {FRAMES} against the first {WINDOW} frames",
        model=f"XMem of published size and limits, {size} px, one object, keyframe in the middle",
        remembered=f"one frame in {every}",
        windows={str(WINDOW * number): one for number, one in enumerate(rounded, start=1)},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--time", choices=("tiny", "small", "large"), action="append", default=None)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--measure", action="store_true", help="internal: one measurement of memory")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    if options.measure:
        print(json.dumps(measure_memory(options.size, options.every)))
        return
    if not options.no_memory:
        compare_memory(options.size, options.every, options.runs)
    for which in options.time or ["tiny"]:
        compare_time(which, options.runs)


if __name__ == "__main__":
    main()
