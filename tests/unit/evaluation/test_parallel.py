"""Work over processes gives what one process gives, in order; work travels once, errors come through."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from videoseg.evaluation.parallel import in_order


@dataclass
class Square:
    """Notes every process that it travels to, and the order in which things come."""

    notes: Path
    ballast: bytes = field(default=b"", repr=False)

    def __call__(self, number: int) -> int:
        with (self.notes / f"{os.getpid()}").open("a") as file:
            file.write(f"{number}\n")
        if number < 0:
            raise ValueError(f"{number} is below 0")
        return number * number

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        (self.notes / f"arrived-{os.getpid()}-{id(self)}").touch()


@pytest.mark.parametrize("processes", [1, 2, 5])
def test_results_are_in_order(tmp_path: Path, processes: int) -> None:
    assert list(in_order(Square(tmp_path), [3, 1, 2], processes)) == [9, 1, 4]


def test_work_travels_once_to_each_process(tmp_path: Path) -> None:
    assert len(list(in_order(Square(tmp_path, bytes(1000)), range(40), 2))) == 40
    assert 1 <= len(list(tmp_path.glob("arrived-*"))) <= 2


def test_the_heaviest_begin(tmp_path: Path) -> None:
    numbers = [1, 5, 3, 9, 2]
    assert list(in_order(Square(tmp_path), numbers, 2, weight=float)) == [1, 25, 9, 81, 4]
    for path in tmp_path.glob("[0-9]*"):
        seen = [int(line) for line in path.read_text().split()]
        assert seen == sorted(seen, reverse=True)


@pytest.mark.parametrize("processes", [1, 2])
def test_the_first_error_is_raised(tmp_path: Path, processes: int) -> None:
    with pytest.raises(ValueError, match="-4 is below 0"):
        list(in_order(Square(tmp_path), [1, -4, 2, -7], processes))
