"""A run in its folder: what is kept, what goes on, what is refused, what is reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_builders import write_json
from eval_stub import StubSetup, make_videos
from videoseg.errors import DatasetError, OutputError, UsageError
from videoseg.evaluation.runner import Pool, Settings, Shard, Step, pool_of, run
from videoseg.evaluation.session import Asked, Session
from videoseg.evaluation.store import Store


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    (tmp_path / "notes").mkdir()
    return tmp_path / "notes"


def opened(data: Path, out: Path, *, settings: Settings | None = None, **more: Any) -> Session:
    asked = Asked("mevis", data, allow_counts=True, **more)
    return Session.open(asked, settings or Settings(), out)


def steady(session: Session) -> dict[str, Any]:
    """The report without what differs from run to run."""
    content = session.report()
    assert content.pop("provenance")["videos"] == len(session.groups)
    assert json.loads((session.store.folder / "report.json").read_text())["items"] == content["items"]
    return content


def test_a_whole_run(tmp_path: Path, notes: Path) -> None:
    session = opened(make_videos(tmp_path / "mevis"), tmp_path / "out")
    steps: list[Step] = []
    run(session.store, session.groups, StubSetup(notes), notify=steps.append)
    assert [step.masks for step in steps] == [0, 8, 16, 24, 32]
    assert {step.total for step in steps} == {32}
    content = steady(session)
    assert content["n_scored"] == 8
    # The truth is visible on the first two frames only; "nothing" is answered and meant.
    assert content["items"]["v0/1"]["J"] == 1.0
    assert content["items"]["v0/0"]["J"] == pytest.approx((40 / 88 + 48 / 80) / 4)
    facts = content["facts"]["v0/0"]
    assert (facts["turns"], facts["stop"], facts["keyframe"], facts["keyframe_hit"]) == (2, "answer", 1, True)
    assert (facts["interval"], facts["interval_iou"], facts["tokens"]) == ([1, 2], pytest.approx(1 / 3), 5)
    assert content["facts"]["v0/1"]["interval_iou"] is None
    assert content["dialogue"]["turns"] == {"2": 8}
    assert content["dialogue"]["grounding"]["mIoU"] == pytest.approx(100 / 3)
    assert content["dialogue"]["valid_format"] == 100


def test_prediction_files_have_the_layout_of_o3(tmp_path: Path, notes: Path) -> None:
    session = opened(make_videos(tmp_path / "mevis", 1), tmp_path / "out")
    run(session.store, session.groups, StubSetup(notes))
    document = json.loads((tmp_path / "out/predictions/v0.json").read_text())
    entry = document["v0"]["0"]
    assert entry["frames"] == ["00000", "00001", "00002", "00003"]
    assert entry["prediction_masks"][0]["size"] == [24, 32]
    assert (entry["num_rounds"], entry["sample_index"], entry["keyframe_index"]) == (2, [0], [1])
    assert entry["text_prediction"] == ["a", "b"]
    assert entry["exp"] == "the thing"
    assert document["v0"]["1"]["prediction_masks"] == [None] * 4


def test_what_is_done_is_not_done_again(tmp_path: Path, notes: Path) -> None:
    data = make_videos(tmp_path / "mevis")
    session = opened(data, tmp_path / "out", limit=2)
    run(session.store, session.groups, StubSetup(notes))
    assert steady(session)["n_expected"] == 4
    again = opened(data, tmp_path / "out")
    steps: list[Step] = []
    run(again.store, again.groups, StubSetup(notes), notify=steps.append)
    assert steps[0].masks == 16
    assert StubSetup(notes).count("task") == 4
    run(again.store, again.groups, StubSetup(notes, broken=True))
    assert steady(again)["n_scored"] == 8


@pytest.mark.parametrize("pool", [Pool(), Pool("processes", 2)], ids=["inline", "processes"])
def test_shards_together_are_the_whole(tmp_path: Path, notes: Path, pool: Pool) -> None:
    data = make_videos(tmp_path / "mevis", 5)
    whole = opened(data, tmp_path / "whole")
    run(whole.store, whole.groups, StubSetup(notes))
    parts = opened(data, tmp_path / "parts")
    run(parts.store, Shard.parse("2/2").of(parts.groups), StubSetup(notes), pool)
    assert parts.open_videos() == ["v0", "v2", "v4"]
    run(parts.store, Shard.parse("1/2").of(parts.groups), StubSetup(notes), pool)
    assert parts.open_videos() == []
    assert steady(parts) == steady(whole)


def test_a_failure_is_kept_and_tried_again(tmp_path: Path, notes: Path) -> None:
    session = opened(make_videos(tmp_path / "mevis"), tmp_path / "out")
    errors: list[str] = []
    setup = StubSetup(notes, fails=("v1",))
    run(session.store, session.groups, setup, notify=lambda step: errors.append(step.error))
    assert [error for error in errors if error] == ["v1: frame 2 cannot be read"]
    kept = session.failures()["v1"]
    assert (kept["kind"], kept["bad_input"], kept["attempts"]) == ("FrameError", True, 1)
    assert "eval_stub.py" in kept["traceback"]
    content = session.report()
    assert content["failures"] == {"v1": "FrameError: v1: frame 2 cannot be read"}
    assert content["missing"] == ["v1/0", "v1/1"]
    run(session.store, session.groups, StubSetup(notes))
    assert session.failures() == {}
    assert StubSetup(notes).count("task", "v1") == 2
    assert StubSetup(notes).count("task", "v0") == 1
    assert steady(session)["n_missing"] == 0


def test_a_run_in_which_everything_failed_has_a_report(tmp_path: Path, notes: Path) -> None:
    session = opened(make_videos(tmp_path / "mevis", 2), tmp_path / "out")
    run(session.store, session.groups, StubSetup(notes, fails=("v0", "v1")))
    content = session.report()
    assert set(content["failures"]) == {"v0", "v1"}
    assert content["n_missing"] == content["n_expected"] == 4
    assert content["scores"]["overall"]["JF"] == 0
    assert (tmp_path / "out" / "report.html").exists()


def test_a_killed_worker_costs_its_video_only(tmp_path: Path, notes: Path) -> None:
    data = make_videos(tmp_path / "mevis")
    session = opened(data, tmp_path / "out")
    setup = StubSetup(notes, dies=("v2",))
    run(session.store, session.groups, setup, Pool("processes", 2))
    assert setup.count("death") == 1
    assert {name: setup.count("task", name) for name in ("v0", "v1", "v2", "v3")} == {
        "v0": 1,
        "v1": 1,
        "v2": 2,
        "v3": 1,
    }
    plain = opened(data, tmp_path / "plain")
    run(plain.store, plain.groups, StubSetup(notes))
    assert steady(session) == steady(plain)


def test_a_video_that_always_kills_is_given_up(tmp_path: Path, notes: Path) -> None:
    session = opened(make_videos(tmp_path / "mevis"), tmp_path / "out")
    run(session.store, session.groups, StubSetup(notes, dies=("v1",), deaths=9), Pool("processes", 2))
    assert list(session.failures()) == ["v1"]
    assert session.failures()["v1"]["kind"] == "WorkerDied"
    assert StubSetup(notes).count("death") == 2


def test_the_device_and_what_is_said_twice_do_not_matter(tmp_path: Path) -> None:
    data = make_videos(tmp_path / "mevis")
    opened(data, tmp_path / "out", settings=Settings(options={"device": "cpu", "temperature": None}))
    opened(data, tmp_path / "out", settings=Settings(options={"device": "cuda", "max_turns": 3}))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (Settings(options={"seed": 4}), "options.seed: was null, now 4"),
        (Settings(options={"max_turns": 1}), "preset.budget.max_turns: was 3, now 1"),
    ],
)
def test_a_folder_of_other_settings_is_refused(tmp_path: Path, settings: Settings, told: str) -> None:
    data = make_videos(tmp_path / "mevis")
    opened(data, tmp_path / "out")
    with pytest.raises(OutputError, match=told):
        opened(data, tmp_path / "out", settings=settings)


def test_a_folder_of_other_questions_is_refused(tmp_path: Path) -> None:
    opened(make_videos(tmp_path / "mevis"), tmp_path / "out")
    with pytest.raises(OutputError, match="questions: was"):
        opened(make_videos(tmp_path / "other", 3), tmp_path / "out")
    with pytest.raises(OutputError, match=r"protocol: was .official., now .o3."):
        opened(tmp_path / "mevis", tmp_path / "out", protocol="o3")


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").touch()
    with pytest.raises(OutputError, match=r"holds thesis.tex, but no run"):
        opened(make_videos(tmp_path / "mevis"), tmp_path / "out")


def test_counts_are_checked_before_the_work(tmp_path: Path) -> None:
    data = make_videos(tmp_path / "mevis")
    with pytest.raises(DatasetError, match="4 videos, 50 were published"):
        Session.open(Asked("mevis", data), Settings(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_split_without_masks_is_answered_for_the_server(tmp_path: Path, notes: Path) -> None:
    data = make_videos(tmp_path / "mevis", split="valid")
    (data / "valid/mask_dict.json").unlink()
    session = opened(data, tmp_path / "out", split="valid")
    run(session.store, session.groups, StubSetup(notes))
    assert not session.published
    assert session.open_videos() == []
    with pytest.raises(DatasetError, match="only the benchmark's server"):
        session.report()


def test_names_with_slashes_are_files(tmp_path: Path) -> None:
    store = Store(tmp_path / "out")
    store.claim({"benchmark": "revos"})
    for video in ("TAO/train/x", "TAO%2Ftrain/x", "..", "ä b"):
        assert not store.has(video)
        store.save(video, json.dumps({video: {}}))
        assert store.has(video)
    assert len(list((tmp_path / "out/predictions").iterdir())) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2"])
def test_a_shard_is_part_i_of_n(text: str) -> None:
    with pytest.raises(UsageError, match="I/N"):
        Shard.parse(text)


def test_which_workers_are_chosen() -> None:
    assert pool_of(0, False, "cpu") == Pool("inline", 1)
    assert pool_of(3, False, "cpu") == Pool("processes", 3)
    assert pool_of(2, True, "cpu") == Pool("ray", 2)
    with pytest.raises(UsageError, match="--processes"):
        pool_of(-1, False, "cpu")


def test_frames_that_are_not_there_fail_their_video(tmp_path: Path, notes: Path) -> None:
    data = make_videos(tmp_path / "mevis")
    (data / "valid_u/JPEGImages/v3/00002.jpg").unlink()
    session = opened(data, tmp_path / "out")
    run(session.store, session.groups, StubSetup(notes))
    assert list(session.failures()) == ["v3"]
    assert "00002.jpg" in session.failures()["v3"]["error"]
    assert session.failures()["v3"]["bad_input"]


def test_a_damaged_run_file_is_named(tmp_path: Path) -> None:
    data = make_videos(tmp_path / "mevis")
    opened(data, tmp_path / "out")
    (tmp_path / "out/run.json").write_text("{")
    with pytest.raises(OutputError, match=r"run.json is no JSON"):
        opened(data, tmp_path / "out")


def test_the_generated_world_needs_no_folder(tmp_path: Path, notes: Path) -> None:
    session = Session.open(Asked("world", clips=1, limit=2), Settings(), tmp_path / "out")
    run(session.store, session.groups, StubSetup(notes))
    content = session.report()
    assert list(content["scores"])[-1] == "overall"
    assert len(content["items"]) == 2
    assert {path.suffix for path in (tmp_path / "out/clips").iterdir()} == {".mp4", ".json"}
    with pytest.raises(UsageError, match="mevis needs --data"):
        Session.open(Asked("mevis"), Settings(), tmp_path / "no")
    with pytest.raises(UsageError, match="--clips"):
        Session.open(Asked("world", clips=0), Settings(), tmp_path / "no")
    with pytest.raises(UsageError, match="--limit"):
        Session.open(Asked("world", clips=1, limit=0), Settings(), tmp_path / "no")


def test_written_and_drawn_clips_of_the_world_score_alike(tmp_path: Path, notes: Path) -> None:
    """The same seeds from a folder in MeViS layout: the same truth, so the same scores for the same masks."""
    from videoseg.data.world.layouts import write_layouts
    from videoseg.data.world.plan import Plan
    from videoseg.data.world.sampler import TEST_SEEDS

    seeds = range(TEST_SEEDS.start, TEST_SEEDS.start + 2)
    write_layouts(tmp_path / "world", Plan(seeds, family="motion", layouts=("mevis",)))
    written = Session.open(Asked("world", tmp_path / "world"), Settings(), tmp_path / "a")
    assert {item.group for item in written.items} == {"motion"}
    run(written.store, written.groups, StubSetup(notes))
    drawn = Session.open(Asked("world", clips=2), Settings(), tmp_path / "b")
    same = [item for item in drawn.items if item.group == "motion"]
    assert [item.truth() for item in same] == [item.truth() for item in written.items]
    assert [item.text for item in same] == [item.text for item in written.items]


def test_reason_vos_keys_nest_deeper(tmp_path: Path, notes: Path) -> None:
    from data_builders import binary_png, jpegs, square
    from eval_stub import STEMS

    questions = [
        {"obj_id": 3, "exp_id": 0, "exp_text": "one", "is_sent": True},
        {"obj_id": 4, "exp_id": 0, "exp_text": "two", "is_sent": True},
    ]
    entry = {"source": "MOSE", "frames": STEMS, "expressions": questions}
    write_json(tmp_path / "data/meta_expressions.json", {"videos": {"v": entry}})
    jpegs(tmp_path / "data/JPEGImages/v", STEMS)
    for thing in (3, 4):
        for stem in STEMS[:3]:
            binary_png(tmp_path / f"data/Annotations/MOSE_v_{thing}/{stem}.png", square(3))
    session = Session.open(Asked("reasonvos", tmp_path / "data"), Settings(), tmp_path / "out")
    run(session.store, session.groups, StubSetup(notes))
    document = json.loads((tmp_path / "out/predictions/v.json").read_text())
    assert set(document["v"]) == {"3", "4"}
    content = steady(session)
    assert set(content["items"]) == {"v/3/0", "v/4/0"}
    assert content["n_scored"] == 2


def test_r1_and_side_files_are_part_of_what_masks_depend_on(tmp_path: Path) -> None:
    config = {"videoseg": {"system": "r1", "r1": {"intervals": 3}}}
    write_json(tmp_path / "r1/config.json", config)
    for name in ("model", "sam2"):
        (tmp_path / f"r1/{name}.safetensors").write_bytes(name.encode())
    (tmp_path / "XMem.pth").write_bytes(b"x")
    options = {"xmem": str(tmp_path / "XMem.pth"), "percentages": 4, "device": "cuda", "endpoint": None}
    head = Settings(str(tmp_path / "r1"), options).head()
    assert set(head["model"]) == {"model.safetensors", "sam2.safetensors"}
    assert (head["preset"]["intervals"], head["preset"]["percentages"]) == (3, 4)
    assert list(head["options"]) == ["xmem"]
    (tmp_path / "XMem.pth").write_bytes(b"y")
    assert Settings(str(tmp_path / "r1"), options).head() != head
    assert "model.safetensors" in Settings(options={"tracker": "xmem"}).head()["options"]["xmem"]
    remote = Settings("qwen", {"endpoint": "localhost:8000/v1", "tracker": "sam2"}).head()
    assert remote["model"] == "qwen"
    assert remote["options"] == {"endpoint": "localhost:8000/v1"}
