"""Evaluation: pictures of the worst cases: the frame that went most wrong, true and predicted contour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from videoseg.data.page import jpeg_uri
from videoseg.errors import InputError
from videoseg.evaluation.counts import GUESS, INTER, TRUTH, UNION, frame_counts
from videoseg.evaluation.scoring import Prediction, Predictions, Score, size_of
from videoseg.evaluation.truth import Item
from videoseg.masks import BoolArray, union
from videoseg.video.cache import Frame
from videoseg.video.writer import overlay

WIDTH, SHARPER, LINE = 400, 2, 4
TRUE, PREDICTED = (46, 213, 115), (255, 71, 87)
BLANK = 200


@dataclass(frozen=True, slots=True)
class Shot:
    """A picture as data URI, the case it shows, and what there is to say of the frame."""

    uri: str
    score: Score
    frame: str
    remark: str


def worst_pictures(scores: Sequence[Score], items: Sequence[Item], predictions: Predictions) -> list[Shot]:
    """A picture for each score; the background is grey where the dataset's pictures are not there."""
    by_key = {item.key: item for item in items}
    # Label maps score objects, which are known by the text of the expression assigned to them.
    by_text = {(item.key[0], item.text): item for item in items}
    found = [(score, by_key.get(score.key) or by_text.get((score.key[0], score.text))) for score in scores]
    pairs = [(score, item, predictions(item)) for score, item in found if item is not None]
    return [shot(score, item, guess) for score, item, guess in pairs if guess is not None]


def shot(score: Score, item: Item, prediction: Prediction) -> Shot:
    """The frame on which the most pixels are wrong."""
    truth = item.truth()
    guess = [prediction.masks.get(name) for name in item.frames]
    size = item.size or size_of([*(code for codes in truth for code in codes), *guess])
    counts = frame_counts(truth, guess, size)
    place = int(np.argmax(counts[:, UNION] - counts[:, INTER]))
    name, row, mask = item.frames[place], counts[place], guess[place]
    masks = [
        union(truth[place]).decode() if truth[place] else np.zeros(size, dtype=bool),
        np.zeros(size, dtype=bool) if mask is None else mask.decode(),
    ]
    return Shot(
        jpeg_uri(drawn(picture(item, name, size), masks)), score, name, remark(row[TRUTH], row[GUESS])
    )


def remark(truth: int, guess: int) -> str:
    """Which of the two is empty on the frame."""
    if truth and guess:
        return ""
    return "target not found" if truth else "no target here" if guess else "nothing to find, nothing found"


def picture(item: Item, name: str, size: tuple[int, int]) -> Frame:
    """The frame, or a grey one of `size` (height, width)."""
    if item.video is not None and name in item.stems:
        try:
            frame = item.video.read([item.stems.index(name)])[0]
        except InputError:
            frame = None
        if frame is not None and frame.shape[:2] == size:
            return frame
    return np.full((*size, 3), BLANK, dtype=np.uint8)


def drawn(frame: Frame, masks: Sequence[BoolArray]) -> Frame:
    """The frame at the page's width; contours are drawn larger and shrunk, so that they are smooth."""
    height = max(1, round(frame.shape[0] * WIDTH / frame.shape[1]))
    size = (SHARPER * WIDTH, SHARPER * height)
    large = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
    wide = [np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)) for mask in masks]
    tinted = overlay(large, wide[1][None], colors=[PREDICTED], alpha=0.35, thickness=LINE)
    tinted = overlay(tinted, wide[0][None], colors=[TRUE], alpha=0.0, thickness=LINE)
    return np.asarray(Image.fromarray(tinted).resize((WIDTH, height), Image.Resampling.BOX))
