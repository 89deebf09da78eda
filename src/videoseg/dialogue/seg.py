"""Which [SEG] of a dialogue is decoded into the mask (O3 specification §8.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from videoseg.dialogue.preset import SegRule


@dataclass(frozen=True, slots=True)
class SegPosition:
    """The token `offset` of the reply of turn `turn`."""

    turn: int
    offset: int


def last_seg(replies: Sequence[Sequence[int]], seg_id: int, rule: SegRule) -> SegPosition | None:
    """The [SEG] to decode, given the token ids of each assistant turn; None if there is none.

    `assistant`: the last one. `anywhere` (`released`): the last one that is not the very last token, which
    the release's `generate` never feeds. Prompts hold no [SEG], queries with one are refused, so only
    replies need to be searched.
    """
    for turn in range(len(replies) - 1, -1, -1):
        ids = list(replies[turn])
        if rule == "anywhere" and turn == len(replies) - 1:
            ids = ids[:-1]
        if seg_id in ids:
            return SegPosition(turn, len(ids) - 1 - ids[::-1].index(seg_id))
    return None
