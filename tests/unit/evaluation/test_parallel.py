"""Counting over processes gives what one process gives."""

from __future__ import annotations

import numpy as np
import pytest

from videoseg.evaluation.counts import frame_counts
from videoseg.evaluation.parallel import MaskPairs, count_all
from videoseg.masks import Rle

SIZE = (30, 40)


def jobs() -> list[MaskPairs]:
    rng = np.random.default_rng(0)

    def masks(count: int) -> list[Rle | None]:
        return [Rle.encode(rng.random(SIZE) < 0.3) if rng.random() < 0.8 else None for _ in range(count)]

    return [MaskPairs(masks(count), masks(count), SIZE) for count in (5, 0, 17, 1)]


@pytest.mark.parametrize("processes", [1, 2])
def test_same_counts_in_the_same_order(processes: int) -> None:
    found = count_all(jobs(), processes, chunk=4)
    wanted = [frame_counts(job.truth, job.guess, SIZE) for job in jobs()]
    assert [counts.tolist() for counts in found] == [counts.tolist() for counts in wanted]


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_in_a_job_is_raised(processes: int) -> None:
    broken = MaskPairs([Rle.empty(3, 3)], [None], SIZE)
    with pytest.raises(ValueError, match="mask of 3x3"):
        count_all([*jobs(), broken], processes)
