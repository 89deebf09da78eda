"""The supervised step of cold start: dialogues per second, the time of each part, cached features or not.

Traces of the generated world in the layout of VTS-CoT, read from files; adapters on the language model, the
image encoder of SAM2 frozen, as published. `ours` takes the features of the frames from the disk cache,
`baseline` encodes them every time. The networks are small ones (the tiny language model, SAM2 with `--trunk`
at `--size` pixels), so the shares of the profile are theirs. One thread, and time of the CPU: other work on
the machine hardly matters.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from common import record

from videoseg.data.world.layouts import write_layouts
from videoseg.data.world.plan import Plan
from videoseg.models.o3 import O3Model
from videoseg.models.tiny import build_o3, world_corpus
from videoseg.models.vision_speed import prefer_plain_attention, speed_up_vision
from videoseg.training.batches import stage_batch
from videoseg.training.config import SupervisedConfig, build_config
from videoseg.training.features import with_features
from videoseg.training.optim import optimizers
from videoseg.training.preparation import choose_trained
from videoseg.training.sources import open_source
from videoseg.training.supervised import Trainee

LEARNS = [
    "vlm.model.model.language_model.embed_tokens",
    "vlm.model.lm_head",
    "projector",
    "sam2.model.mask_decoder",
]


class Clock:
    """CPU seconds by part; parts that run inside others are taken off these."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner: list[float] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        started = time.process_time()
        self._inner.append(0.0)
        yield
        whole = time.process_time() - started
        self.seconds[name] += whole - self._inner.pop()
        if self._inner:
            self._inner[-1] += whole

    def watch(self, home: Any, method: str, name: str) -> None:
        """Count the calls of a method to a part."""
        original: Callable[..., Any] = getattr(home, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return original(*args, **kwargs)

        setattr(home, method, timed)


def settings(root: Path, cache: Path | None, args: argparse.Namespace) -> SupervisedConfig:
    """The recipe of cold start on the written traces."""
    return build_config(
        {
            "out": str(root / "run"),
            "data": [{"dataset": "vts-cot", "folder": ".", "repeats": 1, "draws": 1}],
            "data_root": str(root),
            "lora": {"r": 16, "alpha": 32},
            "train": LEARNS,
            "bf16": args.bf16,
            "feature_cache": None if cache is None else str(cache),
        }
    )


def measure(
    model: O3Model, config: SupervisedConfig, args: argparse.Namespace, clock: Clock | None
) -> list[float]:
    """CPU seconds per dialogue of each of `--runs` runs over the same dialogues."""
    clock = clock or Clock()
    source, cache = open_source(model, config, 1)
    trainee = Trainee(model, config).train()
    optimizer = optimizers(trainee, config)[0]
    if cache is not None:
        for number in range(args.dialogues):
            with_features(stage_batch([source.item(number)], number, model).dialogue, model.sam2, cache)
    taken = []
    for _ in range(args.runs):
        started = time.process_time()
        for number in range(args.dialogues):
            with clock.part("data"):
                batch = stage_batch([source.item(number)], number, model)
            with clock.part("other"), torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
                loss = trainee(batch)["loss"]
            with clock.part("backward"):
                loss.backward()
            with clock.part("optimizer"):
                optimizer.step()
                optimizer.zero_grad()
        taken.append((time.process_time() - started) / args.dialogues)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dialogues", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--trunk", default="tiny", help="SAM2's trunk, such as tiny, large or pico")
    parser.add_argument("--size", type=int, default=256, help="side of SAM2's input in pixels")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast")
    args = parser.parse_args()
    torch.set_num_threads(1)
    prefer_plain_attention()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_layouts(root, Plan(range(args.dialogues)))
        model = build_o3(corpus=world_corpus(50), sam2={"trunk": args.trunk, "image_size": args.size})
        speed_up_vision(model.vlm.model.model.visual)
        choose_trained(model, settings(root, None, args))
        profile = Clock()
        profile.watch(model.vlm, "encode_images", "vision")
        profile.watch(model.vlm, "forward", "language")
        profile.watch(model.sam2, "pyramid", "sam2 encoder")
        profile.watch(model.sam2, "decode_all", "mask decoder")
        fresh = measure(model, settings(root, None, args), args, profile)
        whole = sum(profile.seconds.values())
        shares = {name: round(seconds / whole, 3) for name, seconds in profile.seconds.items()}
        cached = measure(model, settings(root, root / "cache", args), args, None)
    record(
        "supervised_step",
        cached,
        fresh,
        "CPU seconds per dialogue",
        dialogues_per_cpu_second=round(1 / min(fresh), 3),
        dialogues_per_cpu_second_cached=round(1 / min(cached), 3),
        profile_without_cache=shares,
        sam2=f"{args.trunk} at {args.size}",
    )
    print(", ".join(f"{name} {share:.0%}" for name, share in sorted(shares.items(), key=lambda s: -s[1])))


if __name__ == "__main__":
    main()
