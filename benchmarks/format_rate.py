"""How many generated dialogues are valid, by the grammar and by the strict format reward (spec §12.6).

    python benchmarks/format_rate.py --model tiny --dialogues 2000 --temperature 1

Dialogues are about clips of the test split of the generated world, text only, many at a time. The strict
check wants a [SEG] in every turn, so it is counted over questions that have an answer; every dialogue that is
not valid is listed by its stop reason.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter

import torch
from common import RESULTS, command, commit, machine

from videoseg.data.world.sampler import TEST_SEEDS, WorldSpec
from videoseg.models.checkpoints.folder import load_folder
from videoseg.models.checkpoints.hub import resolve
from videoseg.training.prompts import WorldPrompts
from videoseg.training.rewards.base import Outcome
from videoseg.training.rewards.o3 import format_reward
from videoseg.training.rollout import CachedGenerator, Rollout, Sampling, roll_out, view_of
from videoseg.types import StopReason

ROWS = 32


def main() -> None:
    """Play the dialogues and write `results/format_rate_<temperature>.json`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--dialogues", type=int, default=2000)
    parser.add_argument("--temperature", type=float, default=0.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load_folder(resolve(options.model))
    generator = CachedGenerator(model, model.text.preset, Sampling(options.temperature, 1.0, 0), ROWS)
    source = WorldPrompts(TEST_SEEDS.start + 100_000, WorldSpec())
    played: list[tuple[str, Rollout]] = []
    while len(played) < options.dialogues:
        count = min(ROWS, options.dialogues - len(played))
        prompts = [source[number] for number in range(len(played), len(played) + count)]
        views = [view_of(prompt, model, model.text.preset) for prompt in prompts]
        with torch.no_grad():
            rollouts = roll_out(generator, prompts, views, model.text.preset, 1, seed=len(played))
        played += [(prompt.kind, rollout) for prompt, rollout in zip(prompts, rollouts, strict=True)]
        print(f"{len(played)} of {options.dialogues}", flush=True)
    write(played, options)


def write(played: list[tuple[str, Rollout]], options: argparse.Namespace) -> None:
    answered = [rollout.stop is StopReason.ANSWER for _, rollout in played]
    asked = [rollout for kind, rollout in played if kind != "none"]
    strict = [format_reward(outcome(rollout)) > 0 for rollout in asked]
    result = {
        "name": "format_rate",
        "model": options.model,
        "temperature": options.temperature,
        "dialogues": len(played),
        "valid": sum(answered),
        "stop": dict(Counter(rollout.stop.value for _, rollout in played)),
        "with_an_answer": len(asked),
        "strict": sum(strict),
        "turns": dict(Counter(len(rollout.turns) for _, rollout in played)),
        "machine": machine(),
        "commit": commit(),
        "command": command(),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"format_rate_t{options.temperature:g}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(
        {name: result[name] for name in ("dialogues", "valid", "with_an_answer", "strict", "stop", "turns")}
    )


def outcome(rollout: Rollout) -> Outcome:
    """The texts alone: the format does not depend on masks."""
    turns = len(rollout.turns)
    return Outcome(rollout.texts, (True,), ((0.0,),) * turns, (0.0,) * turns)


if __name__ == "__main__":
    main()
