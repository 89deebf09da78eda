"""Prompt strings: the published hash, and each switch that changes a character."""

from __future__ import annotations

import hashlib

from videoseg.dialogue.preset import DEFAULT, RELEASED, preset
from videoseg.dialogue.prompts import SYSTEM_PROMPT, first_texts, later_texts, question


def test_system_prompt_is_the_published_one() -> None:
    digest = hashlib.sha256(SYSTEM_PROMPT.encode()).hexdigest()
    assert len(SYSTEM_PROMPT) == 713
    assert digest == "aa64d895d0975a46c1b4a7205beb731d8cb361a1e4029078c91dfc25186b3bcd"


def test_first_message() -> None:
    low, high, asked = first_texts((0, 5), (5,), "a cat", 9, DEFAULT)
    assert low == "\nHere are 2 low-resolution frames in this video (frame indice is [0, 5])\n"
    assert high == "Here are 1 high-resolution frames in this video (frame indice:[5]).\n"
    assert asked == (
        '\nThe query is "a cat". Show me your thought process for finding and segmenting this target. '
        "This video has 9 frames.\n"
    )
    released = first_texts((0, 5), (5,), "a cat", 9, RELEASED)
    assert "(frame indice is [np.int64(0), np.int64(5)])" in released[0]
    assert released[2] == asked.strip()


def test_later_message() -> None:
    low, key, request = later_texts((3, 4), 7, "a cat", 9, DEFAULT)
    assert low == "\nHere are 2 low-resolution frames in this video (frame indices are [3, 4])\n"
    assert key == "Here is key frames (frame indice:7).\n"
    assert request.startswith("The text query is 'a cat'.\n Continue your reasoning process inside <think>")
    assert request.endswith("put your final answer inside <answer> and </answer>.")
    released = later_texts((3, 4), 7, "a cat", 9, RELEASED)[2]
    assert released.startswith(f"The text query is '{question('a cat', 9, RELEASED)}'.\n Continue")
    newlines = later_texts((3, 4), 7, "a cat", 9, preset("default", later_query="question"))[2]
    assert newlines.startswith("The text query is '\nThe query is")


def test_braces_and_placeholders_in_a_query() -> None:
    odd = "the {query} of <image>{0}%s"
    assert odd in question(odd, 3, DEFAULT)
    assert f"'{odd}'" in later_texts((0,), 0, odd, 3, DEFAULT)[2]
    assert 'is "the {query} of {0}%s".' in question(odd, 3, RELEASED)
