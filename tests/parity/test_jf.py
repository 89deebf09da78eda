"""J and F equal the DAVIS toolkit's numbers bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from videoseg.evaluation.metrics import contour, jf, region
from videoseg.masks import Rle

pytestmark = pytest.mark.parity


def _mask(code: Any) -> np.ndarray:
    return Rle.from_coco(code).decode()


def _cases(golden: Callable[[str], Path]) -> dict[str, Any]:
    return json.loads((golden("jf") / "cases.json").read_text())


def test_every_pair(golden: Callable[[str], Path]) -> None:
    pairs = _cases(golden)["pairs"]
    assert pairs
    for pair in pairs:
        truth, guess = _mask(pair["annotation"]), _mask(pair["segmentation"])
        void = _mask(pair["void"]) if pair.get("void") else None
        assert region(truth, guess, void) == pair["J"], pair["name"]
        assert contour(truth, guess, void) == pair["F"], pair["name"]


def test_every_sequence(golden: Callable[[str], Path]) -> None:
    for sequence in _cases(golden)["sequences"]:
        truth = [_mask(code) for code in sequence["annotation"]]
        guess = [_mask(code) for code in sequence["segmentation"]]
        assert [region(a, b) for a, b in zip(truth, guess, strict=True)] == sequence["J"], sequence["name"]
        assert [contour(a, b) for a, b in zip(truth, guess, strict=True)] == sequence["F"], sequence["name"]
        assert jf(truth, guess) == (sequence["mean_J"], sequence["mean_F"]), sequence["name"]
