"""Evaluation runner: questions answered video by video, over any number of workers, resumably (users R39).

`run` does what is missing in the folder of a run; what was finished stays whatever happens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from videoseg.dialogue.preset import Preset, preset
from videoseg.dialogue.r1 import R1Preset
from videoseg.errors import UsageError
from videoseg.evaluation.answers import Answering, Group
from videoseg.evaluation.processes import Processes
from videoseg.evaluation.queue import Done, Inline, Setup, Workers, drain
from videoseg.evaluation.ray_workers import RayWorkers
from videoseg.evaluation.store import Store

Kind = Literal["inline", "processes", "ray"]
NO_MATTER = ("preset", "device", "device_map", "attention")
"""Options that say where the work is done, or that the whole preset stands for."""
SIDE_WEIGHTS = ("original_sam2", "xmem", "sam2")
"""Options that name further weights."""


@dataclass(frozen=True, slots=True)
class Step:
    """A video came to its end: `masks` of `total` are made now; `error` if it has none."""

    video: str
    masks: int
    total: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `number` (from 1) of `count` of the videos, for runs that share a folder."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """`I/N`; raises UsageError."""
        number, slash, count = text.partition("/")
        if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            raise UsageError(f"--shard is I/N with I from 1 to N, such as 2/4; got {text!r}")
        return cls(int(number), int(count))

    def of(self, groups: Sequence[Group]) -> list[Group]:
        """Its videos."""
        return list(groups[self.number - 1 :: self.count])


@dataclass(frozen=True, slots=True)
class Pool:
    """Which workers do it, and how many (0: as many as there are GPUs, else one)."""

    kind: Kind = "inline"
    count: int = 1

    def open(self, setup: Setup) -> Workers:
        """Start them."""
        if self.kind == "ray":
            return RayWorkers(setup, self.count)
        return Processes(setup, self.count) if self.kind == "processes" else Inline(setup)


def pool_of(processes: int, ray: bool, device: str) -> Pool:
    """Workers for `--processes` and `--ray`; raises UsageError."""
    if processes < 0:
        raise UsageError(f"--processes is a number of workers, or 0 for one per GPU; got {processes}")
    if ray:
        return Pool("ray", processes)
    count = processes or gpus(device)
    return Pool("processes", count) if count > 1 else Pool()


def gpus(device: str) -> int:
    """CUDA devices that may be used, at least 1 (one worker)."""
    import torch

    return max(1, torch.cuda.device_count()) if device in ("auto", "cuda") else 1


@dataclass(frozen=True, slots=True)
class Settings:
    """What answers: a model, and `options` of `systems.load`, of which None is as good as not given."""

    model: str = "tiny"
    options: Mapping[str, Any] = field(default_factory=dict)

    def given(self) -> dict[str, Any]:
        """The options that say something."""
        return {name: value for name, value in self.options.items() if value is not None}

    def head(self) -> dict[str, Any]:
        """What the masks depend on: hashes of the weights, the whole preset, and options beside the device.

        Raises `CheckpointError`, and `UsageError` for an unknown preset or field.
        """
        from videoseg.models.checkpoints.folder import load_text, read_json
        from videoseg.models.checkpoints.hub import resolve
        from videoseg.models.checkpoints.r1 import is_r1, r1_preset
        from videoseg.systems import bundled_r1, tracker_weights

        options, remote = self.given(), bool(self.options.get("endpoint"))
        chosen: Preset | R1Preset
        if remote or options.get("system") == "r1" or is_r1(resolve(self.model)):
            folder = None if remote else resolve(bundled_r1(self.model))
            chosen = r1_preset(read_json(folder / "config.json") if folder else {})
        else:
            folder = resolve(self.model)
            own = load_text(folder, read_json(folder / "config.json")).preset
            chosen = preset(options["preset"]) if "preset" in options else own
        known = asdict(chosen).keys() | asdict(chosen).get("budget", {}).keys()
        chosen = chosen.override(**{name: value for name, value in options.items() if name in known})
        rest = {name: value for name, value in options.items() if name not in {*known, *NO_MATTER}}
        if chosen.tracker == "xmem":
            rest["xmem"] = tracker_weights(self.model, options.get("xmem"))
        rest |= {name: told(rest[name]) for name in SIDE_WEIGHTS if name in rest}
        return {"model": weights(folder) if folder else self.model, "preset": asdict(chosen), "options": rest}


def weights(folder: Path) -> dict[str, str]:
    """Hashes of a checkpoint's weights, by file."""
    from videoseg.models.checkpoints.folder import sha256

    return {file.name: sha256(file) for file in sorted(folder.glob("*.safetensors"))}


def told(source: str) -> Any:
    """Hashes of weights beside the model's: a file, a folder, or the name of bundled ones."""
    from videoseg.models.checkpoints.folder import sha256
    from videoseg.models.checkpoints.hub import ASSETS

    path = ASSETS / source if (ASSETS / source).is_dir() else Path(source)
    return sha256(path) if path.is_file() else weights(path) if path.is_dir() else source


def run(
    store: Store,
    groups: Sequence[Group],
    setup: Setup,
    pool: Pool | None = None,
    notify: Callable[[Step], None] | None = None,
) -> None:
    """Answer what is not answered yet; a video that fails is recorded and the others go on.

    Raises `WorkerError` where no worker can be prepared.
    """
    todo = [group for group in groups if not store.has(group.video)]
    total = sum(group.weight for group in groups)
    made = total - sum(group.weight for group in todo)
    if notify:
        notify(Step("", made, total))
    if not todo:
        return
    workers = (pool or Pool()).open(setup)
    if workers.count > 1:
        # A long video that comes last would keep one worker busy alone.
        todo.sort(key=lambda group: -group.weight)
    with closing(workers):
        for done in drain(workers, todo):
            group = todo[done.task]
            keep(store, group.video, done)
            made += group.weight
            if notify:
                notify(Step(group.video, made, total, done.failure.error if done.failure else ""))


def keep(store: Store, video: str, done: Done) -> None:
    """Write a task's end into the folder of the run."""
    if done.failure:
        store.fail(video, done.failure, done.attempts)
    else:
        store.save(video, done.value)


def answering(settings: Settings, pool: Pool) -> Answering:
    """What prepares the workers of a pool."""
    return Answering({"model": settings.model, **settings.given()}, 0 if pool.kind == "ray" else pool.count)


def provenance(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of all videos together: what they share, what differs as a list, and time and memory (contract 8)."""
    if not entries:
        return {"videos": 0}
    numbers = ("seconds", "peak_memory_mb", "peak_device_memory_mb", "frames", "expressions")
    shared = {name: _common([one.get(name) for one in entries]) for name in entries[0] if name not in numbers}
    peaks = {
        name: max(found)
        for name in ("peak_memory_mb", "peak_device_memory_mb")
        if (found := [one[name] for one in entries if one.get(name) is not None])
    }
    seconds = [float(one["seconds"]) for one in entries]
    return {
        **shared,
        "videos": len(entries),
        "frames": sum(int(one["frames"]) for one in entries),
        "expressions": sum(int(one["expressions"]) for one in entries),
        "seconds": round(float(np.sum(seconds)), 3),
        "seconds_per_video": round(float(np.mean(seconds)), 3),
        **peaks,
    }


def _common(values: Sequence[Any]) -> Any:
    distinct = [value for place, value in enumerate(values) if value not in values[:place]]
    return distinct[0] if len(distinct) == 1 else distinct
