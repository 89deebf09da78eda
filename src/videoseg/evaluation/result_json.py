"""Evaluation: one predicted expression as JSON: O3's result entry, and plainer forms (benchmarks §2).

`{"prediction_masks": [code | null, …], "frames": [name, …], "num_rounds": n, "sample_index": [i, …],
"keyframe_index": [i, …], "trace": {…}}`, of which only the masks are needed; or the list of codes alone; or
an object of codes by frame name. Codes are COCO run-length codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from videoseg.data.tracks import rle_of, short
from videoseg.evaluation.scoring import Prediction
from videoseg.evaluation.truth import Item
from videoseg.masks import Rle
from videoseg.trace_json import trace_from_json
from videoseg.types import Trace

SUFFIXES = (".jpg", ".png")


def entry_prediction(entry: Any, item: Item) -> Prediction:
    """The prediction of an entry; raises ValueError naming the field that cannot be understood."""
    if isinstance(entry, Mapping) and "prediction_masks" not in entry:
        return Prediction({stem(name): code_at(code, name) for name, code in entry.items()})
    fields = entry if isinstance(entry, Mapping) else {"prediction_masks": entry}
    codes = fields["prediction_masks"]
    if codes is None:
        raise ValueError(
            "prediction_masks is null: VideoSEG-O3 was run for submission, so the masks are the PNG files in "
            "Annotations; give that folder"
        )
    if not isinstance(codes, list):
        raise ValueError(f"prediction_masks is a list with one code or null per frame, not {short(codes)}")
    names = frame_names(fields.get("frames"), len(codes), item)
    masks = {name: code_at(code, name) for name, code in zip(names, codes, strict=True)}
    places = {name: place for place, name in enumerate(item.frames)}
    sampled, keyframes = (
        positions(fields.get(field), names, places) for field in ("sample_index", "keyframe_index")
    )
    return Prediction(masks, sampled, keyframes, rounds(fields), dialogue(fields.get("trace")))


def dialogue(value: Any) -> Trace | None:
    """The trace of an entry of `videoseg eval`; raises ValueError where it is damaged."""
    try:
        return trace_from_json(value) if value else None
    except (KeyError, TypeError) as error:
        raise ValueError(f"trace is not one that videoseg wrote ({error!r})") from error


def frame_names(listed: Any, count: int, item: Item) -> Sequence[str]:
    """Names of the frames that the masks belong to; raises ValueError where that is not certain."""
    if listed is not None:
        if not isinstance(listed, list) or len(listed) != count or len(set(map(str, listed))) != count:
            raise ValueError(f"frames does not name {count} different frames, one for each mask")
        return [stem(str(name)) for name in listed]
    if count == len(item.stems):
        if not item.ordered:
            raise ValueError(
                "the annotations list this video's frames out of order, so masks without names may mean two "
                "orders; add the field frames"
            )
        return item.stems
    if count == len(item.frames) and len(set(item.frames)) == count:
        return item.frames
    raise ValueError(f"{count} masks, but the video has {len(item.stems)} frames; add the field frames")


def stem(name: str) -> str:
    """A frame's name without the suffix of a picture."""
    return next((name[: -len(suffix)] for suffix in SUFFIXES if name.endswith(suffix)), name)


def code_at(code: Any, name: str) -> Rle | None:
    """A code or None; raises ValueError naming the frame."""
    if code is None:
        return None
    try:
        return rle_of(code)
    except ValueError as error:
        raise ValueError(f"frame {name}: {error}") from error


def positions(listed: Any, names: Sequence[str], places: Mapping[str, int]) -> tuple[int, ...]:
    """Places among the evaluated frames; those beyond the video are left out, as in O3's scorer."""
    if not isinstance(listed, list):
        return ()
    inside = [names[one] for one in listed if isinstance(one, int) and 0 <= one < len(names)]
    return tuple(places[name] for name in inside if name in places)


def rounds(fields: Mapping[str, Any]) -> int:
    """Number of replies; 0 where nothing is said of it."""
    count = fields.get("num_rounds")
    texts = fields.get("text_prediction")
    return count if isinstance(count, int) else len(texts) if isinstance(texts, list) else 0
