"""Generated clips in the layouts of real datasets, read back by the readers of those datasets."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from videoseg.cli.main import main
from videoseg.data.readers import open_dataset
from videoseg.data.world import (
    FAMILIES,
    TEST_SEEDS,
    VALID_SEEDS,
    Sample,
    Stage,
    WorldSpec,
    draw_sample,
    true_trace,
)
from videoseg.data.world.files import write_labels
from videoseg.data.world.layouts import Written, write_layouts, write_videos
from videoseg.data.world.parallel import map_seeds
from videoseg.data.world.plan import LAYOUTS, Plan, split_of
from videoseg.dialogue.grammar import format_reply
from videoseg.errors import OutputError, UsageError
from videoseg.video.sampling import sample_video

SPEC = WorldSpec(width=96, height=64, lengths=(6, 9))
SEEDS = range(48, 60)
PLAN = Plan(SEEDS, SPEC)


def samples() -> list[Sample]:
    return [draw_sample(seed, SPEC) for seed in SEEDS]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write_layouts(tmp_path_factory.mktemp("world"), PLAN)


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder and the digest of its bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def truth(sample: Sample, frame: int) -> np.ndarray:
    masks = Stage(sample.scene).masks(frame)[list(sample.question.targets)]
    return np.logical_or.reduce(masks, axis=0)


def opened(written: Written, name: str):
    sets = {"mevis": "video_datas/mevis", "ref-ytvos": "video_datas/rvos"}
    return open_dataset(name, written.root / sets.get(name, ""))


@pytest.mark.parametrize("name", LAYOUTS)
def test_readers_give_back_queries_and_masks(written: Written, name: str) -> None:
    wanted = [s for s in samples() if name != "ref-ytvos" or len(s.question.targets) == 1]
    reader = opened(written, name)
    assert len(reader) == len(wanted) == written.counts[name]
    for index, sample in enumerate(wanted):
        item, frames = reader[index], range(sample.scene.num_frames)
        assert item.query == sample.question.text
        assert len(item.frames) == len(frames)
        assert len(item.targets) == len(sample.question.targets)
        for frame, mask in zip(frames, item.masks(frames), strict=True):
            assert (mask.decode() == truth(sample, frame)).all()


def test_the_set_holds_every_kind_of_query(written: Written) -> None:
    assert set(written.families) == set(FAMILIES)
    assert sum(written.families.values()) == len(SEEDS)
    single = len(SEEDS) - written.families["none"] - written.families["several"]
    assert written.counts["ref-ytvos"] == single


def test_frames_are_those_of_the_scene(written: Written) -> None:
    sample, item = samples()[0], opened(written, "mevis")[0]
    for frame, picture in enumerate(item.frames.read(range(sample.scene.num_frames))):
        drawn = Stage(sample.scene).frame(frame)[0]
        assert np.abs(picture.astype(int) - drawn).mean() < 3


def test_dialogues_are_the_true_traces(written: Written) -> None:
    for sample, item in zip(samples(), opened(written, "vts-cot"), strict=True):
        replies = true_trace(sample, sample_video(sample.scene.num_frames, 6)).replies
        assert item.replies == tuple(format_reply(reply) for reply in replies)
        assert item.high_frames == sample_video(sample.scene.num_frames, 3)
        assert len(item.selects) == len(replies) - 1
        assert all(sample.question.text in prompt for prompt in item.prompts)


def test_prompts_say_where_the_target_shows(written: Written) -> None:
    for sample, item in zip(samples(), opened(written, "rl"), strict=True):
        shows = tuple(bool(truth(sample, frame).any()) for frame in range(sample.scene.num_frames))
        assert item.existence == (shows if sample.question.targets else (False,) * len(shows))


def test_label_pictures_tell_all_things_apart(tmp_path: Path) -> None:
    masks = np.zeros((3, 4, 6), dtype=bool)
    masks[0, 0], masks[2, 2:, :2] = True, True
    write_labels(masks, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == "P"
        labels = np.asarray(picture)
        colours = np.asarray(picture.convert("RGB"))
    assert (labels[0] == 1).all()
    assert (labels[2:, :2] == 3).all()
    assert np.count_nonzero(labels) == 10
    assert tuple(colours[0, 0]) == (128, 0, 0)
    assert tuple(colours[3, 0]) == (128, 128, 0)


def test_the_number_of_processes_changes_no_byte(written: Written, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    other = write_layouts(tmp_path, PLAN, workers=2, progress=lambda *step: seen.append(step))
    assert contents(tmp_path) == contents(written.root)
    assert other.counts == written.counts
    assert seen == [("clips", done, len(SEEDS)) for done in range(1, len(SEEDS) + 1)]


def interrupted(folder: Path, plan: Plan, after: int = 3) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if done == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_layouts(folder, plan, progress=stop)


def test_an_interrupted_run_goes_on_where_it_stopped(written: Written, tmp_path: Path) -> None:
    interrupted(tmp_path, PLAN)
    assert not list(tmp_path.rglob("meta_expressions.json"))
    finished = sorted(tmp_path.rglob("*.jpg"))
    times = [path.stat().st_mtime_ns for path in finished]
    write_layouts(tmp_path, PLAN)
    assert [path.stat().st_mtime_ns for path in finished] == times
    assert contents(tmp_path) == contents(written.root)


def test_a_half_written_clip_is_written_again(written: Written, tmp_path: Path) -> None:
    interrupted(tmp_path, PLAN)
    next((tmp_path / ".world-train").glob(f"{SEEDS[1]}.json")).unlink()
    broken = tmp_path / f"video_datas/mevis/train/JPEGImages/world{SEEDS[1]:010d}/00002.jpg"
    broken.write_bytes(b"")
    write_layouts(tmp_path, PLAN)
    assert contents(tmp_path) == contents(written.root)


def test_other_settings_are_not_mixed(tmp_path: Path) -> None:
    small, other = replace(PLAN, seeds=range(2), layouts=("mevis",)), replace(PLAN, seeds=range(3))
    interrupted(tmp_path, small, after=1)
    with pytest.raises(OutputError, match="unfinished run with other settings"):
        write_layouts(tmp_path, other)
    first = write_layouts(tmp_path, small)
    assert write_layouts(tmp_path, small) == first
    with pytest.raises(OutputError, match="the split train was written with other settings"):
        write_layouts(tmp_path, other)
    assert write_layouts(tmp_path, other, overwrite=True).counts["mevis"] == 3


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file: cannot be written"):
        write_layouts(tmp_path / "file", PLAN)


def test_held_out_splits_lie_side_by_side(tmp_path: Path) -> None:
    for seeds in (range(2), range(VALID_SEEDS.start, VALID_SEEDS.start + 2)):
        write_layouts(tmp_path, Plan(seeds, SPEC, "motion", ("mevis", "ref-ytvos")))
    assert len(open_dataset("mevis", tmp_path / "video_datas/mevis", "valid_u")) == 2
    valid = open_dataset("ref-ytvos", tmp_path / "video_datas/rvos", "valid")
    assert valid[0].masks([0])[0].area > 0


def test_seeds_belong_to_one_split() -> None:
    assert [split_of(seeds) for seeds in (range(3), VALID_SEEDS, TEST_SEEDS[:5])] == [
        "train",
        "valid",
        "test",
    ]
    with pytest.raises(UsageError, match="not of one split"):
        split_of(range(VALID_SEEDS.start - 1, VALID_SEEDS.start + 1))
    with pytest.raises(UsageError, match="no seeds"):
        split_of(range(0))


def test_held_out_seeds_give_no_training_dialogues() -> None:
    with pytest.raises(UsageError, match="vts-cot hold training dialogues"):
        Plan(TEST_SEEDS[:2], layouts=("mevis", "vts-cot"))
    with pytest.raises(UsageError, match="unknown layout coco"):
        Plan(range(2), layouts=("coco",))


def test_any_resolution_and_length(tmp_path: Path) -> None:
    spec = WorldSpec(width=130, height=74, lengths=(5,))
    write_layouts(tmp_path, Plan(range(2), spec, "appearance", ("mevis",)))
    item = open_dataset("mevis", tmp_path / "video_datas/mevis")[1]
    assert (len(item.frames), item.frames.size(0)) == (5, (74, 130))
    assert item.masks([0])[0].area > 0


def test_videos_are_written_by_several_processes(tmp_path: Path) -> None:
    paths = write_videos(tmp_path, range(2), replace(SPEC, lengths=(4,)), "motion", workers=2)
    assert [path.name for path in paths] == ["motion_0.mp4", "motion_1.mp4"]
    assert all(path.is_file() and path.with_suffix(".json").is_file() for path in paths)


def test_workers_must_be_positive() -> None:
    with pytest.raises(UsageError, match="workers must be at least 1"):
        list(map_seeds(abs, range(3), workers=0))


def test_the_command_line_writes_layouts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["data", "world", str(tmp_path / "out"), "--count", "3", "--family", "none"]
    size = ["--width", "96", "--height", "64", "--frames", "6"]
    assert main([*arguments, *size, "--layout", "all"]) == 0
    meta = json.loads((tmp_path / "out/video_datas/mevis/train/meta_expressions.json").read_text())
    assert len(meta["videos"]) == 3
    assert all(v["expressions"]["0"]["anno_id"] == [] for v in meta["videos"].values())
    assert main([*arguments, *size, "--layout", "mevis"]) == OutputError.exit_code
    assert "other settings" in capsys.readouterr().err
    assert main([*arguments, "--width", "4"]) == UsageError.exit_code


def test_the_command_line_draws_and_counts(tmp_path: Path) -> None:
    extra = ["--sheet", str(tmp_path / "sheet.png"), "--stats", str(tmp_path / "stats.html")]
    size = ["--width", "96", "--height", "64", "--frames", "6"]
    assert main(["data", "world", str(tmp_path / "out"), "--count", "4", *size, *extra]) == 0
    assert len(list((tmp_path / "out").glob("*.mp4"))) == 4
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 300
    assert "4 clips" in (tmp_path / "stats.html").read_text()
