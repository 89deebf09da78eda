"""VTS-CoT and the RL files over a MeViS and a ReVOS fixture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data_builders import edit_json, make_rl, make_vts_cot, reply, square
from videoseg.data.readers.rl import RlReader
from videoseg.data.readers.vts_cot import VtsCotReader
from videoseg.errors import DatasetError
from videoseg.masks import Rle
from videoseg.types import Interval


@pytest.mark.parametrize("folder", ["VTG-CoT", "VTS-CoT"])
def test_both_folder_names_are_read(tmp_path: Path, folder: str) -> None:
    root = make_vts_cot(tmp_path, folder)
    assert len(VtsCotReader(root)) == len(VtsCotReader(root / folder)) == 2
    assert VtsCotReader(root).counts() == {"dialogues": 2, "mevis": 2}


def test_a_dialogue_of_two_turns(tmp_path: Path) -> None:
    sample = VtsCotReader(make_vts_cot(tmp_path))[0]
    assert sample.high_frames == (0, 2)
    assert [(s.interval, s.keyframe) for s in sample.selects] == [(Interval(0, 1), 1)]
    assert sample.replies == (reply("select", 0, 1, 1), reply("answer", 0, 1, 1))
    assert sample.prompts == ("The query is this.", "<image>.\n Continue.")
    assert sample.system == "You find objects."
    assert sample.mask_frames() == (0, 1, 2)
    assert sample.supervised(0) == (0, 2)
    assert sample.supervised(1) == (0, 2, 1)
    assert (sample.masks([0])[0].decode() == (square() | square(left=8))).all()
    assert sample.masks([1]) == [Rle.encode(square())]


def test_a_dialogue_of_a_single_turn_is_valid(tmp_path: Path) -> None:
    """The released loader raises KeyError for these (specification §16 #16)."""
    sample = VtsCotReader(make_vts_cot(tmp_path))[1]
    assert sample.selects == ()
    assert len(sample.replies) == 1
    assert sample.mask_frames() == (0, 2)


def test_an_interval_of_one_frame_is_valid(tmp_path: Path) -> None:
    """The released loader samples arange(start, end), which is empty here (§16 #16)."""
    root = make_vts_cot(tmp_path)

    def change(data: list[dict[str, Any]]) -> None:
        data[0]["conversations"][2]["value"] = reply("select", 1, 1, 1)
        data[0]["cot_trace"] = [{"start_frame": 1, "end_frame": 1, "key_frame": 1}]

    edit_json(root / "VTG-CoT/mevis.json", change)
    assert len(VtsCotReader(root)[0].selects[0].interval) == 1


def test_reading_stops_at_the_first_reply_without_a_select(tmp_path: Path) -> None:
    root = make_vts_cot(tmp_path)

    def change(data: list[dict[str, Any]]) -> None:
        data[0]["conversations"][2]["value"] = reply("answer", 0, 1, 1)

    edit_json(root / "VTG-CoT/mevis.json", change)
    sample = VtsCotReader(root)[0]
    assert (len(sample.replies), len(sample.prompts), sample.selects) == (1, 1, ())


def set_value(number: int, text: str) -> Any:
    return lambda item: item["conversations"][number].update(value=text)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda item: item.update(sample_frame_indice=[3]),
            r"sample_frame_indice\[0\]: frame 3 is outside the 3 frames",
        ),
        (lambda item: item.update(sample_frame_indice=[]), "sample_frame_indice: the list is empty"),
        (
            lambda item: item["cot_trace"][0].update(key_frame=0),
            r"cot_trace\[0\]: start, end and key frame .0, 1, 0. differ",
        ),
        (lambda item: item.update(cot_trace=[]), r"cot_trace: 0 steps, but conversations\[2\] selects"),
        (
            set_value(2, "<think>x</think>nothing"),
            r"conversations\[2\]: the reply does not follow the turn grammar",
        ),
        (set_value(4, reply("select", 0, 1, 1)), "cot_trace: 1 steps"),
        (lambda item: item["conversations"].pop(0), "conversations: system, then human and gpt in turn"),
        (lambda item: item["conversations"].pop(), "conversations: system, then human and gpt in turn"),
        (lambda item: item.update(frames=["00001", "00000", "00002"]), "frames: not in time order"),
        (lambda item: item.update(anno_id=[99]), "anno_id: 99 is not in"),
    ],
)
def test_bad_dialogues_name_the_item_and_the_field(tmp_path: Path, change: Any, words: str) -> None:
    root = make_vts_cot(tmp_path)
    edit_json(root / "VTG-CoT/mevis.json", lambda data: change(data[0]))
    reader = VtsCotReader(root)
    with pytest.raises(DatasetError, match=words) as caught:
        _ = reader[0]
    assert "mevis.json: sample 0" in str(caught.value)


def test_an_interval_outside_the_video_is_named(tmp_path: Path) -> None:
    root = make_vts_cot(tmp_path)

    def change(data: list[dict[str, Any]]) -> None:
        data[0]["conversations"][2]["value"] = reply("select", 0, 7, 1)
        data[0]["cot_trace"] = [{"start_frame": 0, "end_frame": 7, "key_frame": 1}]

    edit_json(root / "VTG-CoT/mevis.json", change)
    with pytest.raises(DatasetError, match=r"conversations\[2\] end: frame 7 is outside"):
        _ = VtsCotReader(root)[0]


def test_masks_of_another_length_than_the_item_are_an_error(tmp_path: Path) -> None:
    root = make_vts_cot(tmp_path)
    edit_json(
        root / "VTG-CoT/mevis.json",
        lambda data: data[1].update(frames=["00000", "00001"], sample_frame_indice=[0]),
    )
    with pytest.raises(DatasetError, match="masks of object 7: 3 masks for 2 frames"):
        VtsCotReader(root)[1].masks([0])


def test_missing_video_sets_and_files_are_named(tmp_path: Path) -> None:
    root = make_vts_cot(tmp_path)
    with pytest.raises(DatasetError, match=r"none of revos.json; give VTS-CoT or VTG-CoT"):
        VtsCotReader(root, "revos")
    (root / "video_datas").rename(tmp_path / "moved")
    with pytest.raises(DatasetError, match="the video sets"):
        VtsCotReader(root)
    assert len(VtsCotReader(root, videos=tmp_path / "moved")) == 2


def test_rl_reads_element_zero_of_both_files(tmp_path: Path) -> None:
    reader = RlReader(make_rl(tmp_path))
    assert reader.counts() == {"prompts": 2, "revos": 1, "mevis": 1}
    revos, mevis = reader
    assert (revos.query, revos.existence) == ("left", (True, False))
    assert mevis.masks([0]) == [Rle.encode(square(left=8))]
    assert [len(RlReader(tmp_path / "VideoSEG-O3-RL", split)) for split in ("mevis", "revos")] == [1, 1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[0][0].update(mask_existence=[1]), "mask_existence: 1 values for 3 frames"),
        (
            lambda data: data[0][0].update(mask_existence=[1, 2, 0]),
            "mask_existence: .* something else than 0 and 1",
        ),
        (lambda data: data[0].clear(), "entry: a list with at least one prompt"),
        (lambda data: data[0][0].pop("exp"), "exp: missing"),
    ],
)
def test_bad_prompts_are_named(tmp_path: Path, change: Any, words: str) -> None:
    root = make_rl(tmp_path)
    edit_json(root / "VideoSEG-O3-RL/rl_mevis_data.json", change)
    with pytest.raises(DatasetError, match=rf"rl_mevis_data\.json: sample 0, {words}"):
        _ = RlReader(root, "mevis")[0]
