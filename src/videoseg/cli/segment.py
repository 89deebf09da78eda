"""`videoseg segment`: questions about one video, answered with masks and the reasoning."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from videoseg.cli.show import console, print_json, print_result, print_turn, progress_bar
from videoseg.errors import UsageError
from videoseg.types import Query, Result


def segment(
    video: str,
    query: list[str],
    *,
    model: str = "tiny",
    system: Literal["o3", "r1"] | None = None,
    out: str | None = None,
    preset: str | None = None,
    propagation: str | None = None,
    tracker: str | None = None,
    max_turns: int | None = None,
    overrides: dict[str, Any] | None = None,
    original_sam2: str | None = None,
    xmem: str | None = None,
    sam2: str | None = None,
    endpoint: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    device_map: str | None = None,
    temperature: float = 0.0,
    seed: int = 0,
    fps: float | None = None,
    png: bool = True,
    overlay: bool = True,
    alpha: bool = False,
    check: bool = True,
    overwrite: bool = False,
    resume: bool = True,
    json: bool = False,
) -> int:
    """Segment what the questions mean.

    Args:
        video: a video file, a folder of images, or a glob of images
        query: one or more questions
        model: tiny, videoseg-o3-2b, videoseg-o3-4b, a folder, hf:owner/name or ms:owner/name
        system: o3 or r1 (a Qwen2.5-VL or Qwen3-VL model with sam2 and xmem); without it the model tells
        out: folder for the results, default <video name>.videoseg; several questions get a subfolder each
        preset: default or released; without it the checkpoint's own
        propagation: inject_every_frame, inject_once, original_sam2 or per_frame
        tracker: what carries the keyframe's mask through the video: sam2 or xmem
        max_turns: at most so many looks
        overrides: further fields of the preset or its budget, such as '{"low_frames": 10}'
        original_sam2: Meta's unmodified SAM2 weights, for propagation original_sam2
        xmem: weights for tracker xmem (XMem.pth, a folder); tiny models bring their own
        sam2: for r1, SAM2's weights (sam2_hiera_large.pt); tiny models bring their own
        endpoint: for r1, address of an OpenAI-compatible endpoint that serves the model
        device: cpu, cuda, mps, or auto
        dtype: float32, bfloat16, float16, or auto
        device_map: spread the language model over several GPUs (auto, balanced), needs accelerate
        temperature: 0 is greedy
        seed: for sampling
        fps: read the video at this frame rate instead of all its frames
        png: write the masks as PNG files too
        overlay: write overlay.mp4
        alpha: write alpha.webm too, the video with all but the objects transparent
        check: decode the whole video once first, so that a damaged frame is found before the work
        overwrite: replace results that exist
        resume: keep progress beside the results, and go on with an interrupted run of the same command
        json: print the outcome as JSON on standard output
    """
    from videoseg.export.result import save
    from videoseg.systems import load
    from videoseg.systems.base import as_queries
    from videoseg.trace_json import trace_to_json
    from videoseg.video.reader import Video
    from videoseg.video.writer import write_alpha

    queries = as_queries(query)
    folders = [Path(folder) for folder in _folders(video, out, [q.id for q in queries])]
    for folder in folders:
        if folder.exists() and any(folder.iterdir()) and not overwrite:
            raise UsageError(f"{folder} holds something already; give --out or --overwrite")
    fields = {"propagation": propagation, "tracker": tracker, "max_turns": max_turns, **(overrides or {})}
    with Video(video, fps=fps) as opened:
        if check:
            opened.check()
        loaded = load(
            model,
            preset=preset,
            device=device,
            dtype=dtype,
            device_map=device_map,
            temperature=temperature or None,
            seed=seed,
            original_sam2=original_sam2,
            xmem=xmem,
            system=system,
            sam2=sam2,
            endpoint=endpoint,
            **{key: value for key, value in fields.items() if value is not None},
        )
        results = _run(loaded, opened, queries, _journal(folders[0], len(folders)) if resume else None)
        for result, folder in zip(results, folders, strict=True):
            save(result, folder, video=opened, overwrite=overwrite, png=png, overlay=overlay)
            if alpha:
                write_alpha(folder / "alpha.webm", opened, result.masklets)
            print_result(result, folder)
    if json:
        print_json(
            [
                {"folder": str(folder), "objects": len(result.masklets), "trace": trace_to_json(result.trace)}
                for result, folder in zip(results, folders, strict=True)
            ]
        )
    return 0


def _run(system: Any, video: Any, queries: list[Query], journal: Path | None) -> list[Result]:
    try:
        with progress_bar() as update:
            results: list[Result] = system.segment(
                video,
                queries,
                progress=update,
                notify=lambda row, turn: print_turn(queries[row], turn),
                journal=journal,
            )
    except KeyboardInterrupt:
        if journal:
            console.print("what was done is kept; the same command goes on from there")
        raise
    return results


def _journal(folder: Path, count: int) -> Path:
    """A hidden folder beside the results."""
    base = folder if count == 1 else folder.parent
    return base.with_name(f".{base.name}.journal")


def _folders(video: str, out: str | None, ids: list[str]) -> list[Path]:
    base = Path(out) if out else Path(f"{Path(video).stem or 'video'}.videoseg")
    return [base] if len(ids) == 1 else [base / f"query-{i}" for i in ids]
