"""What an interrupted run leaves behind, so that the next one goes on where it stopped (design contract 7).

A folder with `head.json` (what the run is about), `dialogues.pt` (traces and targets), `masks.jsonl` (one
line per mask) and `state.pt` (the trackers, and how many lines were valid then). Losing the last few
frames is the price of not writing the trackers at every frame; a torn last line does no harm.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from videoseg.errors import OutputError
from videoseg.tracking.sam2 import TrackingRun

Line = tuple[int, int, dict[str, Any], float, float]
"""Query, frame, COCO run-length code, presence, score."""


class Journal:
    """The journal of one run in `folder`; it begins anew unless the folder holds one with the same `head`."""

    def __init__(self, folder: Path, head: dict[str, Any], every: int = 50) -> None:
        self.folder = folder
        self._every = every
        self._unsaved = 0
        self._lines = 0
        self.resumed = self._read_head() == json.loads(json.dumps(head))
        if not self.resumed:
            self.discard()
            folder.mkdir(parents=True)
            _replace(folder / "head.json", lambda path: path.write_text(json.dumps(head)))

    def _read_head(self) -> Any:
        path = self.folder / "head.json"
        if not path.exists():
            if self.folder.exists() and any(self.folder.iterdir()):
                raise OutputError(f"{self.folder} is in the way and not a journal; move it")
            return None
        try:
            return json.loads(path.read_text())
        except ValueError:
            return None

    def dialogues(self) -> Any:
        """What `keep_dialogues` stored, or None."""
        path = self.folder / "dialogues.pt"
        return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None

    def keep_dialogues(self, data: Any) -> None:
        """Store plain data and tensors."""
        _replace(self.folder / "dialogues.pt", lambda path: torch.save(data, path))

    def masks(self, run: TrackingRun) -> Iterator[Line]:
        """Bring `run` to where the journal ends and yield the masks up to there."""
        state = self.folder / "state.pt"
        if state.exists():
            saved = torch.load(state, map_location="cpu", weights_only=True)
            self._lines = saved["lines"]
            run.restore(saved["run"])
        path = self.folder / "masks.jsonl"
        path.touch()
        kept = 0
        with path.open("r+b") as file:
            for _ in range(self._lines):
                line = file.readline()
                kept += len(line)
                query, frame, code, presence, score = json.loads(line)
                yield query, frame, code, presence, score
            file.truncate(kept)

    def add(
        self, run: TrackingRun, query: int, frame: int, code: dict[str, Any], presence: float, score: float
    ) -> None:
        """Append a mask; every now and then, between two frames, the trackers are stored too."""
        with (self.folder / "masks.jsonl").open("a") as file:
            file.write(json.dumps([query, frame, code, presence, score]) + "\n")
        self._lines += 1
        self._unsaved += 1
        if self._unsaved >= self._every and run.between_frames:
            data = {"lines": self._lines, "run": run.state()}
            _replace(self.folder / "state.pt", lambda path: torch.save(data, path))
            self._unsaved = 0

    def discard(self) -> None:
        """Remove the folder: the run is complete, or another one."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _replace(path: Path, write: Any) -> None:
    """Write beside `path` and rename: a reader sees the old or the new file, never half of one."""
    partial = path.with_name(f".{path.name}.partial")
    write(partial)
    os.replace(partial, path)
