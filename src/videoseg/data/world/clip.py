"""Writes generated clips: a real H.264 file beside a JSON file with the exact truth (design §5)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from videoseg.data.world.draw import Stage
from videoseg.data.world.sampler import Sample, WorldSpec, draw_sample
from videoseg.data.world.trace import true_trace
from videoseg.dialogue.grammar import format_reply
from videoseg.masks import Rle
from videoseg.video.sampling import sample_video
from videoseg.video.writer import VideoWriter

TRACE_FRAMES = 6
"""Low-resolution frames that the stored trace assumes to be shown first."""


def write_clip(sample: Sample, folder: Path | str, name: str | None = None, *, crf: int = 18) -> Path:
    """Write `NAME.mp4` and `NAME.json`; returns the path of the video.

    The JSON holds the scene, every thing's masks as COCO RLE per frame (null where nothing of it is
    visible), and the query with its targets and true trace. Raises OutputError where it cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    name = name or f"{sample.question.family}_{sample.scene.seed}"
    stage = Stage(sample.scene)
    masks: list[list[dict[str, Any] | None]] = [[] for _ in sample.scene.things]
    with VideoWriter(folder / f"{name}.mp4", sample.scene.fps, crf=crf) as writer:
        for index in range(sample.scene.num_frames):
            frame, visible = stage.frame(index)
            writer.write(frame)
            for codes, mask in zip(masks, visible, strict=True):
                codes.append(Rle.encode(mask).to_coco() if mask.any() else None)
    (folder / f"{name}.json").write_text(json.dumps(truth(sample, masks)) + "\n")
    return folder / f"{name}.mp4"


def truth(sample: Sample, masks: list[list[dict[str, Any] | None]]) -> dict[str, Any]:
    """What the JSON file holds."""
    scene, question = sample.scene, sample.question
    trace = true_trace(sample, sample_video(scene.num_frames, TRACE_FRAMES))
    query = {
        "id": "0",
        "text": question.text,
        "family": question.family,
        "targets": list(question.targets),
        "trace": [format_reply(reply) for reply in trace.replies],
    }
    things = [
        {"id": number, **asdict(thing), "masks": codes}
        for number, (thing, codes) in enumerate(zip(scene.things, masks, strict=True))
    ]
    size = {"width": scene.width, "height": scene.height, "num_frames": scene.num_frames, "fps": scene.fps}
    return {"seed": scene.seed, **size, "things": things, "queries": [query]}


def generate(
    folder: Path | str, seeds: Iterable[int], spec: WorldSpec | None = None, family: str | None = None
) -> list[Path]:
    """Write one clip per seed, all of one `family` if given; returns the paths of the videos."""
    chosen = spec or WorldSpec()
    return [write_clip(draw_sample(seed, chosen, family), folder) for seed in seeds]
