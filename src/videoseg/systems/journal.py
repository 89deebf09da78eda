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
from filelock import FileLock, Timeout

from videoseg.errors import OutputError
from videoseg.tracking.run import TrackingRun

Line = tuple[int, int, dict[str, Any], float, float]
"""Query, frame, COCO run-length code, presence, score."""


OWN_NAMES = ("head.json", "dialogues.pt", "masks.jsonl", "state.pt", "lock")


class Journal:
    """The journal of one run in `folder`; it begins anew unless the folder holds one with the same `head`.

    Raises `OutputError` where the folder holds anything else, or another process is writing it now.
    """

    def __init__(self, folder: Path, head: dict[str, Any], every: int = 50) -> None:
        self.folder = folder
        self._every = every
        self._unsaved = 0
        self._lines = 0
        self._require_journal()
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / "lock")
        self._acquire()
        self.resumed = self._read_head() == json.loads(json.dumps(head))
        if not self.resumed:
            for name in OWN_NAMES[:-1]:
                (folder / name).unlink(missing_ok=True)
            _replace(folder / "head.json", lambda path: path.write_text(json.dumps(head)))

    def _require_journal(self) -> None:
        found = {path.name for path in self.folder.iterdir()} if self.folder.is_dir() else set()
        strangers = sorted(name for name in found - set(OWN_NAMES) if not name.endswith(".partial"))
        if strangers:
            raise OutputError(
                f"{self.folder} is in the way and no journal (it holds {strangers[0]}); move it"
            )

    def _acquire(self) -> None:
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise OutputError(
                f"{self.folder} is in use: the same command is running already; wait for it or stop it"
            ) from error

    def _read_head(self) -> Any:
        path = self.folder / "head.json"
        try:
            return json.loads(path.read_text()) if path.exists() else None
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
        self,
        run: TrackingRun,
        query: int,
        frame: int,
        code: dict[str, Any],
        presence: float,
        score: float,
        *,
        more: bool = False,
    ) -> None:
        """Append a mask; every now and then, between two frames, the trackers are stored too.

        `more` tells that the same prediction holds further masks, which come next.
        """
        with (self.folder / "masks.jsonl").open("a") as file:
            file.write(json.dumps([query, frame, code, presence, score]) + "\n")
        self._lines += 1
        self._unsaved += 1
        if self._unsaved >= self._every and run.between_frames and not more:
            data = {"lines": self._lines, "run": run.state()}
            _replace(self.folder / "state.pt", lambda path: torch.save(data, path))
            self._unsaved = 0

    def close(self) -> None:
        """Let others use the folder; what is in it stays for the next run."""
        self._lock.release()

    def discard(self) -> None:
        """Remove the folder: the run is complete."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def stamp(source: str) -> list[int] | None:
    """Size and time of change of a file; None for what is not one."""
    path = Path(source)
    if not path.is_file():
        return None
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _replace(path: Path, write: Any) -> None:
    """Write beside `path` and rename: a reader sees the old or the new file, never half of one."""
    partial = path.with_name(f".{path.name}.partial")
    write(partial)
    os.replace(partial, path)
