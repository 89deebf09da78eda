"""Declaring, calling, choosing and logging rewards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from videoseg.errors import RewardError
from videoseg.training.rewards.base import Outcome, reward, score
from videoseg.training.rewards.registry import BUILT_IN, DEFAULT, RELEASED, choose, load_file

EXAMPLE = Path(__file__).parents[4] / "examples" / "custom_reward.py"
OUTCOMES = [
    Outcome(("a", "b"), (True, False), ((0.5,), (0.7, 0.9)), (0.1, 0.2), {"query": "who", "video": "v0"}),
    Outcome(("c",), (True,), ((0.25,),), (0.3,), {"query": "what"}),
]


def test_a_function_of_one_outcome() -> None:
    @reward("turns", low=1, high=3, weight=2.0)
    def turns(outcome: Outcome) -> float:
        return len(outcome.replies)

    assert turns.values(OUTCOMES).tolist() == [2.0, 1.0]
    assert turns(OUTCOMES[0]) == 2
    assert score([turns], OUTCOMES).total.tolist() == [4.0, 2.0]


def test_the_signature_of_trl() -> None:
    seen: dict[str, Any] = {}

    @reward("trl")
    def trl(completions: list[list[str]], video: list[str | None], **kwargs: Any) -> list[float | None]:
        seen.update(kwargs, completions=completions, video=video)
        return [1.0, None]

    values = trl.values(OUTCOMES)
    assert values[0] == 1.0
    assert np.isnan(values[1])
    assert seen["completions"] == [["a", "b"], ["c"]]
    assert seen["video"] == ["v0", None]
    assert seen["prompts"] == seen["query"] == ["who", "what"]
    assert seen["mask_existence"] == [[1, 0], [1]]
    assert seen["per_round_maskious"] == [[[0.5], [0.7, 0.9]], [[0.25]]]
    assert seen["per_round_keyframe_ious"] == [[0.1, 0.2], [0.3]]


def test_completions_as_text_and_as_messages() -> None:
    @reward("text", completions="text")
    def length(completions: list[str], **_: Any) -> list[float]:
        return [float(len(text)) for text in completions]

    @reward("messages", completions="messages")
    def roles(completions: list[list[dict[str, str]]], **_: Any) -> list[float]:
        assert completions[0][1] == {"role": "assistant", "content": "b"}
        return [float(len(messages)) for messages in completions]

    assert length.values(OUTCOMES).tolist() == [3.0, 1.0]
    assert roles.values(OUTCOMES).tolist() == [2.0, 1.0]


def test_log_of_mean_and_spread() -> None:
    @reward("x", weight=0.5)
    def x(completions: list[Any], **_: Any) -> list[float]:
        return [1.0, 4.0]

    @reward("sometimes", weight=2.0)
    def sometimes(completions: list[Any], **_: Any) -> list[float | None]:
        return [None, 3.0]

    @reward("never")
    def never(completions: list[Any], **_: Any) -> list[float | None]:
        return [None, None]

    scores = score([x, sometimes, never], OUTCOMES)
    assert scores.total.tolist() == [0.5, 8.0]
    assert scores.metrics() == {
        "reward/x/mean": 2.5,
        "reward/x/std": pytest.approx(np.std([1, 4], ddof=1)),
        "reward/sometimes/mean": 3.0,
        "reward/sometimes/std": 0.0,
        "reward/mean": 4.25,
        "reward/std": pytest.approx(np.std([0.5, 8], ddof=1)),
    }


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([1.0], "1 values for 2"),
        ([1.0, "x"], "rollout 1: 'x'"),
        ([1.0, float("nan")], "nan"),
        ([0, 9], "9.0"),
    ],
)
def test_wrong_values_are_refused_by_name(returned: list[Any], message: str) -> None:
    @reward("mine", low=0, high=2)
    def mine(completions: list[Any], **_: Any) -> list[Any]:
        return returned

    with pytest.raises(RewardError, match=f"'mine'.*{message}"):
        mine.values(OUTCOMES)


@pytest.mark.parametrize(
    ("masks", "keys"), [(((0.5,),), (0.1, 0.2)), (((0.5,), ()), (0.1, 0.2)), (((0.5,), (0.1,)), (0.1, 1.5))]
)
def test_an_outcome_must_agree_with_itself(masks: Any, keys: Any) -> None:
    with pytest.raises(RewardError):
        Outcome(("a", "b"), (True,), masks, keys)


def test_choosing_by_name_and_by_weight() -> None:
    assert set(DEFAULT) | set(RELEASED) | {"keyframe_iou", "termination", "r1_accuracy"} < set(BUILT_IN)
    assert [item.name for item in choose()] == list(DEFAULT)
    assert [f"{name}_released" for name in DEFAULT] == list(RELEASED)
    assert all(item.weight == 1.0 for item in choose(RELEASED))
    assert [(item.name, item.weight) for item in choose({"mask_iou": 2, "format": 0})] == [
        ("mask_iou", 2.0),
        ("format", 0.0),
    ]
    with pytest.raises(RewardError, match=r"unknown reward masks; there are format,|unknown reward masks"):
        choose(["masks"])


def test_the_example_file_works_as_it_stands() -> None:
    rewards = choose([*DEFAULT, "brief", "names_its_frames"], [EXAMPLE])
    assert rewards[-2].weight == 0.5
    assert score(rewards, OUTCOMES).values.shape == (9, 2)
    done = subprocess.run([sys.executable, str(EXAMPLE)], capture_output=True, text=True, check=True)
    assert "brief" in done.stdout


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    empty, broken, taken = tmp_path / "empty.py", tmp_path / "broken.py", tmp_path / "taken.py"
    empty.write_text("from videoseg.training.rewards.base import reward\n_x = 1\n")
    broken.write_text("def (:\n")
    taken.write_text("def mask_iou(completions, **_):\n    return [0.0] * len(completions)\n")
    for path, message in (
        (empty, "holds no reward"),
        (broken, "cannot be loaded"),
        (tmp_path / "no.py", "loaded"),
    ):
        with pytest.raises(RewardError, match=message):
            load_file(path)
    with pytest.raises(RewardError, match="is taken"):
        choose(DEFAULT, [taken])


def test_a_file_may_reuse_built_in_rewards(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from videoseg.training.rewards.o3 import mask_iou\n"
        "def _helper(completions): return 1\n"
        "def half(completions, **_): return [0.5 for _ in completions]\n"
    )
    assert {item.name for item in load_file(path)} == {"mask_iou", "half"}
    assert choose(["half", "mask_iou"], [path])[0].values(OUTCOMES).tolist() == [0.5, 0.5]


def test_rewards_do_not_import_torch() -> None:
    code = "import videoseg.training.rewards.registry, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
