"""Fixtures shared by all tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from golden import golden_root


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Path]:
    """`golden("o3")` is that folder of reference numbers; skips the test when it is absent."""

    def folder(name: str) -> Path:
        path = golden_root() / name
        if not path.is_dir():
            pytest.skip(f"no golden numbers at {path} (set VIDEOSEG_GOLDEN to their folder)")
        return path

    return folder
