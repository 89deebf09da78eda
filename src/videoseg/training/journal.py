"""Rollouts on disk: written before they are used, read again when a run goes on, so none is lost silently.

One file per step and process, `rollouts/000012.0-of-2.jsonl`; a line is a rollout with its sampled ids, and,
once the step is done, what it was worth.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from videoseg.errors import InputError
from videoseg.training.rollout import Rollout, Said

Line = dict[str, Any]


class RolloutJournal:
    """The rollouts of one process of a run."""

    def __init__(self, folder: Path, rank: int = 0, processes: int = 1) -> None:
        self._folder = folder
        self._name = f"{rank}-of-{processes}"
        folder.mkdir(parents=True, exist_ok=True)

    def write(
        self, step: int, rollouts: Sequence[Rollout], facts: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        """Write the rollouts of a step, whole or not at all; `facts` adds what is known of each by then."""
        path = self._path(step)
        lines = [
            json.dumps(_line(rollout) | dict(facts[number] if facts else {}), ensure_ascii=False)
            for number, rollout in enumerate(rollouts)
        ]
        partial = path.with_suffix(".partial")
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
        partial.replace(path)

    def read(self, step: int, prompts: Sequence[str]) -> list[Said] | None:
        """The replies stored for a step, whose rollouts answered `prompts` (keys); None if there are none.

        Raises InputError where the file answers other prompts: it belongs to another run.
        """
        path = self._path(step)
        if not path.is_file():
            return None
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if [line["prompt"] for line in lines] != list(prompts):
            raise InputError(
                f"{path}: holds rollouts of other prompts than this run asks; give the run another `out`"
            )
        return [Said(line["ids"], line["stopped"]) for line in lines]

    def _path(self, step: int) -> Path:
        return self._folder / f"{step:06d}.{self._name}.jsonl"


def _line(rollout: Rollout) -> Line:
    return {
        "prompt": rollout.prompt,
        "group": rollout.group,
        "stop": str(rollout.stop),
        "stopped": [not turn.truncated for turn in rollout.turns],
        "replies": list(rollout.texts),
        "ids": [list(turn.ids) for turn in rollout.turns],
    }
