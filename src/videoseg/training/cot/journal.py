"""VTS-CoT builder: the journal, one line per finished sample, so that a killed run goes on (contract 7).

The first line says what the run is about. A line is written in one go and flushed to the disk; a torn last
line, which a kill can leave, is cut off when the file is opened again.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import ModuleType, TracebackType
from typing import IO, Any

from videoseg.errors import OutputError

locks: ModuleType | None
try:
    import fcntl

    locks = fcntl
except ImportError:  # Windows
    locks = None


class Journal:
    """Records by sample number in the file `path`; a context manager.

    `records` holds them without their `item`, the dialogue, which may be large with its masks and is read
    back on request; `written` in a record says whether it has one.

    Raises `OutputError` where the file cannot be written, belongs to a run with another `head`, is damaged,
    or is being written by another process.
    """

    def __init__(self, path: Path, head: dict[str, Any]) -> None:
        self.path = path
        self.records: dict[int, dict[str, Any]] = {}
        self._places: dict[int, int] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = path.open("a+b")
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error}); give another folder") from error
        try:
            self._lock()
            self._restore(json.loads(json.dumps(head)))
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, number: int, record: dict[str, Any]) -> None:
        """Keep the record of a finished sample."""
        place = self._append({"sample": number, **record})
        self._note(number, record, place)

    def item(self, number: int) -> Any:
        """The item of a record; None if it has none."""
        self._file.seek(self._places[number])
        return json.loads(self._file.readline())["item"]

    def _note(self, number: int, record: dict[str, Any], place: int) -> None:
        if number in self.records:
            return
        light = {name: value for name, value in record.items() if name not in ("item", "sample")}
        self.records[number] = {**light, "written": record.get("item") is not None}
        self._places[number] = place

    def _append(self, line: dict[str, Any]) -> int:
        try:
            place = self._file.seek(0, os.SEEK_END)
            self._file.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
            return place
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({error}); what is in it is kept") from error

    def _lock(self) -> None:
        if locks is None:
            return
        try:
            locks.flock(self._file, locks.LOCK_EX | locks.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(f"{self.path}: another run is writing it; wait for that one") from error

    def _restore(self, head: dict[str, Any]) -> None:
        self._file.seek(0)
        end = 0
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b"\n"):
                break
            record = self._parse(line, number)
            if number == 1:
                self._check_head(record, head)
            elif isinstance(record.get("sample"), int) and "item" in record:
                self._note(record["sample"], record, end)
            else:
                raise OutputError(f"{self.path}, line {number}: no record of a sample; remove that line")
            end += len(line)
        self._file.seek(end)
        self._file.truncate(end)
        if not end:
            self._append({"head": head})

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            record = json.loads(line)
        except ValueError as error:
            raise OutputError(
                f"{self.path}, line {number}: damaged ({error}); remove it, its sample is then made again"
            ) from error
        return record if isinstance(record, dict) else {}

    def _check_head(self, found: dict[str, Any], head: dict[str, Any]) -> None:
        there = found.get("head")
        if there == head:
            return
        if not isinstance(there, dict):
            raise OutputError(f"{self.path}: not a journal of this builder; move it, or give another folder")
        other = sorted(name for name in {*there, *head} if there.get(name) != head.get(name))
        raise OutputError(
            f"{self.path}: belongs to a run with other settings ({', '.join(other)}); repeat that command, "
            f"give another folder, or overwrite"
        )
