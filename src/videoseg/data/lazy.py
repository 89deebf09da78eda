"""Data: annotation files that are too large to hold, read member by member (design contract 1).

A JSON file is walked once to note where each member of a list or object begins and ends; members are
parsed when they are asked for. Files are opened for every read, so readers can be copied to workers.
"""

from __future__ import annotations

import io
import json
import mmap
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from videoseg.errors import DatasetError

Span = tuple[int, int]

STRING = rb'"[^"\\]*+(?>\\.[^"\\]*+)*+"'
# A flat object is one token: the lists of a mask dictionary hold little else.
TOKEN = re.compile(
    rb"(?P<flat>\{(?>[^{}\"]++|" + STRING + rb")*+\})|(?P<string>" + STRING + rb")|[\[\]{}]", re.S
)
SPACE = re.compile(rb"[\s]*+")
SCALAR = re.compile(rb"[^\s,\]}]++")
KEY = re.compile(rb"\s*+(" + STRING + rb")\s*+:\s*+", re.S)


def require_file(path: Path, what: str) -> Path:
    """`path` if it is a file; raises `DatasetError` that says what it should hold."""
    if not path.is_file():
        raise DatasetError(f"{path}: no such file; it should hold {what}. Check the folder and its layout")
    return path


def find_path(what: str, *candidates: Path) -> Path:
    """The first candidate that exists; raises `DatasetError` naming all of them."""
    for path in candidates:
        if path.exists():
            return path
    listed = " or ".join(str(path) for path in candidates)
    raise DatasetError(f"{listed}: not found; it should hold {what}. Check the folder and its layout")


def read_json(path: Path, what: str) -> Any:
    """Parse a whole file (for small ones); raises `DatasetError` that names it."""
    require_file(path, what)
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise DatasetError(f"{path}: not valid JSON ({error}); the file may be incomplete") from error


def members(path: Path, span: Span | None = None) -> Iterator[tuple[str | int, Span]]:
    """Key (or index) and place of every member of the object or list at `span`, or of the whole file.

    Raises `DatasetError` with the byte offset where the text is no JSON object or list.
    """
    if path.stat().st_size == 0:
        raise DatasetError(f"{path}: the file is empty; fetch it again")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        yield from _walk(text, path, _skip(text, span[0] if span else 0))


def _walk(text: mmap.mmap, path: Path, start: int) -> Iterator[tuple[str | int, Span]]:
    opening = text[start : start + 1]
    if opening not in (b"{", b"["):
        raise _broken(path, start, "a list or an object is expected")
    closing, position, index = (b"}" if opening == b"{" else b"]"), start + 1, 0
    while True:
        position = _skip(text, position)
        if text[position : position + 1] == closing:
            return
        key: str | int = index
        if opening == b"{":
            found = KEY.match(text, position)
            if found is None:
                raise _broken(path, position, "a quoted key is expected")
            key, position = json.loads(found[1]), found.end()
        end = _value_end(text, path, _skip(text, position))
        yield key, (_skip(text, position), end)
        index, position = index + 1, _skip(text, end)
        mark = text[position : position + 1]
        if mark == b",":
            position += 1
        elif mark != closing:
            raise _broken(path, position, "a comma or the end of the list is expected")


def _skip(text: mmap.mmap, position: int) -> int:
    found = SPACE.match(text, position)
    return found.end() if found else position


def _value_end(text: mmap.mmap, path: Path, start: int) -> int:
    """Where the value that begins at `start` ends."""
    if text[start : start + 1] not in (b"{", b"[", b'"'):
        found = SCALAR.match(text, start)
        if found is None:
            raise _broken(path, start, "a value is expected")
        return found.end()
    depth = 0
    for token in TOKEN.finditer(text, start):
        mark = token[0]
        if mark in (b"[", b"{"):
            depth += 1
        elif mark in (b"]", b"}"):
            depth -= 1
        if depth <= 0:
            return token.end()
    raise _broken(path, start, "what begins here never ends")


def _broken(path: Path, position: int, why: str) -> DatasetError:
    return DatasetError(f"{path}: not valid JSON at byte {position}: {why}; the file may be incomplete")


def read_span(path: Path, span: Span) -> Any:
    """Parse the JSON value at `span`."""
    with path.open("rb") as file:
        file.seek(span[0])
        text = file.read(span[1] - span[0])
    try:
        return json.loads(text)
    except ValueError as error:
        raise DatasetError(f"{path}: not valid JSON at byte {span[0]} ({error}); repair the file") from error


class LazyList(Sequence[Any]):
    """The elements of a JSON list, each parsed when it is read."""

    def __init__(self, path: Path, span: Span | None = None) -> None:
        self.path = path
        self._spans = [place for _, place in members(path, span)]

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: Any) -> Any:
        return read_span(self.path, self._spans[index])


class LazyDict(Mapping[str, Any]):
    """The members of a JSON object, each parsed when it is read; a list counts as keys "0", "1", ..."""

    def __init__(self, path: Path, span: Span | None = None) -> None:
        self.path = path
        self.spans = {str(key): place for key, place in members(path, span)}

    def __len__(self) -> int:
        return len(self.spans)

    def __iter__(self) -> Iterator[str]:
        return iter(self.spans)

    def __getitem__(self, key: str) -> Any:
        return read_span(self.path, self.spans[key])


class LazyLines(Sequence[Any]):
    """The lines of a JSONL file, each parsed when it is read; blank lines do not count."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.numbers: list[int] = []
        self._places: list[int] = []
        place = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    self.numbers.append(number)
                    self._places.append(place)
                place += len(line)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        with self.path.open("rb") as file:
            file.seek(self._places[index])
            line = file.readline()
        try:
            return json.loads(line)
        except ValueError as error:
            raise DatasetError(
                f"{self.path}, line {self.numbers[index]}: not valid JSON ({error}); repair the line"
            ) from error


PICKLE_ERRORS = (
    pickle.UnpicklingError,
    EOFError,
    AttributeError,
    ImportError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
    MemoryError,
    OverflowError,
)


class _PlainUnpickler(pickle.Unpickler):
    """Builds lists, dictionaries, numbers and strings only: a pickle from elsewhere may hold code."""

    allowed = frozenset({("_codecs", "encode"), ("collections", "OrderedDict")})

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.allowed:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def read_pickle(path: Path, what: str) -> Any:
    """Read a pickle of plain data, Python 2 ones included; raises `DatasetError` for anything else."""
    require_file(path, what)
    try:
        return _PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except PICKLE_ERRORS as error:
        raise DatasetError(f"{path}: not a pickle of plain data ({error}); fetch it again") from error
