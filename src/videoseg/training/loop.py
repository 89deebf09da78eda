"""What all trainers share, thin over accelerate: devices, updates, a resumable state, metrics, interruption.

A run owns a folder: `metrics.jsonl`, TensorBoard files, and `state/step-N`, which appears by one rename, so
that a kill at any moment leaves a whole state. Randomness is seeded by what is drawn (`seed_for`), not by
history, so that a resumed run repeats what would have happened.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from videoseg.errors import CheckpointError, InterruptedRunError, UsageError
from videoseg.machine import versions
from videoseg.training.curves import read_records

B = TypeVar("B")
Report = Callable[[dict[str, Any]], None]
WEIGHTS = "trained.pt"
PACKAGES = ("torch", "transformers", "accelerate", "numpy")


@dataclass(frozen=True)
class RunSettings:
    """How a run is carried out, whatever it trains; `accumulation` micro-batches make one update."""

    out: str
    seed: int = 0
    bf16: bool = True
    accumulation: int = 1
    clip: float = 1.0
    save_minutes: float = 10.0
    device: str = "auto"


class Run:
    """One training run in its folder; use it as a context manager.

    `step` is the number of updates done. Raises UsageError where accelerate is missing or does not see the
    processes that were started.
    """

    def __init__(self, settings: RunSettings) -> None:
        self.settings = settings
        self.out = Path(settings.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.accelerator = make_accelerator(settings)
        self.step = 0
        self.kept: dict[str, Any] = {}
        self._started = self._saved = time.monotonic()
        self._interrupted = False
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Run:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        from accelerate.state import AcceleratorState

        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self.accelerator.end_training()
        # The next run of this process may want another device or precision.
        AcceleratorState._reset_state(reset_partial_state=True)

    def _interrupt(self, *_: object) -> None:
        if self._interrupted:  # the second time it is meant at once
            raise KeyboardInterrupt
        self._interrupted = True

    @property
    def is_main(self) -> bool:
        """Whether this process writes files."""
        return bool(self.accelerator.is_main_process)

    def prepare(self, module: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Hand module and optimizers to accelerate; `module` is the one that is called from now on."""
        state = self.accelerator.state
        if len(optimizers) > 1 and state.distributed_type in ("FSDP", "DEEPSPEED"):
            raise UsageError("FSDP and DeepSpeed take one optimizer: set optimizer to adamw")
        if state.deepspeed_plugin is not None:
            state.deepspeed_plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = 1
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["top_lr"] = group["lr"]
        self.module, *self.optimizers = self.accelerator.prepare(module, *optimizers)
        self.accelerator.register_save_state_pre_hook(_save_trained)
        self.accelerator.register_load_state_pre_hook(_load_trained)
        self.accelerator.init_trackers("")

    def update(self, batches: Iterable[B], loss: Callable[[B], Tensor], factor: float) -> float:
        """One update from `accumulation` micro-batches at `factor` of the top rates; the gradient's norm.

        `loss` calls `run.module`; the gradient is that of the mean over micro-batches and processes.
        """
        norm = 0.0
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = group["top_lr"] * factor
        for batch in batches:
            with self.accelerator.accumulate(self.module):
                self.accelerator.backward(loss(batch))
                if self.accelerator.sync_gradients:
                    clipped = self.accelerator.clip_grad_norm_(self.module.parameters(), self.settings.clip)
                    norm = _number(clipped)
                for optimizer in self.optimizers:
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return norm

    def describe(self, settings: Mapping[str, Any], **facts: Any) -> None:
        """Write `config.json`, to be read again, and `about.json`: versions, commit, seed and `facts`."""
        if self.is_main:
            about = {**versions(PACKAGES), "seed": self.settings.seed, **facts}
            for name, values in (("config", settings), ("about", about)):
                (self.out / f"{name}.json").write_text(json.dumps(values, indent=2) + "\n")

    def log(self, record: Mapping[str, Any], report: Report | None = None, steps: int = 0) -> None:
        """Write numbers, averaged over processes, as those of the update just done (`step` counts from 0).

        `report` gets them too, with the run's number of `steps` as `of`.
        """
        from accelerate.utils import gather_object

        gathered = gather_object([dict(record)])
        names = list(dict.fromkeys(name for one in gathered for name in one))
        means = {name: _mean([one[name] for one in gathered if name in one]) for name in names}
        if not self.is_main:
            return
        means |= {"step": self.step - 1, "seconds": round(time.monotonic() - self._started, 1)}
        with (self.out / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(means) + "\n")
        curves = {name: value for name, value in means.items() if isinstance(value, int | float)}
        self.accelerator.log({k: v for k, v in curves.items() if k != "step"}, step=self.step - 1)
        if report:
            report({**means, "of": steps})

    def keep_going(self) -> None:
        """Call after every update: saves when it is time, and on an interruption before it is raised."""
        due = time.monotonic() - self._saved > 60 * self.settings.save_minutes
        stop, due = self._agree(self._interrupted, due)
        if stop or due:
            self.save()
        if stop:
            raise InterruptedRunError(
                f"interrupted after step {self.step}; the state is in {self.out / 'state'}, the same command "
                "goes on from there"
            )

    def _agree(self, *wishes: bool) -> list[bool]:
        """What any process wishes, all do."""
        if self.accelerator.num_processes == 1:
            return list(wishes)
        flags = torch.tensor([float(wish) for wish in wishes], device=self.accelerator.device)
        return [bool(value > 0) for value in self.accelerator.reduce(flags, "sum")]

    def save(self) -> None:
        """Write `state/step-N` with one rename at the end, then drop older states."""
        home, name = self.out / "state", f"step-{self.step:08d}"
        if (home / name).exists():
            return
        part = home / f"{name}.part"
        if self.is_main:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(part))
        self.accelerator.wait_for_everyone()
        if self.is_main:
            (part / "run.json").write_text(json.dumps({"step": self.step, **self.kept}))
            part.replace(home / name)
            for other in home.iterdir():
                if other.name != name:
                    shutil.rmtree(other)
        self.accelerator.wait_for_everyone()
        self._saved = time.monotonic()

    def resume(self, **same: Any) -> int:
        """Load the last state, if there is one; returns the number of updates done.

        `same` must be equal to what it was when the run began (JSON values), else UsageError. Later records
        are taken off the metrics, as the steps are done again.
        """
        state = last_state(self.out)
        if state is None:
            self.kept = {**self.kept, **same}
            return 0
        found = json.loads((state / "run.json").read_text())
        changed = [name for name, value in same.items() if found.get(name) != value]
        if changed:
            told = "; ".join(f"{name} was {found.get(name)}, is {same[name]}" for name in changed)
            raise UsageError(f"{self.out}: the run there cannot go on: {told}. Choose another `out`")
        self.accelerator.load_state(str(state))
        self.step = found.pop("step")
        self.kept = found
        if self.is_main:
            _trim(self.out / "metrics.jsonl", self.step)
        return self.step


def make_accelerator(settings: RunSettings) -> Any:
    """accelerate's object of devices and processes; UsageError if it does not see all processes."""
    try:
        from accelerate import Accelerator
        from accelerate.utils import ProjectConfiguration
    except ImportError as error:
        raise UsageError("training needs accelerate; pip install 'videoseg[train]'") from error
    accelerator = Accelerator(
        cpu=settings.device == "cpu" or not torch.accelerator.is_available(),
        mixed_precision="bf16" if settings.bf16 else "no",
        gradient_accumulation_steps=settings.accumulation,
        log_with="tensorboard",
        project_config=ProjectConfiguration(project_dir=settings.out, logging_dir=settings.out),
    )
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != started:
        raise UsageError(
            f"{started} processes were started, but accelerate works with {accelerator.num_processes}; on a "
            "CPU it knows plain data parallelism only (accelerate launch --cpu)"
        )
    return accelerator


def seed_for(*numbers: int) -> None:
    """Seed torch by what is about to be drawn, for example (seed, position in the data)."""
    mixed = 0
    for number in numbers:
        mixed = (mixed * 1_000_003 + number + 1) % (2**63 - 1)
    torch.manual_seed(mixed)


def last_state(out: Path) -> Path | None:
    """The newest whole state of a run."""
    states = sorted(path for path in (out / "state").glob("step-*") if path.suffix != ".part")
    return states[-1] if states else None


def load_trained(module: nn.Module, state: Path) -> None:
    """Put the trained weights of a saved state into a module like the one that was trained.

    Raises CheckpointError where they do not fit or were saved in shards.
    """
    file = state / WEIGHTS
    if not file.is_file():
        raise CheckpointError(f"{state}: no {WEIGHTS}; states of sharded runs are merged by resuming them")
    saved = torch.load(file, map_location="cpu", weights_only=True)
    own = {**dict(module.named_parameters()), **_statistics(module)}
    strangers = [name for name in saved if name not in own or own[name].shape != saved[name].shape]
    absent = [name for name, value in own.items() if value.requires_grad and name not in saved]
    if strangers or absent:
        raise CheckpointError(f"{file}: saved with other settings ({', '.join((strangers + absent)[:5])})")
    with torch.no_grad():
        for name, value in saved.items():
            own[name].copy_(value)


def _save_trained(models: list[nn.Module], weights: list[dict[str, Tensor]], folder: str) -> None:
    """Of a module that every process holds whole, keep what learns; the rest is in the initial checkpoint."""
    if not weights:
        return
    module = _bare(models[0])
    learning = {name: value for name, value in module.named_parameters() if value.requires_grad}
    kept = {name: value.detach().cpu() for name, value in {**learning, **_statistics(module)}.items()}
    weights.clear()
    file = Path(folder) / WEIGHTS
    if int(os.environ.get("RANK", "0")) == 0:
        torch.save(kept, file)


def _statistics(module: nn.Module) -> dict[str, Tensor]:
    """What a module gathers beside its parameters: the buffers of its batch norms."""
    return {
        f"{name}.{part}": value
        for name, norm in module.named_modules()
        if isinstance(norm, nn.BatchNorm2d)
        for part, value in norm.named_buffers()
    }


def _load_trained(models: list[nn.Module], folder: str) -> None:
    while models:
        load_trained(_bare(models.pop()), Path(folder))


def _bare(module: nn.Module) -> nn.Module:
    inner = getattr(module, "module", module)
    return inner if isinstance(inner, nn.Module) else module


def _number(value: Any) -> float:
    """A norm as accelerate returns it: a tensor, one in shards, or nothing."""
    whole = value.full_tensor() if hasattr(value, "full_tensor") else value
    return 0.0 if whole is None else float(whole)


def _mean(values: Sequence[Any]) -> Any:
    """The mean of numbers; of anything else the first."""
    if not all(isinstance(value, int | float) for value in values):
        return values[0]
    return values[0] if len(values) == 1 else sum(values) / len(values)


def _trim(metrics: Path, step: int) -> None:
    """Drop the records of steps that will be done again, and a last line that was cut off."""
    if not metrics.exists():
        return
    lines = metrics.read_text().splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        metrics.write_text("".join(lines[:-1]))
    kept = [record for record in read_records(metrics) if record["step"] < step]
    fresh = metrics.with_suffix(".part")
    fresh.write_text("".join(json.dumps(record) + "\n" for record in kept))
    fresh.replace(metrics)
