"""`videoseg convert`: checkpoints from and to foreign layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from videoseg.cli.show import console
from videoseg.errors import OutputError, UsageError

Layout = Literal["o3", "stock"]


def convert(
    source: str,
    target: str,
    *,
    to: Layout = "o3",
    sam2: str | None = None,
    sam2_image_size: int = 1024,
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16",
    seed: int = 0,
    overwrite: bool = False,
) -> int:
    """Convert a checkpoint; every key must find its place.

    Args:
        source: an O3 checkpoint (name, folder, hub id), or with --sam2 a stock Qwen3-VL folder
        target: folder to write
        to: o3 (official and our own layout) or stock (a Qwen3-VL folder and sam2.pt in Meta's layout)
        sam2: Meta's SAM2 weights (.pt, .safetensors), joined with a stock Qwen3-VL to an untrained O3 model
        sam2_image_size: side of SAM2's input, which no file holds
        dtype: type of the weights written
        seed: draws the new projector
        overwrite: write into a folder that holds something
    """
    import torch

    from videoseg.models.checkpoints.folder import DTYPES, load_folder, save_folder
    from videoseg.models.checkpoints.hub import resolve
    from videoseg.models.checkpoints.stock import from_stock, to_stock

    folder = Path(target)
    if folder.exists() and any(folder.iterdir()) and not overwrite:
        raise OutputError(f"{folder} holds something already; give another folder or --overwrite")
    if sam2 and to == "stock":
        raise UsageError("--sam2 joins stock weights to an O3 model; it cannot go with --to stock")
    wanted: torch.dtype = DTYPES[dtype]
    if sam2:
        model = from_stock(resolve(source), Path(sam2), sam2_image_size=sam2_image_size, seed=seed)
    else:
        model = load_folder(resolve(source), dtype="float32", sam2_image_size=sam2_image_size)
    if to == "stock":
        to_stock(model, folder, wanted)
    else:
        save_folder(model, folder, wanted)
    console.print(f"written to {folder}")
    return 0
