"""J and F equal the DAVIS toolkit's numbers bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from videoseg.evaluation.counts import Counter, compiled_counts, plain_counts
from videoseg.evaluation.metrics import contour, contours, jf, jf_rle, region, regions
from videoseg.masks import Rle, intersection

pytestmark = pytest.mark.parity


def _mask(code: Any) -> np.ndarray:
    return Rle.from_coco(code).decode()


def _cases(golden: Callable[[str], Path]) -> dict[str, Any]:
    return json.loads((golden("jf") / "cases.json").read_text())


@pytest.fixture(params=[plain_counts, compiled_counts])
def count(request: pytest.FixtureRequest) -> Counter:
    if request.param is compiled_counts:
        pytest.importorskip("numba", reason="the compiled scorer needs the extra `fast`")
    return request.param


def test_every_pair_from_codes(golden: Callable[[str], Path], count: Counter) -> None:
    for pair in _cases(golden)["pairs"]:
        truth, guess = (Rle.from_coco(pair[side]) for side in ("annotation", "segmentation"))
        if pair.get("void"):
            kept = Rle.encode(~_mask(pair["void"]))
            truth, guess = intersection([truth, kept]), intersection([guess, kept])
        counts = count([(truth,)], [(guess,)], (truth.height, truth.width))
        assert regions(counts)[0] == pair["J"], pair["name"]
        assert contours(counts)[0] == pair["F"], pair["name"]


def test_every_sequence_from_codes(golden: Callable[[str], Path], count: Counter) -> None:
    for sequence in _cases(golden)["sequences"]:
        truth, guess = ([Rle.from_coco(c) for c in sequence[side]] for side in ("annotation", "segmentation"))
        size = truth[0].height, truth[0].width
        counts = count([(code,) for code in truth], [(code,) for code in guess], size)
        assert regions(counts).tolist() == sequence["J"], sequence["name"]
        assert contours(counts).tolist() == sequence["F"], sequence["name"]
        assert jf_rle(truth, guess, size) == (sequence["mean_J"], sequence["mean_F"]), sequence["name"]


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
