"""Settings of training runs: YAML to frozen dataclasses, errors name the field. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from videoseg.errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank updates of rank `r`, scaled by alpha / r; the published ones are 128, 256 and 0.05.

    `targets` are names of linear layers of the language model's blocks; empty means every one of them.
    """

    r: int = 128
    alpha: int = 256
    dropout: float = 0.05
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.r < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise UsageError(f"lora needs r >= 1, alpha > 0 and a dropout in [0, 1), got {self}")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping that a YAML file holds. Raises UsageError if it cannot be read or is no mapping."""
    import yaml  # type: ignore[import-untyped]

    try:
        values = yaml.safe_load(Path(path).read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: cannot be read as YAML ({error})") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path}: a mapping of field names to values is needed")
    return values


def read_settings(kind: type[T], path: str | Path, overrides: Mapping[str, Any] | None = None) -> T:
    """A YAML file as settings of a dataclass; `overrides` win.

    An override of a nested group replaces the fields that it has; `a.b` names field b of group a. Raises
    UsageError on a field that is unknown, missing or of another type.
    """
    values = _merged(kind, read_yaml(path), _nested(overrides or {}))
    return build_settings(kind, values, str(path))


def build_settings(kind: type[T], values: Mapping[str, Any], where: str = "config") -> T:
    """Plain values as settings of a dataclass, nested ones included; UsageError names the field."""
    if unknown := sorted(_unknown(kind, values, "")):
        known = ", ".join(sorted(item.name for item in fields(kind)))  # type: ignore[arg-type]
        raise UsageError(f"{where}: unknown field {', '.join(unknown)}; there are {known}")
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        told = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise UsageError(f"{where}: {'; '.join(told)}") from error


def _unknown(kind: Any, values: Any, prefix: str) -> Iterator[str]:
    """Names in `values` that the dataclass, or one nested in it, does not have."""
    if isinstance(values, list | tuple):
        for number, value in enumerate(values):
            yield from _unknown(kind, value, f"{prefix[:-1]}[{number}].")
        return
    if not isinstance(values, Mapping):
        return
    hints = get_type_hints(kind)
    for name, value in values.items():
        if name not in hints:
            yield f"{prefix}{name}"
            continue
        for inner in (hints[name], *get_args(hints[name])):
            if is_dataclass(inner):
                yield from _unknown(inner, value, f"{prefix}{name}.")


def _nested(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Names with dots as groups of groups."""
    values: dict[str, Any] = {}
    for path, value in overrides.items():
        *groups, name = path.split(".")
        home = values
        for group in groups:
            home = home.setdefault(group, {})
        home[name] = value
    return values


def _merged(kind: Any, values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`overrides` over `values`; groups (nested dataclasses) are merged, anything else is replaced."""
    hints = get_type_hints(kind)
    merged = dict(values)
    for name, value in overrides.items():
        groups = [each for each in (hints.get(name), *get_args(hints.get(name))) if is_dataclass(each)]
        if groups and isinstance(value, Mapping):
            value = _merged(groups[0], merged.get(name) or {}, value)
        merged[name] = value
    return merged
