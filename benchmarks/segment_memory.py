"""Peak resident memory of `segment` on a 2,000-frame video against a 200-frame one: bounded memory means 1.

Each side is a process of its own, the bundled tiny model on an H.264 file of the generated world's size,
propagation with memory; the file is written beforehand, by another process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import record

HEIGHT, WIDTH = 160, 224
QUERY = "the red disc"


def write_video(path: Path, frames: int) -> None:
    """A red disc on noise, going round."""
    from videoseg.video.writer import VideoWriter

    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    with VideoWriter(path, 24.0) as writer:
        for index in range(frames):
            frame = rng.integers(60, 90, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            angle = index / 40
            y, x = HEIGHT / 2 + 40 * np.sin(angle), WIDTH / 2 + 70 * np.cos(angle)
            frame[(rows - y) ** 2 + (columns - x) ** 2 < 20**2] = (220, 20, 20)
            writer.write(frame)


def measure(path: Path) -> dict[str, float]:
    """Peak memory in MB and seconds of one `segment`, in this process; masks are saved too."""
    import time

    import torch

    import videoseg
    from videoseg.machine import peak_memory_mb

    torch.set_num_threads(1)
    system = videoseg.load("tiny", propagation="inject_every_frame")
    started = time.perf_counter()
    with videoseg.Video(path) as video, tempfile.TemporaryDirectory() as out:
        result = system.segment(video, QUERY)
        seconds = time.perf_counter() - started
        videoseg.save(result, Path(out) / "result", video=video)
    drawn = sum(code.area > 0 for masklet in result.masklets for code in masklet.rles)
    return {"mb": peak_memory_mb() or 0.0, "seconds": seconds, "frames_with_mask": drawn}


def child(*arguments: str) -> dict[str, float]:
    """Run this file in a process of its own."""
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else {}


def main() -> None:
    """Measure both lengths, alternating, and store the ratio."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--measure", type=Path)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    if options.write:
        write_video(options.write, options.frames)
        return
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    with tempfile.TemporaryDirectory() as folder:
        lengths = {"long": options.frames, "short": options.frames // 10}
        for name, frames in lengths.items():
            child("--write", f"{folder}/{name}.mp4", "--frames", str(frames))
        found = {
            name: [child("--measure", f"{folder}/{name}.mp4") for _ in range(options.runs)]
            for name in lengths
        }
    record(
        "segment_memory",
        [run["mb"] for run in found["long"]],
        [run["mb"] for run in found["short"]],
        "MB peak resident memory",
        frames=list(lengths.values()),
        seconds=[round(run["seconds"], 1) for runs in found.values() for run in runs],
        frames_with_mask=[run["frames_with_mask"] for runs in found.values() for run in runs],
    )


if __name__ == "__main__":
    main()
