"""One GRPO step, against a step that works as the released trainer does, on the same rollouts.

The baseline encodes the whole dialogue again every turn, the first observation once per rollout, decodes
masks during the rollout and again in training, and takes the log-softmax over the whole sequence (O3
specification §16 no. 22, design contracts 3, 4). Both sides say the same replies, those that a first run
sampled, use the same networks, attention and cache within a turn, and one group per training pass. Rewards
must be equal, log-probabilities within `TOLERANCE`; else the benchmark fails (in bfloat16 a mask may
differ by a pixel, so rewards by 0.05).
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from common import record
from torch import Tensor

from videoseg.models.causal_blocks import cached_attention
from videoseg.models.checkpoints.folder import load_folder
from videoseg.models.checkpoints.hub import resolve
from videoseg.models.o3 import O3Model
from videoseg.models.session import RowInput, Session
from videoseg.models.vision_speed import prefer_plain_attention
from videoseg.systems.images import ImageStore
from videoseg.systems.player import Player
from videoseg.training.calibration import Calibration
from videoseg.training.collate import DialogueRow, join_rows
from videoseg.training.grpo import Objective
from videoseg.training.grpo_config import GrpoConfig
from videoseg.training.grpo_update import Method, Part, Step, Totals, make_part, step
from videoseg.training.policy import Policy, PolicyOutput, Reference
from videoseg.training.preparation import choose_trained, make_fast
from videoseg.training.prompts import Prompt, PromptConfig, open_prompts
from videoseg.training.rewards.base import score
from videoseg.training.rewards.registry import choose
from videoseg.training.rollout import CachedGenerator, Rollout, Said, Sampling
from videoseg.training.task import O3Task

TOLERANCE = 1e-3
FAMILIES = {"appearance": 0.3, "motion": 0.3, "temporal": 0.2, "detail": 0.2}


class Forced:
    """A sampler that says given replies; rows whose dialogue is over have left."""

    def __init__(self, rollouts: Sequence[Rollout]) -> None:
        self._rollouts, self._turn = rollouts, -1
        self._current: list[tuple[int, ...]] = []

    def __call__(self, logits: Tensor, step: int) -> Tensor:
        if step == 0:
            self._turn += 1
            self._current = [r.turns[self._turn].ids for r in self._rollouts if self._turn < len(r.turns)]
        return torch.tensor([ids[min(step, len(ids) - 1)] for ids in self._current])


class ForcedGenerator(CachedGenerator):
    """Our generator, saying what was sampled before."""

    def __init__(self, model: O3Model, task: O3Task, rollouts: Sequence[Rollout]) -> None:
        super().__init__(model, task.preset, Sampling(), len(rollouts))
        self.model, self.preset, self.rollouts = model, task.preset, rollouts

    def play(self, episodes, views, seed):  # type: ignore[no-untyped-def]
        player = Player(self.model, self.preset, Forced(self.rollouts), read_again=False)
        played = player.play(episodes, views)
        return [Said([r.ids for r in one.replies], [r.stopped for r in one.replies]) for one in played]


class Bench:
    """The model, the prompts, their rollouts, and both ways to make a step of them."""

    def __init__(self, prompts: int, group: int, model: str, bf16: bool) -> None:
        self.bf16 = bf16
        config = GrpoConfig(out="unused", init=model)
        self.model = load_folder(resolve(model))
        make_fast(self.model, True, False)
        choose_trained(self.model, config)
        self.policy, self.reference = Policy(self.model), Reference(self.model.vlm)
        self.group = group
        self.rewards = choose()
        self.method = Method(Objective(), Calibration(), 0.2, group)
        source = open_prompts(PromptConfig(families=FAMILIES))
        self.prompts = [source[number] for number in range(prompts)]
        self.asked = [prompt for prompt in self.prompts for _ in range(group)]
        sampling = Sampling(1.0, 1.0, 0)
        preset = self.model.text.preset
        self.task = O3Task(self.model, preset, CachedGenerator(self.model, preset, sampling))
        with self.generating():
            self.sampled = self.task.rollouts(self.prompts, group, 0)
        self.totals = Totals(len(self.sampled), sum(rollout.num_tokens for rollout in self.sampled))
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def generating(self) -> Iterator[None]:
        prefer_plain_attention(False)
        with torch.no_grad(), cached_attention(self.model.vlm.model.model.language_model):
            yield
        prefer_plain_attention()

    def autocast(self) -> torch.autocast:
        """bfloat16 in the training passes, as the recipe has it; sampling is in float32 on a CPU."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.bf16)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        started = time.process_time()
        yield
        self.seconds[name] += time.process_time() - started

    def ours(self) -> tuple[list[np.ndarray], list[Tensor]]:
        """Rewards and log-probabilities per group."""
        task = O3Task(self.model, self.task.preset, ForcedGenerator(self.model, self.task, self.sampled))
        with self.timed("rollout"), self.generating():
            rollouts = task.rollouts(self.prompts, self.group, 0)
        assert rollouts == self.sampled
        found: list[tuple[np.ndarray, Tensor]] = []
        for part in self._parts(task, rollouts):
            with self.timed("forward"), self.autocast():
                output = self.policy(part.batch)
            made = self._loss(part, output, task, None)
            found.append((made.memory.scores.total, output.log_probs.detach()))
        return [one for one, _ in found], [two for _, two in found]

    def baseline(self) -> tuple[list[np.ndarray], list[Tensor]]:
        """The same as the released trainer goes about it."""
        rewards, log_probs = [], []
        for number, prompt in enumerate(self.prompts):
            group = self.sampled[number * self.group : (number + 1) * self.group]
            with self.timed("rollout"), self.generating():
                logits = self._play_again(prompt, group)
            task = O3Task(self.model, self.task.preset, self.task._generator)
            part = next(iter(self._parts(task, group, [prompt] * self.group)))
            rows = part.dialogue_rows
            with self.timed("judge"):
                outcomes = [
                    task.judge(rollout, prompt, row, masks).outcome
                    for rollout, row, masks in zip(group, rows, logits, strict=True)
                ]
                rewards.append(score(self.rewards, outcomes).total)
            apart = replace(part, batch=join_rows([_apart(row) for row in rows], self.model.end_id))
            with self.timed("forward"), self.autocast():
                output = self._whole_softmax(apart)
            self._loss(apart, output, task, self._whole_reference)
            log_probs.append(output.log_probs.detach())
        return rewards, log_probs

    def _parts(
        self, task: O3Task, rollouts: Sequence[Rollout], asked: Sequence[Prompt] | None = None
    ) -> Iterator[Part]:
        asked = asked or self.asked
        for start in range(0, len(rollouts), self.group):
            some = slice(start, start + self.group)
            with self.timed("render"):
                part = make_part(
                    task, rollouts[some], asked[some], self.model.seg_id, self.model.end_id, self.group
                )
            yield part

    def _loss(self, part: Part, output: PolicyOutput, task: O3Task, reference) -> Step:  # type: ignore[no-untyped-def]
        def refer(batch):  # type: ignore[no-untyped-def]
            with self.timed("reference"), self.autocast():
                return (reference or self.reference)(batch)

        started, before = time.process_time(), self.seconds["reference"]
        made = step(part, output, task, self.rewards, self.method, self.totals, reference=refer)
        self.seconds["loss"] += time.process_time() - started - (self.seconds["reference"] - before)
        with self.timed("backward"):
            made.loss.backward()
        return made

    def _play_again(self, prompt: Prompt, group: Sequence[Rollout]) -> list[Tensor]:
        """Every turn a fresh cache and fresh features per rollout, masks at once; logits per rollout."""
        renderer = self.model.text.renderer(prompt.frame_size, self.task.preset)
        logits: list[list[Tensor]] = [[] for _ in group]
        sam2 = self.model.sam2
        with self.autocast():
            high = sam2.encode(torch.stack([sam2.preprocess(prompt.frames[f]) for f in group[0].high_frames]))
        for turn in range(max(len(rollout.turns) for rollout in group)):
            here = [row for row, rollout in enumerate(group) if turn < len(rollout.turns)]
            session = Session(self.model.vlm, len(here))
            chunks = []
            for row in here:
                past = group[row].exchanges()[:turn]
                chunks.append(renderer.dialogue([*past, (group[row].turns[turn].observation, ())]))
            stores = [ImageStore(self.model.vlm, renderer, prompt.frames) for _ in here]
            session.extend(
                [RowInput(c.ids.tolist(), s.features(c.images)) for c, s in zip(chunks, stores, strict=True)]
            )
            said = [group[row].turns[turn].ids for row in here]
            replies = session.generate(
                lambda _, at, said=said: torch.tensor([ids[min(at, len(ids) - 1)] for ids in said]),
                self.model.stop_ids,
                self.task.preset.budget.max_new_tokens,
                renderer.forbidden_ids,
            )
            for row, reply in zip(here, replies, strict=True):
                if self.model.seg_id not in reply.ids:
                    continue
                place = len(reply.ids) - 1 - reply.ids[::-1].index(self.model.seg_id)
                with self.autocast():
                    prompt_token = sam2.prompt_language(self.model.embed(reply.states[place])[None])
                    key = sam2.encode(sam2.preprocess(prompt.frames[group[row].turns[turn].keyframe])[None])
                    frames = [high.select([number]) for number in range(len(high))] + [key]
                    logits[row] += [sam2.segment(frame, prompt_token).logits[:, 0] for frame in frames]
        side = sam2.image_size // 4
        return [torch.cat(masks) if masks else torch.zeros(0, side, side) for masks in logits]

    def _whole_softmax(self, part: Part) -> PolicyOutput:
        """Logits and log-softmax of every position, as one tensor."""
        output = self.policy.teacher(part.batch)
        log_softmax = torch.log_softmax(self.model.vlm.logits(output.states.norm).float(), dim=-1)
        tokens = part.batch.ids[output.rows, output.columns]
        chosen = log_softmax[output.rows, output.columns - 1].gather(1, tokens[:, None])[:, 0]
        return PolicyOutput(chosen, torch.zeros_like(chosen.detach()), output.mask_logits, output.anchor)

    @torch.no_grad()
    def _whole_reference(self, batch) -> Tensor:  # type: ignore[no-untyped-def]
        vlm = self.reference._vlm
        images = vlm.encode_images(batch.patches, batch.grids)
        rows = [[images[number] for number in numbers] for numbers in batch.images]
        positions = [vlm.rope_positions(ids, row) for ids, row in zip(batch.ids, rows, strict=True)]
        states = vlm(batch.ids, torch.stack(positions, dim=1), images=[i for row in rows for i in row])
        log_softmax = torch.log_softmax(vlm.logits(states.norm).float(), dim=-1)
        where, columns = batch.loss_mask.nonzero(as_tuple=True)
        return log_softmax[where, columns - 1].gather(1, batch.ids[where, columns][:, None])[:, 0]


def _apart(row: DialogueRow) -> DialogueRow:
    """A row that shares no image and no frame with the others."""
    return replace(row, patches=[p.clone() for p in row.patches], frames=[f.clone() for f in row.frames])


def main() -> None:
    """Measure and store the ratio; CPU seconds, so that other work on the machine counts less."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--bf16", action="store_true", help="training passes and masks in bfloat16")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(options.prompts, options.group, options.model, options.bf16)
    totals: dict[str, list[float]] = {"ours": [], "baseline": []}
    parts: dict[str, list[dict[str, float]]] = {"ours": [], "baseline": []}
    for run in range(options.runs + 1):  # the first run warms up
        for side in totals:
            bench.seconds.clear()
            found = getattr(bench, side)()
            bench.policy.zero_grad()
            if run:
                totals[side].append(sum(bench.seconds.values()))
                parts[side].append(dict(bench.seconds))
            if side == "ours":
                ours = found
    for one, other in zip(ours[0], found[0], strict=True):
        np.testing.assert_allclose(one, other, atol=0.05 if options.bf16 else 1e-4)
    gap = max(float((one - other).abs().max()) for one, other in zip(ours[1], found[1], strict=True))
    assert gap < TOLERANCE, gap
    middle = {
        side: {name: round(float(np.median([run[name] for run in runs])), 3) for name in runs[0]}
        for side, runs in parts.items()
    }
    record(
        "grpo_step_bf16" if options.bf16 else "grpo_step",
        totals["ours"],
        totals["baseline"],
        "CPU seconds per step",
        speedup=round(float(np.median(totals["baseline"]) / np.median(totals["ours"])), 3),
        seconds_by_part=middle,
        largest_reward_difference=max(
            float(np.abs(a - b).max()) for a, b in zip(ours[0], found[0], strict=True)
        ),
        largest_log_prob_difference=gap,
        rollouts=len(bench.sampled),
        different_rollouts=len({(one.prompt, one.texts) for one in bench.sampled}),
        prompts=options.prompts,
        group=options.group,
        turns=sum(len(rollout.turns) for rollout in bench.sampled),
        sampled_tokens=bench.totals.tokens,
        model=options.model,
        dtype="float32 sampling, bfloat16 training passes" if options.bf16 else "float32",
    )


if __name__ == "__main__":
    main()
