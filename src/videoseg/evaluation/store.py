"""Evaluation runner: the folder of a run: what is done, and whether it may go on (design contract 7)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from filelock import FileLock, Timeout

from videoseg.data.world.files import replace_file
from videoseg.errors import OutputError
from videoseg.evaluation.queue import Failure
from videoseg.evaluation.truth import Item

FORMAT = {"format": "videoseg-run", "version": 1}


@dataclass(frozen=True, slots=True)
class Store:
    """Finished videos in `predictions`, unfinished ones in `failures`; files appear whole."""

    folder: Path

    @property
    def predictions(self) -> Path:
        """The prediction files."""
        return self.folder / "predictions"

    def claim(self, head: dict[str, Any]) -> None:
        """Begin a run that depends on `head`, or go on with one.

        Raises `OutputError` where the folder holds a run that depends on something else, or no run at all.
        """
        wanted = json.loads(json.dumps({**FORMAT, **head}))
        path = self.folder / "run.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / ".lock", timeout=60):
                if path.exists():
                    _require_same(path, wanted)
                    return
                self._require_empty()
                for name in ("predictions", "failures"):
                    (self.folder / name).mkdir(exist_ok=True)
                replace_file(path, json.dumps(wanted, indent=2) + "\n")
        except (OSError, Timeout) as error:
            raise OutputError(
                f"{self.folder}: cannot be written ({error}); check rights and space"
            ) from error

    def _require_empty(self) -> None:
        strangers = sorted(one.name for one in self.folder.iterdir() if one.name != ".lock")
        if strangers:
            raise OutputError(
                f"{self.folder} holds {strangers[0]}, but no run of `videoseg eval`; give another --out"
            )

    def has(self, video: str) -> bool:
        """Whether the video's predictions are there."""
        return self._prediction(video).is_file()

    def save(self, video: str, text: str) -> None:
        """Keep the predictions of a video; an earlier failure is forgotten."""
        replace_file(self._prediction(video), text + "\n")
        self._failure(video).unlink(missing_ok=True)

    def fail(self, video: str, failure: Failure, attempts: int) -> None:
        """Keep why a video has no predictions."""
        entry = {"video": video, **asdict(failure), "attempts": attempts}
        replace_file(self._failure(video), json.dumps(entry, indent=2) + "\n")

    def failures(self, videos: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Failures of these videos, in their order."""
        paths = {video: self._failure(video) for video in videos}
        return {video: json.loads(path.read_text()) for video, path in paths.items() if path.is_file()}

    def provenances(self, videos: Iterable[str]) -> list[dict[str, Any]]:
        """Of every finished video: its `provenance`, with its numbers of frames and expressions."""
        return [_provenance(self._prediction(video)) for video in videos if self.has(video)]

    def _prediction(self, video: str) -> Path:
        return self.predictions / f"{quote(video, safe='')}.json"

    def _failure(self, video: str) -> Path:
        return self.folder / "failures" / f"{quote(video, safe='')}.json"


def digest(items: Iterable[Item]) -> str:
    """Names what is asked: keys, questions and frames, whatever the folder they come from."""
    found = hashlib.sha256()
    for item in items:
        found.update(json.dumps([item.key, item.text, item.stems]).encode())
    return found.hexdigest()[:16]


def _require_same(path: Path, wanted: dict[str, Any]) -> None:
    try:
        stored = json.loads(path.read_text())
    except ValueError as error:
        raise OutputError(f"{path} is no JSON ({error}); remove the folder or give another --out") from error
    if stored == wanted:
        return
    told = "; ".join(_difference(stored, wanted)) or "it is of another version"
    raise OutputError(
        f"{path.parent} holds predictions that were made otherwise: {told}. Give another --out, or remove it"
    )


def _difference(stored: Any, wanted: Any, at: str = "") -> list[str]:
    """`field: was this, now that` for every leaf that differs."""
    if not isinstance(stored, dict) or not isinstance(wanted, dict):
        return [] if stored == wanted else [f"{at}: was {_short(stored)}, now {_short(wanted)}"]
    names = [*wanted, *(name for name in stored if name not in wanted)]
    return [
        text
        for name in names
        for text in _difference(stored.get(name), wanted.get(name), f"{at}.{name}" if at else name)
    ]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _provenance(path: Path) -> dict[str, Any]:
    entries = list(_entries(json.loads(path.read_text())))
    return {
        **entries[0]["provenance"],
        "frames": len(entries[0]["frames"]),
        "expressions": len(entries),
    }


def _entries(document: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """Expressions, however deep the keys nest."""
    for value in document.values():
        if "prediction_masks" in value:
            yield value
        else:
            yield from _entries(value)
