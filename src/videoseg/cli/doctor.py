"""`videoseg doctor`: what this machine has, in one page (requirement R15)."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from videoseg import __version__
from videoseg.cli.show import console, print_json

REQUIRED = ("torch", "transformers", "numpy", "pillow", "av", "pycocotools", "scipy", "safetensors")
OPTIONAL = {
    "accelerate": "several GPUs, training",
    "peft": "LoRA",
    "modelscope": "the published O3 weights",
    "tensorboard": "training curves",
    "flash_attn": "faster attention",
}


def doctor(json: bool = False) -> int:
    """Report versions, devices, attention backends, codecs and weights; exit code 3 if something is missing.

    Args:
        json: print as JSON on standard output
    """
    report = {
        "videoseg": __version__,
        "python": platform.python_version(),
        "required": {name: _version(name) for name in REQUIRED},
        "optional": {name: _version(name) for name in OPTIONAL},
        "devices": _devices(),
        "codecs": _codecs(),
        "weights": _weights(),
    }
    if json:
        print_json(report)
    else:
        _print(report)
    return 0 if _healthy(report) else 3


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _devices() -> dict[str, Any]:
    import torch

    found: dict[str, Any] = {"cpu": {"threads": torch.get_num_threads()}}
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = round(properties.total_memory / 2**30, 1)
        found[f"cuda:{index}"] = {"name": properties.name, "memory_gb": memory}
    if torch.backends.mps.is_available():
        found["mps"] = {}
    return found


def _codecs() -> dict[str, bool]:
    import av

    def known(name: str, mode: str) -> bool:
        try:
            av.codec.Codec(name, mode)
        except ValueError:
            return False
        return True

    wanted = {"decode h264": ("h264", "r"), "decode hevc": ("hevc", "r"), "decode vp9": ("vp9", "r")}
    wanted |= {"decode av1": ("av1", "r"), "encode h264 (overlay)": ("libx264", "w")}
    return {label: known(*codec) for label, codec in wanted.items()}


def _weights() -> dict[str, str]:
    from videoseg.models.checkpoints.hub import KNOWN

    def state(entry: Any) -> str:
        if entry.folder is None:
            return "downloaded on first use"
        return "bundled" if (entry.folder / "model.safetensors").exists() else "MISSING"

    return {name: state(entry) for name, entry in KNOWN.items()}


def _healthy(report: dict[str, Any]) -> bool:
    complete = all(report["required"].values()) and all(report["codecs"].values())
    return complete and "MISSING" not in report["weights"].values()


def _print(report: dict[str, Any]) -> None:
    console.print(f"videoseg {report['videoseg']}, Python {report['python']}")
    for title in ("required", "optional", "devices", "codecs", "weights"):
        console.print(f"[bold]{title}[/bold]")
        for name, value in report[title].items():
            note = f"  [dim]({OPTIONAL[name]})[/dim]" if title == "optional" and name in OPTIONAL else ""
            console.print(f"  {name}: {_readable(value)}{note}")


def _readable(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {entry}" for key, entry in value.items()) or "yes"
    if value is None:
        return "not installed"
    return str(value) if isinstance(value, str) else ("yes" if value else "[red]no[/red]")
