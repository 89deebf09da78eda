"""The released rewards give the official values, errors included."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from videoseg.training.rewards.o3_released import OFFICIAL_NAMES

pytestmark = pytest.mark.parity


def _run(name: str, case: dict[str, Any]) -> float:
    (value,) = OFFICIAL_NAMES[name](
        completions=[case["completion"]],
        mask_existence=[np.array(case["mask_existence"], dtype=np.int64)],
        per_round_maskious=[case["per_round_maskious"]],
        per_round_keyframe_ious=[case["per_round_keyframe_ious"]],
    )
    return value


def _difference(name: str, case: dict[str, Any]) -> str | None:
    expected = case["out"][name]
    try:
        value = _run(name, case)
    except LookupError as error:
        wanted = expected["raises"] if isinstance(expected, dict) else expected
        return None if type(error).__name__ == wanted else f"{case['id']}: {error!r}, expected {wanted}"
    if isinstance(expected, dict) or value != expected:
        return f"{case['id']}: {value}, expected {expected}"
    return None


def test_every_case_of_every_function(golden: Callable[[str], Path]) -> None:
    fixture = json.loads((golden("rewards") / "cases.json").read_text())
    assert fixture["cases"]
    assert fixture["functions"]
    for name in fixture["functions"]:
        wrong = [text for case in fixture["cases"] if (text := _difference(name, case))]
        assert not wrong, f"{name}: {len(wrong)} of {len(fixture['cases'])} cases differ: {wrong[:5]}"
