"""The scorer against the plain formula: J and F of one pair of masks from run-length codes, one thread.

The baseline decodes both codes and does what the definition says on the whole image: boundary maps, dilation
with the Euclidean disk, counts. It dilates with OpenCV, as the DAVIS toolkit does, where that is installed,
else with SciPy (slower); the result names which. Both sides see the same masks in turns, and must agree to
the last bit. The masks are drawn: blobs with uneven edges, about 4.5 % of the image, the second one larger
and moved by a fiftieth of the height. Times are CPU time of the one thread; `fallback_ms` is our scorer
without numba. Memory is what the process held at most while scoring beyond what it held before (Linux). The
second part scores a benchmark from its files: wall time over two processes against one, the start of the
two included and stated. On a busy machine it says little; `cpu_ms` is what both ways cost in CPU time,
parent and children together.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from common import record
from pycocotools import mask as coco
from scipy import ndimage

from videoseg.evaluation.counts import compiled_counts, frame_counts, plain_counts
from videoseg.evaluation.metrics import contours, regions
from videoseg.evaluation.predictions import open_predictions
from videoseg.evaluation.protocols import protocol
from videoseg.evaluation.scoring import Report, load_items, score
from videoseg.evaluation.truth import Item
from videoseg.masks import Rle

try:
    import cv2

    DILATION = f"OpenCV {cv2.__version__}"
    cv2.setNumThreads(1)
except ImportError:
    cv2, DILATION = None, "SciPy"
SIZES = {"480p": (480, 854), "1080p": (1080, 1920)}
Codes = list[tuple[Rle, ...]]


def plain(truth: Rle, guess: Rle) -> tuple[float, float]:
    """J and F as the definition says."""
    a, b = (coco.decode(code.to_coco()).astype(bool) for code in (truth, guess))
    union = np.sum(a | b)
    region = np.sum(a & b) / union if union else 1.0
    edge_a, edge_b = edge_of(a), edge_of(b)
    reach = math.ceil(0.008 * np.linalg.norm(a.shape))
    near_a, near_b = dilated(edge_a, reach), dilated(edge_b, reach)
    length_a, length_b = np.sum(edge_a), np.sum(edge_b)
    if not length_a or not length_b:
        return float(region), float(length_a == length_b)
    precision, recall = np.sum(edge_b & near_a) / length_b, np.sum(edge_a & near_b) / length_a
    total = precision + recall
    return float(region), float(2 * precision * recall / total) if total else 0.0


def edge_of(mask: np.ndarray) -> np.ndarray:
    """Pixels that differ from the right, lower or lower-right neighbour."""
    right, below, across = mask.copy(), mask.copy(), mask.copy()
    right[:, :-1], below[:-1], across[:-1, :-1] = mask[:, 1:], mask[1:], mask[1:, 1:]
    across[-1, :-1], across[:-1, -1] = mask[-1, 1:], mask[1:, -1]
    return (mask ^ right) | (mask ^ below) | (mask ^ across)


def dilated(edge: np.ndarray, reach: int) -> np.ndarray:
    """Dilation with the disk of radius `reach`."""
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    disk = x * x + y * y <= reach * reach
    if cv2 is None:
        return ndimage.binary_dilation(edge, disk)
    return cv2.dilate(edge.astype(np.uint8), disk.astype(np.uint8)).astype(bool)


def draw(size: tuple[int, int], frames: int) -> tuple[Codes, Codes]:
    """Pairs of blobs."""
    rng, (height, width) = np.random.default_rng(0), size
    y, x = np.mgrid[:height, :width]
    truth, guess = [], []
    for _ in range(frames):
        rough = ndimage.gaussian_filter(rng.standard_normal(size), height / 24)
        cy, cx = rng.uniform(0.3, 0.7) * height, rng.uniform(0.3, 0.7) * width
        mask = np.hypot(y - cy, x - cx) ** 2 / (0.16 * height) ** 2 + 0.5 * rough / rough.std() < 1
        other = np.roll(ndimage.binary_dilation(mask, iterations=3), (height // 50, height // 50), (0, 1))
        truth.append((Rle.encode(mask),))
        guess.append((Rle.encode(other),))
    return truth, guess


def timed(work: Callable[[], object], frames: int, clock: Callable[[], float] = time.process_time) -> float:
    """Milliseconds per frame."""
    start = clock()
    work()
    return 1000 * (clock() - start) / frames


def peak(side: str, truth: Codes, guess: Codes, size: tuple[int, int]) -> float | None:
    """MiB by which a fresh process grows at most while it scores; None where the system does not tell."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(growth, side, truth, guess, size).result()


def growth(side: str, truth: Codes, guess: Codes, size: tuple[int, int]) -> float | None:
    """What `peak` runs in its process: a tiny pair first, so that code does not count."""
    work = {"ours": frame_counts, "baseline": by_formula}[side]
    tiny: Codes = [(Rle.encode(np.eye(8, dtype=bool)),)]
    work(tiny, tiny, (8, 8))
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        return None

    def held(name: str) -> int:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(name))

    reset.write_text("5")
    before = held("VmRSS")
    work(truth, guess, size)
    return round((held("VmHWM") - before) / 1024, 1)


def by_formula(truth: Codes, guess: Codes, size: tuple[int, int]) -> list[tuple[float, float]]:
    """J and F of every pair."""
    return [plain(a, b) for (a,), (b,) in zip(truth, guess, strict=True)]


def compare(name: str, rounds: int, frames: int) -> None:
    """One size: times in turns, peak memory of each side beyond what was there before it."""
    size = SIZES[name]
    compiled_counts([()], [()], (8, 8))  # compile or load the machine code
    truth, guess = draw(size, frames)
    counts = frame_counts(truth, guess, size)
    found = list(zip(regions(counts).tolist(), contours(counts).tolist(), strict=True))
    if by_formula(truth, guess, size) != found:
        raise SystemExit(f"{name}: the scorers disagree")
    memory = {side: peak(side, truth, guess, size) for side in ("ours", "baseline")}
    ours, baseline, fallback = [], [], []
    for _ in range(rounds):
        ours.append(timed(lambda: [frame_counts(truth, guess, size) for _ in range(10)], 10 * frames))
        baseline.append(timed(lambda: by_formula(truth, guess, size), frames))
        fallback.append(timed(lambda: plain_counts(truth, guess, size), frames))
    record(
        f"scorer_{name}",
        ours,
        baseline,
        "ms per frame",
        times_faster=round(float(np.median(baseline) / np.median(ours)), 1),
        fallback_ms=round(float(np.median(fallback)), 4),
        peak_mib=memory,
        baseline_dilation=DILATION,
        size=list(size),
        frames=frames,
    )


def cpu() -> float:
    """CPU seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])


def write_set(folder: Path, videos: int, frames: int) -> None:
    """Videos of 1080p in MeViS layout with two expressions each, and predictions in O3's layout."""
    truth, guess = draw(SIZES["1080p"], 20)
    stems = [f"{number:05d}" for number in range(frames)]
    sides = [[code.to_coco() for (code,) in side] for side in (truth, guess)]
    columns = [[side[number % 20] for number in range(frames)] for side in sides]
    expressions = {str(number): {"exp": "?", "obj_id": [0], "anno_id": [0]} for number in range(2)}
    meta = {f"v{number}": {"frames": stems, "expressions": expressions} for number in range(videos)}
    home = folder / "valid_u"
    home.mkdir()
    (home / "meta_expressions.json").write_text(json.dumps({"videos": meta}))
    (home / "mask_dict.json").write_text(json.dumps({"0": columns[0]}))
    entry = {"frames": stems, "prediction_masks": columns[1]}
    results = {video: dict.fromkeys(expressions, entry) for video in meta}
    (folder / "results.json").write_text(json.dumps(results))


def scale(rounds: int, frames: int) -> None:
    """A whole benchmark from its files over two processes (their start included) against one."""
    clock, table, per = time.perf_counter, protocol("mevis"), 200
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_set(folder, frames // (2 * per), per)
        items = load_items(table, folder, "valid_u")
        total = sum(len(item.frames) for item in items)
        with open_predictions(folder / "results.json", items) as opened:

            def work(processes: int, asked: Sequence[Item] = items) -> Report:
                return score(table, asked, opened.predictions, processes=processes)

            if work(1, items[:4]) != work(2, items[:4]):
                raise SystemExit("two processes give another report than one")
            one, two, start, cost = [], [], [], [cpu()]
            for _ in range(rounds):
                one.append(timed(lambda: work(1), total, clock))
                cost.append(cpu())
                two.append(timed(lambda: work(2), total, clock))
                cost.append(cpu())
                start.append(timed(lambda: work(2, items[:2]), 1000, clock))
    record(
        "scorer_two_processes",
        two,
        one,
        "ms per frame",
        cpu_ms={
            "one": round(1000 * (cost[1] - cost[0]) / total, 4),
            "two": round(1000 * (cost[2] - cost[1]) / total, 4),
        },
        start_seconds=round(float(np.median(start)), 2),
        times_faster=round(float(np.median(one) / np.median(two)), 2),
        size=list(SIZES["1080p"]),
        frames=total,
        load=[round(value, 1) for value in os.getloadavg()],
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=20, help="pairs of masks of each size")
    parser.add_argument(
        "--scale-frames", type=int, default=80_000, help="frames for two processes; 0: leave out"
    )
    arguments = parser.parse_args()
    for size_name in SIZES:
        compare(size_name, arguments.rounds, arguments.frames)
    if arguments.scale_frames:
        scale(2, arguments.scale_frames)
