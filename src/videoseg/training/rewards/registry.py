"""Which rewards a run uses: built-in ones by name, and those of the user's files (O3 specification §12.6)."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from videoseg.errors import RewardError
from videoseg.training.rewards import o3, o3_released, r1
from videoseg.training.rewards.base import Reward, is_trl_style

BUILT_IN = {
    item.name: item
    for item in (
        *o3.DEFAULT,
        *o3.OPTIONAL,
        *o3_released.RELEASED,
        *o3_released.RELEASED_OPTIONAL,
        *r1.R1,
        r1.R1_LENGTH,
    )
}
DEFAULT = tuple(item.name for item in o3.DEFAULT)
RELEASED = tuple(item.name for item in o3_released.RELEASED)


def choose(
    wanted: Mapping[str, float] | Sequence[str] = DEFAULT, files: Sequence[str | Path] = ()
) -> tuple[Reward, ...]:
    """The rewards named in `wanted`, with their own weights or with those given there.

    Names are looked up among the built-in rewards and those in `files`. A weight of 0 means: logged, but not
    in the sum. Raises RewardError on an unknown name, a name taken twice or an unusable file.
    """
    known = dict(BUILT_IN)
    for path in files:
        for item in load_file(path):
            if known.setdefault(item.name, item).function is not item.function:
                raise RewardError(f"{path}: the name {item.name!r} is taken by another reward; rename it")
    if unknown := sorted(set(wanted) - set(known)):
        raise RewardError(f"unknown reward {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    if isinstance(wanted, Mapping):
        return tuple(replace(known[name], weight=float(weight)) for name, weight in wanted.items())
    return tuple(known[name] for name in wanted)


def load_file(path: str | Path) -> tuple[Reward, ...]:
    """The rewards in a Python file: what `@reward` decorates, and functions in TRL's signature as they are.

    The file is executed. Raises RewardError if it cannot be, or holds no reward.
    """
    module = _execute(Path(path))
    found = tuple(item for value in vars(module).values() if (item := _as_reward(value, module)) is not None)
    if not found:
        raise RewardError(
            f"{path}: holds no reward; decorate a function with @reward or write one with a parameter "
            "named `completions`"
        )
    return found


def _as_reward(value: object, module: ModuleType) -> Reward | None:
    if isinstance(value, Reward):
        return value
    if not inspect.isfunction(value) or value.__module__ != module.__name__:
        return None
    if value.__name__.startswith("_") or not is_trl_style(value):
        return None
    return Reward(value.__name__, value)


def _execute(path: Path) -> ModuleType:
    name = f"videoseg_rewards_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise RewardError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (OSError, SyntaxError, ImportError) as error:
        raise RewardError(f"{path}: cannot be loaded ({error})") from error
    return module
