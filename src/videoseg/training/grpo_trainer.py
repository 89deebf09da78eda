"""The trainer of stage III: rollouts, updates, metrics and pages, step by step (O3 specification §12).

The algorithm is in `grpo_update`, the plumbing in `loop`, the system behind `Task`. Every process plays the
same number of groups and runs the same number of passes, whatever the turns of its dialogues (users, R4).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videoseg.errors import CollapseError, UsageError
from videoseg.machine import peak_memory_mb
from videoseg.models.causal_blocks import cached_attention
from videoseg.models.vision_speed import prefer_plain_attention
from videoseg.training.dialogue_batch import DialogueBatch
from videoseg.training.grpo_config import GrpoConfig
from videoseg.training.grpo_metrics import Facts, Guard, facts_of, pass_record, step_record
from videoseg.training.grpo_parts import Parts, make_optimizer, open_parts
from videoseg.training.grpo_update import Memory, Method, Part, Step, Totals, judge, make_part, step
from videoseg.training.journal import RolloutJournal
from videoseg.training.loop import Report, Run, RunSettings
from videoseg.training.prompts import Prompt, PromptConfig, open_prompts
from videoseg.training.rewards.base import score
from videoseg.training.rewards.registry import choose
from videoseg.training.rollout import Rollout
from videoseg.training.rollout_page import PlayedGroup, write_page
from videoseg.training.schedule import linear

PAGE_GROUPS = 4
"""How many groups a page shows."""
EVAL_ROWS = 16
"""Held-out prompts that are answered together."""


def run_grpo(config: GrpoConfig, report: Report | None = None) -> Path:
    """Train; returns the finished checkpoint, `OUT/model`. The same call resumes an interrupted run.

    Raises CollapseError when a stop rule is met, InterruptedRunError on an interruption; both keep a state.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if config.batch % (processes * config.groups_per_pass):
        raise UsageError(
            f"batch ({config.batch} prompts) must be a multiple of processes x groups_per_pass "
            f"({processes} x {config.groups_per_pass}), so that every process runs the same number of passes"
        )
    passes = config.batch // (processes * config.groups_per_pass)
    settings = RunSettings(
        config.out, config.seed, config.bf16, passes, config.clip_norm, config.save_minutes, config.device
    )
    with Run(settings) as run:
        parts = open_parts(config, run)
        GrpoTrainer(config, run, parts, report).train()
        return parts.save(run.out / "model")


class GrpoTrainer:
    """Steps of one run."""

    def __init__(self, config: GrpoConfig, run: Run, parts: Parts, report: Report | None = None) -> None:
        self.config = config
        self.run = run
        self.parts = parts
        self._report = report
        self._rewards = choose(config.rewards, config.reward_files)
        self._method = Method(
            config.objective,
            config.calibration,
            config.mask_weight,
            config.group,
            config.least_spread,
            config.epsilon,
        )
        self._prompts = open_prompts(config.prompts)
        _require_whole_weights(run)
        run.prepare(parts.policy, [make_optimizer(parts.policy, config)])
        accelerator = run.accelerator
        self._rank, self._processes = int(accelerator.process_index), int(accelerator.num_processes)
        self._journal = RolloutJournal(run.out / "rollouts", self._rank, self._processes)
        self._guard = Guard(config.stop)
        self._seconds: dict[str, float] = {}

    def train(self) -> None:
        """All steps that are left."""
        config, run = self.config, self.run
        run.resume(config=_lasting(config))
        run.describe(asdict(config), model=self.parts.source)
        while run.step < config.steps * config.updates:
            number = run.step // config.updates
            record = self._held_out(number) | self.train_step(number)
            if number + 1 == config.steps:
                record |= self._held_out(config.steps)
            run.log(record, self._report, config.steps * config.updates)
            self._watch(record)
            run.keep_going()
        run.save()

    def train_step(self, number: int) -> dict[str, Any]:
        """Rollouts of step `number` and the updates on them; returns what to log, equal on all processes."""
        self._seconds = {}
        prompts = self._own_prompts(number)
        rollouts = self._rollouts(number, prompts)
        with self._timed("render"):
            parts = self._parts(rollouts, prompts)
        tokens = torch.tensor(
            float(sum(one.num_tokens for one in rollouts)), device=self.run.accelerator.device
        )
        totals = Totals(
            self.config.batch * self.config.group, int(self.run.accelerator.reduce(tokens, "sum"))
        )
        memories: list[Memory | None] = [None] * len(parts)
        for _ in range(self.config.updates):
            done, norm = self._update(number, parts, memories, totals)
            memories = [one.memory for one in done]
        known = [memory for memory in memories if memory is not None]
        facts = [
            fact
            for part, one in zip(parts, known, strict=True)
            for fact in facts_of(part.rollouts, one.outcomes, one.scores, one.advantages.values.tolist())
        ]
        self._journal.write(number, rollouts, facts)
        self._page(number, parts, known, facts)
        self.parts.task.release()
        zero = sum(one.advantages.zero_variance for one in known) / sum(
            one.advantages.groups for one in known
        )
        times = {f"seconds/{name}": round(value, 3) for name, value in self._seconds.items()}
        return (
            step_record(self._gathered(facts))
            | pass_record(done, self._processes)
            | {"zero_variance": zero, "norm": norm, "memory_mb": self._memory_mb()}
            | times
        )

    def _page(
        self, number: int, parts: Sequence[Part], known: Sequence[Memory], facts: Sequence[Facts]
    ) -> None:
        """The first groups of this step as a page, if it is time for one."""
        every, size = self.config.page_every, self.config.group
        if not every or number % every or not self.run.is_main:
            return
        part, memory = parts[0], known[0]
        groups = [
            PlayedGroup(
                part.prompts[start],
                part.rollouts[start : start + size],
                facts[start : start + size],
                memory.masks[start : start + size],
            )
            for start in range(0, min(len(part.rollouts), PAGE_GROUPS * size), size)
        ]
        write_page(self.run.out / "pages" / f"step-{number:06d}.html", number, groups)

    def _own_prompts(self, number: int) -> list[Prompt]:
        with self._timed("prompts"):
            own = self.config.batch // self._processes
            first = number * self.config.batch + self._rank * own
            return [self._prompts[first + place] for place in range(own)]

    def _rollouts(self, number: int, prompts: Sequence[Prompt]) -> list[Rollout]:
        """Those of the journal if the step was begun before, else fresh ones."""
        config, group = self.config, self.config.group
        first = self._rank * len(prompts)
        with self._timed("rollout"):
            said = self._journal.read(number, [prompt.key for prompt in prompts for _ in range(group)])
            if said is not None:
                return self.parts.task.restored(said, prompts, first)
            seed = int(np.random.SeedSequence([config.seed, number, self._rank]).generate_state(1)[0])
            with self._generating():
                rollouts = self.parts.task.rollouts(prompts, group, seed, first)
            self._journal.write(number, rollouts)
            return rollouts

    def _parts(self, rollouts: Sequence[Rollout], prompts: Sequence[Prompt]) -> list[Part]:
        size = self.config.group * self.config.groups_per_pass
        asked = [prompt for prompt in prompts for _ in range(self.config.group)]
        return [
            make_part(
                self.parts.task,
                rollouts[start : start + size],
                asked[start : start + size],
                self.parts.seg_id,
                self.parts.pad_id,
                self.config.group,
            )
            for start in range(0, len(rollouts), size)
        ]

    def _update(
        self, number: int, parts: Sequence[Part], memories: Sequence[Memory | None], totals: Totals
    ) -> tuple[list[Step], float]:
        """One update; the gradient is that of the loss of the whole batch."""
        done: list[Step] = []
        scale = len(parts) * self._processes  # `Run.update` takes the mean over passes and processes

        def loss(given: tuple[Part, Memory | None]) -> Tensor:
            part, memory = given
            reference = None if self.parts.reference is None else self._refer
            with self._timed("forward"):
                output = self.run.module(part.batch.to(self.run.accelerator.device))
            with self._timed("judge"):
                made = step(
                    part,
                    output,
                    self.parts.task,
                    self._rewards,
                    self._method,
                    totals,
                    reference=reference,
                    memory=memory,
                )
            done.append(made.without_graph())
            return made.loss * scale

        factor = linear(number, self.config.steps, self.config.warmup)
        with self._timed("update"):
            norm = self.run.update(zip(parts, memories, strict=True), loss, factor)
        return done, norm

    def _refer(self, batch: DialogueBatch) -> Tensor:
        if self.parts.reference is None:
            raise RuntimeError("this run has no reference")
        with self._timed("reference"), self.run.accelerator.autocast():
            return self.parts.reference(batch.to(self.run.accelerator.device))

    def _held_out(self, number: int) -> dict[str, float]:
        """Greedy answers to the held-out prompts, judged like rollouts; empty when it is not their turn.

        What is known of each prompt is written to `OUT/held_out/STEP.json`.
        """
        config = self.config
        if not config.eval_every or config.held_out is None:
            return {}
        if number % config.eval_every and number != config.steps:
            return {}
        facts = self._gathered(self._answer(config.held_out))
        if self.run.is_main:
            path = self.run.out / "held_out" / f"{number:06d}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(sorted(facts, key=lambda fact: fact["number"])))
        return {f"held_out/{name}": value for name, value in step_record(facts).items()}

    @torch.no_grad()
    def _answer(self, asked: PromptConfig) -> list[Facts]:
        """Facts of this process's share of the first `eval_prompts` prompts."""
        source, facts, task = open_prompts(asked), [], self.parts.greedy_task
        own = range(self._rank, self.config.eval_prompts, self._processes)
        for start in range(0, len(own), EVAL_ROWS):
            numbers = own[start : start + EVAL_ROWS]
            prompts = [source[number] for number in numbers]
            with self._generating():
                rollouts = task.rollouts(prompts, 1, 0, 0)
            part = make_part(task, rollouts, prompts, self.parts.seg_id, self.parts.pad_id)
            with self.run.accelerator.autocast():
                output = self.parts.policy(part.batch.to(self.run.accelerator.device))
            outcomes = [one.outcome for one in judge(part, output, task)]
            found = facts_of(rollouts, outcomes, score(self._rewards, outcomes), [0.0] * len(rollouts))
            facts += [{"number": number, **fact} for number, fact in zip(numbers, found, strict=True)]
            task.release()
        return facts

    def _gathered(self, facts: Sequence[Facts]) -> list[Facts]:
        from accelerate.utils import gather_object

        return list(gather_object(list(facts)))

    def _watch(self, record: dict[str, float]) -> None:
        try:
            self._guard.watch(record)
        except CollapseError:
            self.run.save()
            raise

    def _memory_mb(self) -> float:
        """The most memory this process has used so far: the GPU's, or its own where there is none."""
        device = self.run.accelerator.device
        if device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(device) / 2**20)
        return peak_memory_mb() or 0.0

    @contextmanager
    def _generating(self) -> Iterator[None]:
        on_cpu = self.run.accelerator.device.type == "cpu"
        self.parts.policy.eval()
        language = self.parts.vlm.model.model.language_model
        autocast = nullcontext() if on_cpu else self.run.accelerator.autocast()
        prefer_plain_attention(False)
        with torch.no_grad(), autocast, cached_attention(language):
            yield
        prefer_plain_attention(on_cpu)
        self.parts.policy.train()

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - started


def _require_whole_weights(run: Run) -> None:
    """Sampling reads all weights for every token, at another pace on every process."""
    plugin = run.accelerator.state.deepspeed_plugin
    if str(run.accelerator.distributed_type) == "FSDP" or (plugin and plugin.zero_stage == 3):
        raise UsageError(
            "GRPO samples with whole weights on every process: choose plain data parallelism or ZeRO-2 "
            "(configs/accelerate/ddp.yaml, zero2.yaml)"
        )


def _lasting(config: GrpoConfig) -> dict[str, Any]:
    """The settings that an interrupted run must keep."""
    values = asdict(config)
    for name in (
        "out",
        "device",
        "threads",
        "save_minutes",
        "page_every",
        "eval_every",
        "eval_prompts",
        "stop",
    ):
        del values[name]
    return dict(json.loads(json.dumps(values)))  # as it is read back
