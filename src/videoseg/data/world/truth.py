"""The truth of a generated clip, read back from the JSON file beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from videoseg.errors import DatasetError
from videoseg.masks import Rle, union


@dataclass(frozen=True, slots=True)
class ClipTruth:
    """A query and what it means: one code per frame, the union of its targets."""

    query: str
    family: str
    codes: tuple[Rle, ...]

    def masks(self) -> list[NDArray[np.bool_]]:
        """Dense masks, `bool [H, W]` per frame."""
        return [code.decode() for code in self.codes]


def read_truth(path: Path | str) -> list[ClipTruth]:
    """The queries of a clip's JSON file; `DatasetError` names the file and what is wrong with it."""
    try:
        data = json.loads(Path(path).read_text())
        empty = Rle.empty(data["height"], data["width"])
        return [
            ClipTruth(query["text"], query["family"], _codes(data, query["targets"], empty))
            for query in data["queries"]
        ]
    except FileNotFoundError as error:
        raise DatasetError(f"{path} does not exist; write clips with `videoseg data world`") from error
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DatasetError(f"{path} is not the truth of a generated clip ({error!r})") from error


def _codes(data: dict, targets: list[int], empty: Rle) -> tuple[Rle, ...]:
    per_frame = []
    for frame in range(data["num_frames"]):
        seen = [data["things"][target]["masks"][frame] for target in targets]
        codes = [Rle.from_coco(code) for code in seen if code is not None]
        per_frame.append(union(codes) if codes else empty)
    return tuple(per_frame)
