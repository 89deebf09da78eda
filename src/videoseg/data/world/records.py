"""Generated world: the truth of a clip as entries of dataset files (benchmarks §3.1, §3.2, §4.2).

A record is what a worker hands over: plain JSON, numbered within its clip. The functions below turn it
into entries once the clip's place in the set is known; `base` is the number of its first object.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from videoseg.data.world.sampler import Sample
from videoseg.data.world.trace import true_trace
from videoseg.dialogue.episode import Episode, TextPart
from videoseg.dialogue.grammar import format_reply
from videoseg.dialogue.preset import Preset
from videoseg.dialogue.prompts import SYSTEM_PROMPT
from videoseg.types import Role, Select

Record = dict[str, Any]
Codes = Sequence[Sequence[dict[str, Any] | None]]


def record(sample: Sample, codes: Codes, shown: Preset) -> Record:
    """Everything that the files say of one clip; `codes[thing][frame]` is null where nothing is visible."""
    scene, question = sample.scene, sample.question
    return {
        "seed": scene.seed,
        "num_frames": scene.num_frames,
        "query": question.text,
        "family": question.family,
        "targets": list(question.targets),
        "shapes": [thing.shape for thing in scene.things],
        "codes": codes,
        **played(sample, shown),
    }


def played(sample: Sample, shown: Preset) -> Record:
    """The true trace in the environment: high-resolution frames, messages and selects.

    A human message holds the request alone; images and lists of frames are inserted by who reads it.
    """
    episode = Episode(sample.scene.num_frames, sample.question.text, shown)
    messages = [{"from": "system", "value": SYSTEM_PROMPT}]
    selects: list[dict[str, int]] = []
    first = episode.observation
    low = [image.frame for image in first.images if image.role is Role.LOW] if first else []
    for reply in true_trace(sample, low).replies:
        if episode.observation is None:
            raise RuntimeError(f"seed {sample.scene.seed}: the true trace goes on after the dialogue's end")
        request = episode.observation.parts[-1]
        text = format_reply(reply)
        messages += [
            {"from": "human", "value": request.text.strip() if isinstance(request, TextPart) else ""},
            {"from": "gpt", "value": text},
        ]
        if isinstance(reply, Select):
            selects.append(
                {
                    "start_frame": reply.interval.start,
                    "end_frame": reply.interval.end,
                    "key_frame": reply.keyframe,
                }
            )
        episode.step(text)
    return {"high": list(episode.high_frames), "conversations": messages, "cot_trace": selects}


def frame_names(item: Record) -> list[str]:
    """`00000`, `00001`, …"""
    return [f"{index:05d}" for index in range(item["num_frames"])]


def anno_ids(item: Record, base: int) -> list[int]:
    """Numbers of the targets in the set's mask dictionary."""
    return [base + target for target in item["targets"]]


def mevis_video(item: Record, base: int) -> dict[str, Any]:
    """A video of MeViS's `meta_expressions.json`; no such object is an expression without ids."""
    ids = {"obj_id": item["targets"], "anno_id": anno_ids(item, base)}
    expression = {"exp": item["query"], **ids, "family": item["family"]}
    return {"frames": frame_names(item), "expressions": {"0": expression}}


def ytvos_video(item: Record) -> dict[str, Any]:
    """A video of Ref-YouTube-VOS's `meta_expressions.json`; needs exactly one target."""
    (target,) = item["targets"]
    expression = {"exp": item["query"], "obj_id": str(target + 1)}
    return {"frames": frame_names(item), "expressions": {"0": expression}}


def ytvos_objects(item: Record) -> dict[str, Any]:
    """A video of YouTube-VOS's `meta.json`."""
    return {"objects": {str(number): {"category": shape} for number, shape in enumerate(item["shapes"], 1)}}


def trace_item(item: Record, video: str, base: int) -> dict[str, Any]:
    """A dialogue of VTS-CoT (O3 specification §11)."""
    return {
        "video_name": video,
        "frames": frame_names(item),
        "exp": item["query"],
        "anno_id": anno_ids(item, base),
        "sample_frame_indice": item["high"],
        "cot_trace": item["cot_trace"],
        "conversations": item["conversations"],
    }


def rl_item(item: Record, video: str, base: int) -> list[dict[str, Any]]:
    """A prompt of the reinforcement stage (O3 specification §12.1)."""
    seen = [
        int(any(item["codes"][target][frame] is not None for target in item["targets"]))
        for frame in range(item["num_frames"])
    ]
    names = frame_names(item)
    entry = {"video_name": video, "frames": names, "exp": item["query"], "anno_id": anno_ids(item, base)}
    return [{**entry, "mask_existence": seen}]
