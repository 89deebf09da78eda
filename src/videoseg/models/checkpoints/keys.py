"""Renaming of state-dict keys, shared by every adapter between checkpoint layouts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TypeVar

from videoseg.errors import CheckpointKeysError

Table = Sequence[tuple[str, str]]
"""Pairs (prefix there, prefix here). `{i}`, `{j}` stand for digits, other `{name}` for lower-case words."""

Value = TypeVar("Value")
SHOWN = 10


def rename(state: Mapping[str, Value], table: Table, *, reverse: bool = False) -> dict[str, Value]:
    """Rename keys by the first pair whose prefix fits; the rest of a key, and keys that fit none, stay.

    The same table serves both directions (`reverse`). Raises CheckpointKeysError if two keys get one name.
    """
    result: dict[str, Value] = {}
    for name, value in state.items():
        new = rename_key(name, table, reverse=reverse)
        if new in result:
            raise CheckpointKeysError(f"two keys of the checkpoint become {new!r}; {name!r} is one of them")
        result[new] = value
    return result


def rename_key(name: str, table: Table, *, reverse: bool = False) -> str:
    """The new name of one key; see `rename`."""
    for there, here in table:
        source, target = (here, there) if reverse else (there, here)
        match = _pattern(source).match(name)
        if match:
            return target.format(**match.groupdict()) + name[match.end() :]
    return name


@cache
def _pattern(template: str) -> re.Pattern[str]:
    def group(match: re.Match[str]) -> str:
        kind = r"\d+" if match[1] in ("i", "j") else r"[a-z_]+"
        return f"(?P<{match[1]}>{kind})"

    return re.compile(re.sub(r"\\\{(\w+)\\\}", group, re.escape(template)))


def require_complete(missing: Iterable[str], unexpected: Iterable[str], where: str) -> None:
    """Raise CheckpointKeysError with the keys unless both lists are empty; `where` names the checkpoint."""
    lists = [("missing", sorted(missing)), ("unexpected", sorted(unexpected))]
    parts = [f"{len(names)} {kind}: {_listing(names)}" for kind, names in lists if names]
    if parts:
        raise CheckpointKeysError(
            f"the weights of {where} do not fit the model; {'; '.join(parts)}. "
            "Check that the file is the checkpoint of this model and of this version."
        )


def _listing(names: Sequence[str]) -> str:
    shown = ", ".join(names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"
