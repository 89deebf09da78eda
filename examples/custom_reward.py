"""Rewards of your own in one file: name it in the configuration of `videoseg train grpo`.

    reward_files: [examples/custom_reward.py]
    rewards: {format: 1.0, mask_iou: 1.0, brief: 0.5, names_its_frames: 0.1}

A weight of 0 logs a reward without using it. Running this file shows what the two functions give.
"""

import re
from typing import Any

from videoseg.dialogue.grammar import format_reply, thought
from videoseg.training.rewards.base import Outcome, reward, score
from videoseg.types import Answer, Interval

MAX_WORDS = 120


@reward("brief", low=-1, high=0, weight=0.5)
def brief(outcome: Outcome) -> float:
    """0 if every thought keeps to MAX_WORDS words, down to −1 for twice as many."""
    longest = max(len((thought(text) or "").split()) for text in outcome.replies)
    return max(min(1 - longest / MAX_WORDS, 0.0), -1.0)


@reward("names_its_frames", low=0, high=1, completions="text")
def names_its_frames(completions: list[str], **_: Any) -> list[float]:
    """The signature of TRL: all rollouts at once. 1 if the dialogue speaks of frames."""
    return [1.0 if re.search(r"\bframes?\b", text) else 0.0 for text in completions]


if __name__ == "__main__":
    thoughts = ("The disc is in every frame.", "Hmm. " * 180)
    replies = [format_reply(Answer(Interval(0, 3), keyframe=1, think=text)) for text in thoughts]
    outcomes = [
        Outcome((text,), presence=(True,) * 4, mask_ious=((0.8,) * 5,), keyframe_ious=(0.9,))
        for text in replies
    ]
    scores = score([brief, names_its_frames], outcomes)
    for name, values in zip(scores.names, scores.values, strict=True):
        print(f"{name:>18}: {values.tolist()}")
    print(f"{'weighted sum':>18}: {scores.total.tolist()}")
