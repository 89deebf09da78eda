"""Which [SEG] counts."""

from __future__ import annotations

import pytest

from videoseg.dialogue.seg import SegPosition, last_seg

SEG = 7


@pytest.mark.parametrize(
    ("replies", "assistant", "anywhere"),
    [
        ([], None, None),
        ([[]], None, None),
        ([[1, 2]], None, None),
        ([[1, SEG, 2]], (0, 1), (0, 1)),
        ([[SEG, 1, SEG, 2], [1, 2]], (0, 2), (0, 2)),
        ([[SEG, 2], [1, SEG]], (1, 1), (0, 0)),
        ([[1, SEG], [1, 2]], (0, 1), (0, 1)),
        ([[SEG]], (0, 0), None),
    ],
)
def test_last_seg(replies, assistant, anywhere) -> None:
    def expected(pair):
        return None if pair is None else SegPosition(*pair)

    assert last_seg(replies, SEG, "assistant") == expected(assistant)
    assert last_seg(replies, SEG, "anywhere") == expected(anywhere)
