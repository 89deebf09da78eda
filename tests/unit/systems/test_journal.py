"""An interrupted segmentation goes on where it stopped and ends with the same result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders import moving_square, random_o3, script
from videoseg.errors import OutputError
from videoseg.models.o3 import O3Model
from videoseg.systems.journal import Journal
from videoseg.systems.o3 import O3System

STEP = '<VTG>{{"start": 0, "end": 9, "keyframe": {}}}</VTG><RefSeg>[SEG]</RefSeg>'
DIALOGUES = [[f"<think>a</think><answer>{STEP.format(k)}</answer>"] for k in (12, 40)]
QUERIES = ["one", "two"]


class Stopped(Exception):
    """Stands for a kill."""


@pytest.fixture(scope="module")
def model() -> O3Model:
    return random_o3()


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return moving_square(60)


def system(model: O3Model, dialogues: list[list[str]] = DIALOGUES) -> O3System:
    chosen = model.text.preset.override(propagation="inject_every_frame")
    return O3System(model, chosen, sampler=script(model, dialogues))


def stop_after(count: int) -> Any:
    def progress(stage: str, done: int, total: int) -> None:
        if stage == "masks" and done == count:
            raise Stopped

    return progress


@pytest.mark.parametrize("stops", [(1,), (57,), (60, 100), (119,)])
def test_it_goes_on_and_ends_the_same(
    model: O3Model, frames: np.ndarray, tmp_path: Path, stops: tuple[int, ...]
) -> None:
    expected = system(model).segment(frames, QUERIES)
    journal = tmp_path / "journal"
    for stop in stops:
        with pytest.raises(Stopped):
            system(model).segment(frames, QUERIES, journal=journal, progress=stop_after(stop))
    # The dialogues are not played again: a system that would answer otherwise gives the same result.
    other = system(model, [["nonsense"], ["nonsense"]])
    encoded = []
    encode = model.sam2.encode
    model.sam2.encode = lambda *a, **k: encoded.append(1) or encode(*a, **k)  # type: ignore[method-assign]
    try:
        results = other.segment(frames, QUERIES, journal=journal)
    finally:
        del model.sam2.encode  # type: ignore[method-assign]
    for ours, theirs in zip(results, expected, strict=True):
        assert ours.masklets == theirs.masklets
        assert [turn.text for turn in ours.trace.turns] == [turn.text for turn in theirs.trace.turns]
    assert not journal.exists()
    if stops[-1] >= 100:
        assert len(encoded) < 60


def test_a_journal_of_another_question_is_not_used(
    model: O3Model, frames: np.ndarray, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    with pytest.raises(Stopped):
        system(model).segment(frames, QUERIES, journal=journal, progress=stop_after(100))
    results = system(model).segment(frames, ["one", "three"], journal=journal)
    assert results[1].query.text == "three"


def test_a_torn_last_line_does_no_harm(model: O3Model, frames: np.ndarray, tmp_path: Path) -> None:
    expected = system(model).segment(frames, QUERIES)
    journal = tmp_path / "journal"
    with pytest.raises(Stopped):
        system(model).segment(frames, QUERIES, journal=journal, progress=stop_after(100))
    with (journal / "masks.jsonl").open("a") as file:
        file.write('[0, 3, {"size": [48')
    results = system(model).segment(frames, QUERIES, journal=journal)
    assert [r.masklets for r in results] == [r.masklets for r in expected]


def test_a_folder_of_something_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match=r"thesis\.txt"):
        Journal(tmp_path, {})
    assert (tmp_path / "thesis.txt").exists()


def test_two_runs_do_not_share_a_journal(tmp_path: Path) -> None:
    first = Journal(tmp_path / "j", {"a": 1})
    with pytest.raises(OutputError, match="running already"):
        Journal(tmp_path / "j", {"a": 1})
    first.close()
    assert Journal(tmp_path / "j", {"a": 1}).resumed
