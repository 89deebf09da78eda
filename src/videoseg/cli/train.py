"""`videoseg train`: the stages, from a recipe; progress on the terminal."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videoseg.cli.show import console, progress_bar

if TYPE_CHECKING:
    from videoseg.training.config import SupervisedConfig


def supervised(
    recipe: str,
    *,
    out: str | None = None,
    data_root: str | None = None,
    plan: bool = False,
    overrides: dict[str, Any] | None = None,
) -> int:
    """Stages I and II, one loop; the recipe says which. An interrupted run goes on with the same command.

    Args:
        recipe: a YAML file such as configs/o3-2b-sft.yaml or configs/o3-2b-coldstart.yaml
        out: folder of the run, instead of the recipe's
        data_root: folder of the data sets, instead of the recipe's
        plan: only look whether everything is there, and say what the run would do
        overrides: other fields of the recipe, such as --overrides.steps 100 --overrides.weights.bce 4
    """
    return _supervised(recipe, {"out": out, "data_root": data_root}, overrides or {}, plan)


def grpo(
    recipe: str, *, out: str | None = None, plan: bool = False, overrides: dict[str, Any] | None = None
) -> int:
    """Stage III: GRPO over whole dialogues. An interrupted run goes on when the command is repeated.

    Args:
        recipe: a YAML file such as configs/tiny-grpo.yaml
        out: folder of the run, instead of the recipe's
        plan: only print tokens per step and memory per GPU, from the recipe and the checkpoint's config alone
        overrides: other fields of the recipe, such as --overrides.steps 100 --overrides.objective.beta 0.01
    """
    from videoseg.training.grpo_config import GrpoConfig
    from videoseg.training.settings import read_settings

    given = {**(overrides or {}), **({} if out is None else {"out": out})}
    config = read_settings(GrpoConfig, recipe, given)
    if plan:
        from videoseg.training.grpo_plan import plan_of

        console.print("\n".join(plan_of(config).lines()))
        return 0
    from videoseg.training.grpo_trainer import run_grpo

    with progress_bar() as update:
        folder = run_grpo(config, lambda record: _tell(_short(record), update))
    if os.environ.get("RANK", "0") == "0":
        console.print(f"written to {folder}")
    return 0


def words(recipe: str, *, overrides: dict[str, Any] | None = None) -> int:
    """Stage 0 of the tiny model: SAM2 learns masks from words; goes on when the command is repeated.

    Args:
        recipe: a YAML file such as configs/tiny-words.yaml
        overrides: fields of the recipe, such as --overrides.steps 100
    """
    from videoseg.training.stage0 import read_words_config, run

    with progress_bar() as update:
        written = run(read_words_config(recipe, **(overrides or {})), lambda record: _tell(record, update))
    console.print(f"written to {written}")
    return 0


def pipeline(recipe: str, *, out: str | None = None) -> int:
    """The tiny model from nothing: masks from words, SFT, cold start, and test scores after each.

    Args:
        recipe: a YAML file such as configs/tiny-quick.yaml
        out: folder of the run, instead of the recipe's
    """
    from videoseg.training.pipeline import PipelineConfig, run
    from videoseg.training.settings import read_settings

    config = read_settings(PipelineConfig, recipe, {"out": out} if out else None)
    summary = run(config, lambda stage, record: console.print(f"{stage}  {_line(record)}"))
    console.print_json(summary.read_text())
    return 0


def xmem(recipe: str, *, out: str | None = None, overrides: dict[str, Any] | None = None) -> int:
    """A small XMem on the generated world. An interrupted run goes on when the command is repeated.

    Args:
        recipe: a YAML file such as configs/tiny-xmem.yaml
        out: folder of the run, instead of the recipe's
        overrides: other fields of the recipe, such as --overrides.steps 100
    """
    from videoseg.training.settings import read_settings
    from videoseg.training.xmem import XMemConfig, run

    given = {**(overrides or {}), **({} if out is None else {"out": out})}
    folder = run(read_settings(XMemConfig, recipe, given), report=lambda record: console.print(_line(record)))
    console.print(f"written to {folder}")
    return 0


def export(run: str, *, out: str | None = None) -> int:
    """Write the model of a run's last state, finished or not, adapters merged.

    Args:
        run: the folder of the run
        out: where to write the checkpoint (default: `model` in that folder)
    """
    from videoseg.training.export import export_state

    console.print(f"written to {export_state(Path(run), Path(out or Path(run) / 'model'))}")
    return 0


def _supervised(recipe: str, given: dict[str, Any], overrides: dict[str, Any], plan: bool) -> int:
    from videoseg.training.config import read_config

    chosen = {name: value for name, value in given.items() if value is not None}
    config = read_config(recipe, **{**overrides, **chosen})
    if plan:
        return _plan(config)
    from videoseg.training.supervised import run

    with progress_bar() as update:
        folder = run(config, report=lambda record: _tell(record, update))
    if os.environ.get("RANK", "0") == "0":
        console.print(f"written to {folder}")
    return 0


def _plan(config: SupervisedConfig) -> int:
    from videoseg.training.dry_run import dry_run

    found = dry_run(config)
    for name, rows in found.rows.items():
        console.print(f"{name}: {rows} rows an epoch")
    console.print(
        f"{found.updates} updates of {found.rows_per_update} rows, from {found.init}, into {config.out}"
    )
    return 0


def _tell(record: dict[str, Any], update: Callable[[str, int, int], None]) -> None:
    console.print(_line(record))
    update("updates", record["step"] + 1, record["of"])


def _short(record: dict[str, Any]) -> dict[str, Any]:
    """What to watch of a GRPO step; metrics.jsonl has the rest."""
    names = ("step", "of", "reward/mean", "held_out/reward/mean", "well_formed", "turns", "frames_iou", "kl")
    return {name: record[name] for name in (*names, "entropy", "zero_variance", "seconds") if name in record}


def _line(record: dict[str, Any]) -> str:
    shown = (f"{name} {value:.4g}" for name, value in record.items() if name != "of")
    return "  ".join(shown)
