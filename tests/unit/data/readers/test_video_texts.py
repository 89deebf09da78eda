"""Ref-SAV, ChatUniVi and TimeLens in their official layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data_builders import (
    HEIGHT,
    LINE,
    WIDTH,
    edit_json,
    make_chat,
    make_ref_sav,
    make_timelens,
)
from videoseg.data.readers.chat_univi import ChatUniviReader
from videoseg.data.readers.ref_sav import RefSavReader
from videoseg.data.readers.timelens import TimeLensReader
from videoseg.data.sample import ChatTurn, logical_frames
from videoseg.errors import DatasetError
from videoseg.masks import Rle
from videoseg.types import Interval


@pytest.mark.parametrize("doubled", [True, False])
def test_ref_sav_frames_are_every_fourth_and_paths_may_name_a_folder_twice(
    tmp_path: Path, doubled: bool
) -> None:
    reader = RefSavReader(make_ref_sav(tmp_path, doubled=doubled))
    assert reader.counts() == {"videos": 1, "expressions": 2}
    assert list(reader.groups) == [range(2)]
    moving = reader[0]
    assert len(moving.frames) == 3
    assert [mask.box[0] for mask in moving.masks([0, 1, 2])] == [0, 1, 2]
    assert reader[1].masks([2]) == [Rle.empty(HEIGHT, WIDTH)]
    brightness = [float(frame.mean()) for frame in moving.frames.read([2, 0])]
    assert brightness[0] - brightness[1] == pytest.approx(80, abs=6)


def test_ref_sav_is_found_under_the_name_of_the_docs(tmp_path: Path) -> None:
    root = make_ref_sav(tmp_path)
    (root / "ref_sav").mkdir()
    (root / "sam_v_final_custom.json").rename(root / "ref_sav/Ref-SAV.json")
    assert len(RefSavReader(root)) == 2


def test_ref_sav_counts_of_frames_must_agree(tmp_path: Path) -> None:
    reader = RefSavReader(make_ref_sav(tmp_path, frames=14))
    with pytest.raises(
        DatasetError, match=r"sav_000002/0, masks of object 0: .* has 3 annotated frames, .* makes 4"
    ):
        reader[0].masks([0])


def test_ref_sav_names_a_missing_video_and_a_missing_object(tmp_path: Path) -> None:
    root = make_ref_sav(tmp_path)
    edit_json(
        root / "sam_v_final_custom.json",
        lambda data: data["sav_000002"]["objects"].update({"7": {"formated": "x"}}),
    )
    with pytest.raises(
        DatasetError, match=r"sav_000002/7, masks of object 7: .*masklet\[0\] has no object 7"
    ):
        RefSavReader(root)[2].masks([0])
    next(root.rglob("*.mp4")).unlink()
    with pytest.raises(DatasetError, match=r"sav_000002/0, video_path: .*sav_000002\.mp4 is not under"):
        _ = RefSavReader(root)[0]


def test_chat_univi_turns_lose_their_mark_and_videos_their_suffix(tmp_path: Path) -> None:
    sample = ChatUniviReader(make_chat(tmp_path))[0]
    assert sample.turns == (ChatTurn("What happens?", "A square moves."), ChatTurn("Why?", "Nobody knows."))
    assert len(sample.frames) == 8


@pytest.mark.parametrize(
    "order",
    [["human"], ["human", "human", "gpt"], ["human", "gpt", "gpt"], ["gpt"], ["human", "gpt", "human"]],
)
def test_chat_univi_turns_must_alternate(tmp_path: Path, order: list[str]) -> None:
    root = make_chat(tmp_path, [{"from": who, "value": "text"} for who in order])
    with pytest.raises(
        DatasetError, match=r"video_chat\.json: sample 0, conversations: human and gpt must take turns"
    ):
        _ = ChatUniviReader(root)[0]


def test_chat_univi_drops_an_answer_before_the_first_question(tmp_path: Path) -> None:
    root = make_chat(tmp_path, [{"from": who, "value": who} for who in ("gpt", "human", "gpt")])
    assert ChatUniviReader(root)[0].turns == (ChatTurn("human", "gpt"),)


def test_chat_univi_names_a_missing_video(tmp_path: Path) -> None:
    root = make_chat(tmp_path)
    (root / "Activity_Videos/v_1.mp4").unlink()
    with pytest.raises(DatasetError, match=r"sample 0, video: .*v_1\.mkv: no such file, also not as \.mp4"):
        _ = ChatUniviReader(root)[0]


@pytest.mark.parametrize("folder", ["video", "videos"])
def test_timelens_labels_are_the_first_span_in_tenths_of_seconds(tmp_path: Path, folder: str) -> None:
    sample = TimeLensReader(make_timelens(tmp_path, LINE, folder))[0]
    first, last = sample.events
    assert first.spans == ((1.25, 3.99), (5.0, 6.0))
    assert sample.interval(first, 10, 120) == Interval(12, 39)
    assert sample.interval(last, 10, 120) == Interval(115, 119)
    assert len(sample.frames) == 8
    assert sample.origin.key == "line 2"


def test_frames_of_a_video_on_the_time_line_of_the_labels() -> None:
    assert logical_frames([0, 12, 24, 299], 24.0, 10, 120) == (0, 5, 10, 119)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"duration": 0}, "line 2, duration: 0.0 seconds"),
        ({"duration": "12"}, "line 2, duration: '12' is no int or float"),
        ({"events": []}, "line 2, events: the list is empty"),
        ({"events": [{"query": "x", "span": []}]}, r"events\[0\].span: the list is empty"),
        ({"events": [{"query": "x", "span": [[3, 3]]}]}, r"events\[0\].span\[0\]: 3.0 to 3.0 seconds"),
        (
            {"events": [{"query": "x", "span": [[3, 40]]}]},
            r"span\[0\]: 3.0 to 40.0 seconds in a video of 12.0",
        ),
        ({"events": [{"query": "x", "span": [3, 4]}]}, r"span\[0\]: 3 is no .start, end."),
        ({"events": [{"query": "", "span": [[3, 4]]}]}, r"events\[0\].query: the text is empty"),
    ],
)
def test_bad_events_name_the_line_and_the_field(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    reader = TimeLensReader(make_timelens(tmp_path, {**LINE, **change}))
    with pytest.raises(DatasetError, match=words):
        _ = reader[0]
