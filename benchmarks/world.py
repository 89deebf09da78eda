"""Clips of the generated world written per minute, by one and by two processes, at the bundled tiny size.

A clip is drawn, encoded and written in all dataset layouts (`--layouts mevis` for frames and masks alone).
The baseline is one process, ours is two: `ratio` is the gain, `ours` the clips per minute that two give.
Starting the processes is included; `draw_only` leaves out all files. Wall times suffer where other work runs
(`load`), so the processor time of a clip is given too: 60,000 / `cpu_ms` clips a minute on one free core.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

from common import record

from videoseg.data.world import Stage, WorldSpec, draw_sample
from videoseg.data.world.layouts import write_layouts
from videoseg.data.world.plan import LAYOUTS, Plan


def per_minute(seeds: range, layouts: tuple[str, ...], workers: int) -> float:
    """Clips per minute of one run into an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        write_layouts(Path(folder), Plan(seeds, layouts=layouts), workers=workers)
        return 60 * len(seeds) / (time.perf_counter() - start)


def cpu_seconds() -> float:
    """Processor time of this process and of its finished children."""
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


def draw_only(seeds: range) -> float:
    """Clips per minute of one process that draws every frame and keeps nothing."""
    start = time.perf_counter()
    for seed in seeds:
        sample = draw_sample(seed, WorldSpec())
        stage = Stage(sample.scene)
        for frame in range(sample.scene.num_frames):
            stage.frame(frame)
    return 60 * len(seeds) / (time.perf_counter() - start)


def main() -> None:
    """Measure in turn, so that a change of the machine's load falls on both sides."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=400)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--layouts", nargs="+", default=list(LAYOUTS))
    options = parser.parse_args()
    seeds, layouts = range(options.clips), tuple(options.layouts)
    one, two, drawn, cpu = [], [], [], []
    for _ in range(options.runs):
        begin = cpu_seconds()
        one.append(per_minute(seeds, layouts, 1))
        cpu.append(1000 * (cpu_seconds() - begin) / len(seeds))
        two.append(per_minute(seeds, layouts, 2))
        drawn.append(draw_only(seeds[:100]))
    spec = WorldSpec()
    record(
        "world",
        two,
        one,
        "clips per minute",
        clips=options.clips,
        layouts=list(layouts),
        size=f"{spec.width} x {spec.height}, {min(spec.lengths)} to {max(spec.lengths)} frames",
        cpu_ms=round(sorted(cpu)[len(cpu) // 2], 1),
        draw_only=round(sorted(drawn)[len(drawn) // 2]),
        load=[round(value, 1) for value in os.getloadavg()],
    )


if __name__ == "__main__":
    main()
