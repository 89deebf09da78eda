"""The VTS-CoT builder from dataset to file: round trip, rejection, failing endpoints, kills, own data."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_stub import Asked, Say, serve
from cot_builders import (
    BEST,
    FIRST,
    FRAMES,
    LAST,
    answer,
    good_teacher,
    make_videos,
    query_of,
    read,
    select,
    turn_of,
)
from data_builders import code, edit_json, make_revos, mp4, square
from videoseg.data.own import OwnReader, write_rows
from videoseg.data.readers.base import Reader
from videoseg.data.readers.mevis import MevisReader
from videoseg.data.readers.revos import RevosReader
from videoseg.data.readers.vts_cot import VtsCotReader, messages, trace
from videoseg.data.sample import TraceSample
from videoseg.dialogue.prompts import SYSTEM_PROMPT
from videoseg.errors import DatasetError, OutputError, RemoteError, RemoteRefusedError, UsageError
from videoseg.models.remote_types import ChatReply, ChatRequest, ChatSettings
from videoseg.training.cot.build import BuildSettings, build
from videoseg.training.cot.checks import Limits, Truth
from videoseg.training.cot.items import vts_item
from videoseg.training.cot.play import Gallery, PlaySettings, play
from videoseg.training.cot.report import Report

QUERIES = [f"square number {number}" for number in range(6)]


@pytest.fixture(autouse=True)
def _direct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def made(
    reader: Reader[Any],
    out: Path,
    behave: Callable[[Asked], Say] = good_teacher,
    *,
    retries: int = 2,
    overwrite: bool = False,
    **more: Any,
) -> tuple[Report, list[Asked]]:
    with serve(behave) as stub:
        chat = ChatSettings(
            base_url=stub.url, model="big", retries=retries, first_wait=0.002, longest_wait=0.02, timeout=10
        )
        report = build(reader, chat, BuildSettings(out=out, **more), overwrite=overwrite)
        return report, stub.asked


def test_what_is_built_reads_back_as_cold_start_data(tmp_path: Path) -> None:
    reader = MevisReader(make_videos(tmp_path, QUERIES))
    report, asked = made(reader, tmp_path / "out")
    assert report.data["accepted"] == report.data["samples"] == 6
    assert report.data["accepted_by_turns"] == {"2": 6}
    assert report.data["cost"] == {"requests": 12, "prompt_tokens": 84, "completion_tokens": 36}
    assert len(asked) == 12
    dialogues = VtsCotReader(tmp_path / "out", videos=tmp_path)
    assert len(dialogues) == 6
    for number in range(6):
        sample, source = dialogues[number], reader[number]
        assert (sample.query, sample.video, sample.frames) == (source.query, "v1", source.frames)
        assert sample.high_frames == (0, 1, 3, 4, 6, 7, 9, 11)
        assert len(sample.replies) == 2
        assert (sample.selects[0].interval.start, sample.selects[0].keyframe) == (FIRST, BEST)
        assert sample.masks(range(FRAMES)) == source.masks(range(FRAMES))
        assert BEST in sample.supervised(1)
        assert sample.system == SYSTEM_PROMPT


def test_an_item_has_the_fields_of_the_layout(tmp_path: Path) -> None:
    reader = MevisReader(make_videos(tmp_path, QUERIES[:1]))
    made(reader, tmp_path / "out")
    item = json.loads((tmp_path / "out/VTS-CoT/mevis.json").read_text())[0]
    names = ["video_name", "frames", "exp", "anno_id", "sample_frame_indice", "cot_trace", "conversations"]
    assert list(item) == names
    assert item["anno_id"] == [7]
    assert item["frames"][:2] == ["00000", "00001"]
    assert item["cot_trace"] == [{"start_frame": FIRST, "end_frame": LAST, "key_frame": BEST}]
    assert [one["from"] for one in item["conversations"]] == ["system", "human", "gpt", "human", "gpt"]
    first, later = item["conversations"][1]["value"], item["conversations"][3]["value"]
    assert first.startswith('The query is "square number 0". Show me')
    assert first.endswith("This video has 12 frames.")
    assert later.startswith("<image>.\n Continue your reasoning process")


def test_the_teacher_sees_what_the_student_will_see(tmp_path: Path) -> None:
    reader = MevisReader(make_videos(tmp_path, QUERIES[:1]))
    _, asked = made(reader, tmp_path / "out")
    system, first, said, later = asked[1].messages
    assert system["content"].startswith(SYSTEM_PROMPT)
    assert "Step 1 tells" in system["content"]
    images = [part for part in first["content"] if part["type"] == "image_url"]
    assert len(images) == FRAMES + 8, "all frames low, 8 high"
    assert "Here are 12 low-resolution frames in this video (frame indice is [0, 1, 2" in asked[1].text(1)
    assert len([part for part in later["content"] if part["type"] == "image_url"]) == 5 + 1
    assert "Here is key frames (frame indice:6)." in asked[1].text(3)
    assert said["content"].startswith("<think>Step 1")
    assert asked[0].messages == asked[1].messages[:2]


def test_a_rejected_dialogue_is_tried_with_another_seed(tmp_path: Path) -> None:
    """Each query goes wrong in its own way at first; the third is good the third time."""
    wrong = {
        QUERIES[0]: "no tags at all",
        QUERIES[1]: select(0, 2, 1),
        QUERIES[2]: select(3, 8, 0),
        QUERIES[3]: answer(0, 4, 4),
        QUERIES[4]: select(think="Step 1: the masks say so, which is why it is easy. Action: look."),
    }
    tries: Counter[str] = Counter()

    def behave(asked: Asked) -> Say:
        query = query_of(asked)
        if turn_of(asked) == 0:
            tries[query] += 1
            if query in wrong and tries[query] < 3:
                return Say(wrong[query])
        return good_teacher(asked)

    reader = MevisReader(make_videos(tmp_path, QUERIES))
    report, asked = made(reader, tmp_path / "out", behave, tries=3)
    assert report.data["accepted"] == 6
    assert report.data["accepted_by_try"] == {"1": 1, "3": 5}
    counts = {reason: found["count"] for reason, found in report.data["reasons"].items()}
    assert counts == {
        "bad_format": 2,
        "keyframe_outside_interval": 2,
        "keyframe_without_target": 2,
        "low_tiou": 2,
        "missing_steps": 2,
    }
    assert (
        "square number 0, turn 0: the reply holds neither"
        in report.data["reasons"]["bad_format"]["examples"][0]
    )
    seeds = {query: [one.body["seed"] for one in asked if query_of(one) == query] for query in QUERIES}
    assert all(len(set(found)) == (3 if query in wrong else 1) for query, found in seeds.items())


def test_a_sample_that_is_never_good_is_left_out_and_counted(tmp_path: Path) -> None:
    def behave(asked: Asked) -> Say:
        query = query_of(asked)
        if query == QUERIES[0]:
            keyframes = (4, 5, 6, 7, 8)
            return Say(select(keyframe=keyframes[turn_of(asked)]))
        if query == QUERIES[1]:
            return Say("<think>Step 1: on and on", finish="length")
        if query == QUERIES[2] and turn_of(asked) == 1:
            return Say(select())
        return good_teacher(asked)

    reader = MevisReader(make_videos(tmp_path, QUERIES))
    report, _ = made(reader, tmp_path / "out", behave, tries=2)
    assert (report.data["accepted"], report.data["rejected"]) == (3, 3)
    assert report.data["rejected_after_all_tries"] == {"repeated_select": 1, "truncated": 1, "turn_limit": 1}
    items = json.loads((tmp_path / "out/VTS-CoT/mevis.json").read_text())
    assert [item["exp"] for item in items] == QUERIES[3:]


def test_no_such_object_makes_a_dialogue_without_seg(tmp_path: Path) -> None:
    def behave(asked: Asked) -> Say:
        return Say(answer(0, 11, 5, seg=asked.body["seed"] % 2 == 0 and query_of(asked) == "a unicorn"))

    reader = MevisReader(make_videos(tmp_path, ["a unicorn", "a dragon"], unlisted=["a unicorn", "a dragon"]))
    report, _ = made(reader, tmp_path / "out", behave, tries=9)
    assert report.data["accepted"] == 2
    samples = VtsCotReader(tmp_path / "out", videos=tmp_path)
    assert all(sample.targets == () and "<RefSeg></RefSeg>" in sample.replies[0] for sample in samples)


def test_revos_with_its_queries_without_a_target(tmp_path: Path) -> None:
    said = {
        "the left one": answer(0, 0, 0),
        "which one could roll?": answer(0, 1, 1),
        "the unicorn": answer(0, 1, 0, seg=False),
        "the box": answer(0, 1, 1),
    }
    reader = RevosReader(make_revos(tmp_path / "revos"))
    report, _ = made(reader, tmp_path / "out", lambda asked: Say(said[query_of(asked)]))
    assert report.data["accepted"] == 4
    built = VtsCotReader(tmp_path / "out", "revos", videos=tmp_path)
    for number in range(4):
        sample, source = built[number], reader[number]
        assert (sample.query, sample.video) == (source.query, source.video)
        assert sample.masks([0, 1]) == source.masks([0, 1])
        assert sample.replies == (said[source.query],)


def test_a_single_turn_is_a_dialogue(tmp_path: Path) -> None:
    reader = MevisReader(make_videos(tmp_path, QUERIES[:1]))
    report, _ = made(reader, tmp_path / "out", lambda asked: Say(answer()))
    assert report.data["accepted_by_turns"] == {"1": 1}
    sample = VtsCotReader(tmp_path / "out", videos=tmp_path)[0]
    assert (sample.selects, len(sample.replies)) == ((), 1)


def test_text_around_the_tags_and_line_breaks_do_not_enter_the_data(tmp_path: Path) -> None:
    loose = "Sure!\n" + answer().replace(". Step", ".\n\nStep").replace("</think>", "</think>\n") + "\nDone."
    reader = MevisReader(make_videos(tmp_path, QUERIES[:1]))
    made(reader, tmp_path / "out", lambda asked: Say(loose))
    assert VtsCotReader(tmp_path / "out", videos=tmp_path)[0].replies == (answer(),)


def test_hints_reach_the_teacher_and_not_the_data(tmp_path: Path) -> None:
    reader = MevisReader(make_videos(tmp_path, QUERIES[:1]))
    _, asked = made(reader, tmp_path / "out", play=PlaySettings(hints=True))
    assert "is visible in frames 3 to 8" in asked[0].text(0)
    assert "is visible in frames" not in (tmp_path / "out/VTS-CoT/mevis.json").read_text()


def flaky(asked: Asked) -> Say:
    """Every request fails once or twice, in all ways."""
    kinds = [
        Say(status=500),
        Say(status=429, headers={"Retry-After": "0.01"}),
        Say(reset=True),
        Say(body=b'{"choices": ['),
        Say(body=b'{"choices": [{"text": "old style"}]}'),
        Say("x", cut=True),
    ]
    return kinds[(hash(asked.key) + asked.attempt) % 6] if asked.attempt <= 2 else good_teacher(asked)


def test_a_misbehaving_endpoint_changes_nothing_in_the_result(tmp_path: Path) -> None:
    reader = MevisReader(make_videos(tmp_path, QUERIES))
    made(reader, tmp_path / "plain")
    report, asked = made(reader, tmp_path / "flaky", flaky, retries=4, concurrency=3)
    assert len(asked) == 36
    assert report.failed == 0
    assert snapshot(tmp_path / "plain") == snapshot(tmp_path / "flaky")


def test_failed_samples_are_named_and_asked_again(tmp_path: Path) -> None:
    reader = MevisReader(make_videos(tmp_path, QUERIES))

    def behave(asked: Asked) -> Say:
        return Say(status=503) if query_of(asked) == QUERIES[2] else good_teacher(asked)

    report, asked = made(reader, tmp_path / "out", behave)
    assert (report.accepted, report.failed) == (5, 1)
    assert "'square number 2', turn 0" in report.data["failed"]["2"]
    assert sum(query_of(one) == QUERIES[2] for one in asked) == 3
    report, asked = made(reader, tmp_path / "out")
    assert (report.accepted, report.failed, len(asked)) == (6, 0, 2)
    made(reader, tmp_path / "plain")
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "plain")


def test_an_endpoint_that_stays_away_stops_the_run(tmp_path: Path) -> None:
    reader = MevisReader(make_videos(tmp_path, [f"square {number}" for number in range(30)]))
    count = iter(range(1000))

    def behave(asked: Asked) -> Say:
        return good_teacher(asked) if next(count) < 8 else Say(status=502)

    with pytest.raises(RemoteError, match="4 samples in a row"):
        made(reader, tmp_path / "out", behave, concurrency=1, patience=4)
    assert not (tmp_path / "out/VTS-CoT/mevis.json").exists()
    report, asked = made(reader, tmp_path / "out")
    assert (report.accepted, len(asked)) == (30, 52)


def test_an_endpoint_that_refuses_every_sample_stops_the_run(tmp_path: Path) -> None:
    reader = MevisReader(make_videos(tmp_path, QUERIES))
    refusal = Say(status=400, body=b'{"error": "no images"}')
    with pytest.raises(RemoteError, match=r"3 samples in a row.*no images"):
        made(reader, tmp_path / "out", lambda asked: refusal, concurrency=1, patience=3)


def test_a_wrong_key_stops_the_run_at_once(tmp_path: Path) -> None:
    reader = MevisReader(make_videos(tmp_path, QUERIES))
    with pytest.raises(RemoteRefusedError, match="check the key"):
        made(reader, tmp_path / "out", lambda asked: Say(status=401), concurrency=1)


def snapshot(out: Path) -> dict[str, bytes]:
    """The files that a run leaves for others."""
    return {path.name: path.read_bytes() for path in out.rglob("*.json*") if "journal" not in path.name}


RUN = """
import signal
import sys
from pathlib import Path
from videoseg.data.readers.mevis import MevisReader
from videoseg.models.remote_types import ChatSettings
from videoseg.training.cot.build import BuildSettings, build
signal.signal(signal.SIGINT, signal.default_int_handler)  # started in the background, Python ignores it
folder, out, url = sys.argv[1:]
chat = ChatSettings(base_url=url, model="big")
build(MevisReader(folder), chat, BuildSettings(out=Path(out), concurrency=3))
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on_to_the_same_file(tmp_path: Path, sent: signal.Signals) -> None:
    queries = [f"square {number}" for number in range(48)]
    folder = make_videos(tmp_path, queries)
    made(MevisReader(folder), tmp_path / "whole")
    enough, stopped = threading.Event(), threading.Event()
    answers: Counter[str] = Counter()

    def slow(asked: Asked) -> Say:
        answers[query_of(asked)] += turn_of(asked) == 1
        if sum(answers.values()) > 8:
            enough.set()
            stopped.wait(60)  # however busy the machine is, the run is not over before the signal
            time.sleep(0.3)
        return replace(good_teacher(asked), delay=0.01)

    with serve(slow) as stub:
        command = [sys.executable, "-c", RUN, str(folder), str(tmp_path / "out"), stub.url]
        with subprocess.Popen(
            command, env={**os.environ, "NO_PROXY": "127.0.0.1"}, stderr=subprocess.PIPE
        ) as run:
            assert enough.wait(60)
            run.send_signal(sent)
            stopped.set()
            run.communicate(timeout=60)
        assert run.returncode != 0
    journal = tmp_path / "out/VTS-CoT/mevis.journal.jsonl"
    lines = journal.read_bytes().split(b"\n")[1:-1]
    done = {json.loads(line)["name"] for line in lines}
    assert 1 <= len(done) < 48
    assert not (tmp_path / "out/VTS-CoT/mevis.json").exists()
    _, asked = made(MevisReader(folder), tmp_path / "out", concurrency=5)
    assert len(asked) == 2 * (48 - len(done)), "what was done is not asked again"
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")


def test_a_finished_run_asks_nothing_and_writes_the_same(tmp_path: Path) -> None:
    reader = MevisReader(make_videos(tmp_path, QUERIES))
    made(reader, tmp_path / "out")
    before = snapshot(tmp_path / "out")
    _, asked = made(reader, tmp_path / "out")
    assert asked == []
    assert snapshot(tmp_path / "out") == before


def test_a_range_of_samples_can_be_widened(tmp_path: Path) -> None:
    reader = MevisReader(make_videos(tmp_path, QUERIES))
    report, _ = made(reader, tmp_path / "out", samples=range(1, 3))
    assert report.data["samples"] == 2
    report, asked = made(reader, tmp_path / "out")
    assert (report.accepted, len(asked)) == (6, 8)
    with pytest.raises(UsageError, match="which has 6"):
        made(reader, tmp_path / "out", samples=range(3, 9))


def test_results_of_others_are_not_touched(tmp_path: Path) -> None:
    reader = MevisReader(make_videos(tmp_path, QUERIES[:2]))
    official = tmp_path / "out/VTS-CoT/mevis.json"
    official.parent.mkdir(parents=True)
    official.write_text("[]")
    with pytest.raises(OutputError, match="without a journal"):
        made(reader, tmp_path / "out")
    assert official.read_text() == "[]"
    made(reader, tmp_path / "out", overwrite=True)
    with pytest.raises(OutputError, match="other settings"):
        made(reader, tmp_path / "out", play=PlaySettings(limits=Limits(min_tiou=0.1)))


def test_unfit_samples_are_counted_and_cost_nothing(tmp_path: Path) -> None:
    folder = make_videos(tmp_path, ["fine", "with [SEG]", "never there"])

    def change(data: dict[str, Any]) -> None:
        data["8"] = [None] * FRAMES

    edit_json(folder / "train/mask_dict.json", change)
    meta = folder / "train/meta_expressions.json"
    edit_json(meta, lambda data: data["videos"]["v1"]["expressions"]["2"].update(anno_id=[8]))
    report, asked = made(MevisReader(folder), tmp_path / "out")
    assert report.accepted == 1
    assert {why: found["count"] for why, found in report.data["skipped"].items()} == {
        "reserved_text_in_query": 1,
        "target_never_visible": 1,
    }
    assert len(asked) == 2


def test_frames_out_of_order_are_left_out(tmp_path: Path) -> None:
    folder = make_videos(tmp_path, ["fine"])
    meta = folder / "train/meta_expressions.json"
    edit_json(meta, lambda data: data["videos"]["v1"]["frames"].reverse())
    report, _ = made(MevisReader(folder), tmp_path / "out")
    assert list(report.data["skipped"]) == ["frames_out_of_order"]


def test_a_bad_sample_stops_the_run_unless_skipping_is_asked_for(tmp_path: Path) -> None:
    folder = make_videos(tmp_path, QUERIES)
    meta = folder / "train/meta_expressions.json"
    edit_json(meta, lambda data: data["videos"]["v1"]["expressions"]["4"].update(anno_id=[99]))
    with pytest.raises(DatasetError, match="99 is not in"):
        made(MevisReader(folder), tmp_path / "out")
    report, _ = made(MevisReader(folder), tmp_path / "skip", skip_bad=True)
    assert report.accepted == 5
    assert "99 is not in" in report.data["skipped"]["bad_sample"]["examples"][0]


def test_a_frame_that_cannot_be_read_names_the_sample(tmp_path: Path) -> None:
    folder = make_videos(tmp_path, QUERIES[:1])
    image = folder / "train/JPEGImages/v1/00004.jpg"
    image.write_bytes(image.read_bytes()[:200])
    with pytest.raises(DatasetError, match=r"v1/0.*00004\.jpg"):
        made(MevisReader(folder), tmp_path / "out")


def test_splits_without_masks_cannot_be_built(tmp_path: Path) -> None:
    folder = make_videos(tmp_path, QUERIES[:1])
    (folder / "train").rename(folder / "valid")
    (folder / "valid/mask_dict.json").unlink()
    with pytest.raises(DatasetError, match="without masks"):
        made(MevisReader(folder, "valid"), tmp_path / "out")


def own_data(root: Path) -> OwnReader:
    """Two lines on a video file: all frames annotated, and some; and a line that is a dialogue already."""
    mp4(root / "data" / "clip.mp4", FRAMES)
    sides = {frame: square(side=4 + frame) for frame in range(FIRST, LAST + 1)}
    masks = {str(frame): code(mask) for frame, mask in sides.items()}
    common = {"video": "clip.mp4", "objects": [{"id": "a", "rle": masks}]}
    rows = [
        {"query": "the square", **common},
        {"query": "the same", **common, "annotated": [0, 2, 4, 6, 8]},
        {"query": "told already", **common, "replies": [answer()], "high_frames": [4]},
    ]
    write_rows(rows, root / "data" / "train.jsonl")
    return OwnReader(root / "data")


def test_own_data_becomes_own_data_with_dialogues(tmp_path: Path) -> None:
    reader = own_data(tmp_path)
    report, asked = made(reader, tmp_path / "deep/out")
    assert report.accepted == 2
    assert report.data["skipped"] == {"has_dialogue": {"count": 1, "examples": ["sample 2"]}}
    built = OwnReader(tmp_path / "deep/out/own.jsonl")
    samples = [built[number] for number in range(len(built))]
    assert all(isinstance(sample, TraceSample) for sample in samples)
    for sample, source in zip(samples, (reader[0], reader[1]), strict=True):
        assert isinstance(sample, TraceSample)
        assert sample.query == source.query
        assert len(sample.replies) == 2
        known = list(range(FRAMES)) if source.query == "the square" else [0, 2, 4, 6, 8]
        assert sample.masks(known) == source.masks(known)
        assert (sample.frames.read([3])[0] == source.frames.read([3])[0]).all()
        assert set(sample.mask_frames()) <= set(known)
    assert len(asked) == 4


def test_own_data_is_never_overwritten(tmp_path: Path) -> None:
    own_data(tmp_path)
    path = tmp_path / "data/train.jsonl"
    path.rename(tmp_path / "data/own.jsonl")
    before = (tmp_path / "data/own.jsonl").read_bytes()
    with pytest.raises(OutputError, match="the dataset itself"):
        made(OwnReader(tmp_path / "data/own.jsonl"), tmp_path / "data", overwrite=True)
    assert (tmp_path / "data/own.jsonl").read_bytes() == before


THINKS = st.text(max_size=30) | st.sampled_from(["<select>", "[SEG]", "</think>", "a\r\nb", "\u2028\x00"])
NUMBERS = st.one_of(
    st.tuples(st.integers(0, 3), st.integers(3, FRAMES - 1)),
    st.tuples(st.integers(-2, FRAMES + 2), st.integers(-2, FRAMES + 2)),
)
REPLIES = st.tuples(
    st.sampled_from(["select", "answer"]),
    NUMBERS,
    st.integers(FIRST, LAST) | st.integers(0, FRAMES),
    THINKS,
    st.sampled_from(["[SEG]", "[SEG]", "[SEG]", ""]),
)


class Scripted:
    """Says given replies, whatever it is asked."""

    def __init__(self, replies: list[Any]) -> None:
        self.replies = replies

    async def complete(self, request: ChatRequest) -> ChatReply:
        turn = sum(message.role == "assistant" for message in request.messages)
        kind, (start, end), keyframe, think, seg = self.replies[turn]
        body = json.dumps({"start": start, "end": end, "keyframe": keyframe})
        tail = f"<{kind}><VTG>{body}</VTG><RefSeg>{seg}</RefSeg></{kind}>"
        return ChatReply(f"<think>{think}</think>{tail}")


def test_whatever_is_accepted_can_be_read(tmp_path: Path) -> None:
    """With all limits lifted: only what the reader takes is accepted, and it reads the same."""
    sample = MevisReader(make_videos(tmp_path, ["the square"]))[0]
    off = Limits(
        min_tiou=0, min_interval_frames=0, min_keyframe_share=0, keyframe_inside=False, steps=False,
        action=False, new_selects=False, min_thought=0, leaks=(),
    )  # fmt: skip
    playing = PlaySettings(limits=off)
    truth, gallery = Truth.of(sample), Gallery(sample, playing.preset)
    turns: Counter[int] = Counter()

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(st.lists(REPLIES, min_size=3, max_size=3))
    def check(replies: list[Any]) -> None:
        done = asyncio.run(play(sample, truth, gallery, Scripted(replies), playing, 0))
        assert (done.dialogue is None) == bool(done.rejections)
        if done.dialogue is None:
            return
        turns[len(done.dialogue.replies)] += 1
        item = json.loads(json.dumps(vts_item(sample, done.dialogue, playing.preset)))
        _, _, texts = messages(item, sample.origin)
        selects, count = trace(item, texts, FRAMES, sample.origin)
        assert (texts, count) == (done.dialogue.texts, len(texts))
        assert selects == done.dialogue.selects

    check()
    assert set(turns) >= {1, 2}
    assert sum(turns.values()) > 15


def test_progress_counts_up_to_the_number_of_samples(tmp_path: Path) -> None:
    reader = MevisReader(make_videos(tmp_path, QUERIES))
    seen: list[tuple[str, int, int]] = []
    with serve(good_teacher) as stub:
        chat = ChatSettings(base_url=stub.url, model="big")
        build(reader, chat, BuildSettings(out=tmp_path / "out"), progress=lambda *now: seen.append(now))
    assert seen == [("dialogues", done, 6) for done in range(7)]


def test_seeds_differ_by_run_sample_and_try(tmp_path: Path) -> None:
    reader = MevisReader(make_videos(tmp_path, QUERIES))
    seeds = []
    for seed in (0, 1):
        _, asked = made(reader, tmp_path / str(seed), lambda asked: Say("no"), tries=2, seed=seed)
        seeds += [one.body["seed"] for one in asked]
    assert len(set(seeds)) == len(seeds) == 24
    assert all(0 <= seed < 2**31 for seed in seeds)


def run_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-c",
        "from videoseg.cli.main import entry; entry()",
        "data",
        "cot",
        *arguments,
    ]
    environment = {**os.environ, "NO_PROXY": "127.0.0.1", "VIDEOSEG_REMOTE_MODEL": "big"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_the_command_of_the_documentation(tmp_path: Path) -> None:
    folder = make_videos(tmp_path, QUERIES)
    with serve(good_teacher) as stub:
        done = run_cli(
            "mevis", str(folder), str(tmp_path / "out"), "--base-url", stub.url, "--count", "3", "--json",
            "--limits", '{"min_tiou": 0.6, "leaks": ["mask"]}', "--overrides", '{"high_frames": 4}',
            "--retries", "0",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert {one.body["model"] for one in stub.asked} == {"big"}
    report = json.loads(done.stdout)
    assert (report["accepted"], report["samples"]) == (3, 3)
    assert report["run"]["play"]["limits"]["min_tiou"] == 0.6
    assert read(tmp_path / "out/VTS-CoT/mevis.report.json") == report
    assert len(VtsCotReader(tmp_path / "out", videos=tmp_path)[0].high_frames) == 4
    assert "3 dialogues of 3 samples" in re.sub(r"\s+", " ", done.stderr)


def test_the_command_says_when_samples_could_not_be_asked(tmp_path: Path) -> None:
    folder = make_videos(tmp_path, QUERIES[:2])
    with serve(lambda asked: Say(status=500)) as stub:
        done = run_cli("mevis", str(folder), str(tmp_path / "out"), "--base-url", stub.url, "--retries", "0")
    assert done.returncode == 3
    assert "2 samples could not be asked" in re.sub(r"\s+", " ", done.stderr)
    done = run_cli("mevis", str(folder), str(tmp_path / "out"), "--base-url", "nowhere")
    assert done.returncode == 2
    assert "base_url is 'nowhere'" in done.stderr


def test_no_pixels_beyond_the_budget(tmp_path: Path) -> None:
    """A large frame is shown within the pixels of its role, as in cold start."""
    import base64
    import io

    from PIL import Image

    folder = make_videos(tmp_path, QUERIES[:1])
    large = np.zeros((600, 800, 3), dtype=np.uint8)
    for index in range(FRAMES):
        Image.fromarray(large).save(folder / f"train/JPEGImages/v1/{index:05d}.jpg")
    masks = [code(square(100, 100, 200, height=600, width=800))] * FRAMES
    edit_json(folder / "train/mask_dict.json", lambda data: data.update({"7": masks}))
    _, asked = made(MevisReader(folder), tmp_path / "out", lambda asked: Say(answer(0, 11, 5)))
    parts = [part for part in asked[0].messages[1]["content"] if part["type"] == "image_url"]
    files = (io.BytesIO(base64.b64decode(part["image_url"]["url"].partition(",")[2])) for part in parts)
    areas = [image.width * image.height for image in map(Image.open, files)]
    assert max(areas[:FRAMES]) <= 25_088 < max(areas[FRAMES:]) <= 100_352
