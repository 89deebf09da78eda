"""`videoseg train`: the supervised stages on the generated world."""

from __future__ import annotations

from typing import Any

from videoseg.cli.show import console


def sft(recipe: str, *, overrides: dict[str, Any] | None = None) -> int:
    """Run a supervised recipe; an interrupted run goes on when the command is repeated.

    Args:
        recipe: a YAML file such as configs/tiny-joint.yaml
        overrides: fields of the recipe to replace, such as '{"steps": 100, "out": "runs/short"}'
    """
    from videoseg.training.config import read_config
    from videoseg.training.supervised import run

    folder = run(read_config(recipe, **(overrides or {})), report=_report)
    console.print(f"written to {folder}")
    return 0


def _report(record: dict[str, Any]) -> None:
    shown = "  ".join(
        f"{name} {value:.4g}" for name, value in record.items() if isinstance(value, int | float)
    )
    console.print(shown)
