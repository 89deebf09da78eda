"""Real files of several codecs, sizes, rotations and frame rates through `videoseg segment`, end to end.

All are made from the bundled clip, so that the bundled model knows what it sees and the truth is known.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from videoseg import Video
from videoseg.cli.main import main
from videoseg.data.world.truth import ClipTruth, read_truth
from videoseg.evaluation.metrics import region
from videoseg.export.result import load
from videoseg.models.checkpoints.hub import ASSETS

DEMO = ASSETS / "tiny" / "demo.mp4"
Masks = list[np.ndarray]
Made = tuple[Path, Masks]


@pytest.fixture(scope="module")
def truth() -> ClipTruth:
    """The demo's target, asked for by its colour: the marks of a pixel do not survive every codec."""
    path = ASSETS / "tiny" / "demo_truth.json"
    data = json.loads(path.read_text())
    colours = [thing["colour"] for thing in data["things"]]
    colour = colours[data["queries"][0]["targets"][0]]
    assert colours.count(colour) == 1
    return replace(read_truth(path)[0], query=f"the {colour} one")


@pytest.fixture(scope="module")
def frames() -> Masks:
    with Video(DEMO) as video:
        return list(video)


def encode(
    path: Path, frames: Masks, codec: str, rate: int, times: list[int] | None = None, turn: int = 0
) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.bit_rate = 2_000_000
        if turn:
            stream.set_display_rotation(turn, hflip=False)
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
            frame.pts, frame.time_base = times[index] if times else index, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def phone(folder: Path, frames: Masks, masks: Masks) -> Made:
    """H.264 recorded lying on its side, turned upright by the display matrix, 30 frames per second."""
    lying = [np.rot90(frame, -1) for frame in frames]
    return encode(folder / "phone.mp4", lying, "libx264", 30, turn=90), masks


def odd_vfr(folder: Path, frames: Masks, masks: Masks) -> Made:
    """VP9 in WebM, an odd size, variable frame rate."""
    times = np.cumsum([1 + index % 3 for index in range(len(frames))]).tolist()
    cut = [frame[:-1, :-1] for frame in frames]
    return encode(folder / "odd.webm", cut, "libvpx-vp9", 24, times), [mask[:-1, :-1] for mask in masks]


def large_avi(folder: Path, frames: Masks, masks: Masks) -> Made:
    """Motion JPEG in AVI at three times the size, 12 frames per second."""
    size = (frames[0].shape[1] * 3, frames[0].shape[0] * 3)
    large = [np.asarray(Image.fromarray(frame).resize(size)) for frame in frames]
    return encode(folder / "large.avi", large, "mjpeg", 12), [
        mask.repeat(3, 0).repeat(3, 1) for mask in masks
    ]


def images(folder: Path, frames: Masks, masks: Masks) -> Made:
    """A folder of JPEG files whose numbers are not padded."""
    target = folder / "frames"
    target.mkdir()
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(target / f"{index}.jpg", quality=95)
    return target, masks


MAKERS: list[Callable[[Path, Masks, Masks], Made]] = [phone, odd_vfr, large_avi, images]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_segment_end_to_end(
    make: Callable[[Path, Masks, Masks], Made], frames: Masks, truth: ClipTruth, tmp_path: Path
) -> None:
    path, masks = make(tmp_path, frames, truth.masks())
    out = tmp_path / "out"
    assert main(["segment", str(path), truth.query, "--out", str(out)]) == 0
    assert {p.name for p in out.iterdir()} == {
        "masks.json",
        "masks",
        "overlay.mp4",
        "trace.json",
        "trace.html",
    }
    result = load(out)
    assert (result.video.num_frames, result.video.height, result.video.width) == (len(masks), *masks[0].shape)
    assert len(result.trace.turns) >= 2
    guess = [result.masklets.union(index) for index in range(len(masks))]
    assert np.mean([region(t, g) for t, g in zip(masks, guess, strict=True)]) > 0.5
    assert len(list((out / "masks").rglob("*.png"))) == len(masks) * len(result.masklets)
    with Video(out / "overlay.mp4") as overlay:
        assert len(overlay) == len(masks)


def test_several_questions_and_json(
    tmp_path: Path, truth: ClipTruth, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["segment", str(DEMO), truth.query, "the thing", "--out", str(out), "--json"]
    arguments += ["--png", "false", "--overlay=false", "--alpha"]
    assert main(arguments) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [entry["trace"]["query"]["text"] for entry in printed] == [truth.query, "the thing"]
    assert {p.name for p in (out / "query-0").iterdir()} == {
        "alpha.webm",
        "masks.json",
        "trace.json",
        "trace.html",
    }
    assert load(out / "query-1").query.text == "the thing"


def test_the_demo_reports_its_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 0
    said = capsys.readouterr().err
    assert "turn 1" in said
    score = float(said.split("J&F ")[1].split()[0])
    assert score > 50
    assert (tmp_path / "demo" / "trace.html").stat().st_size > 10_000


def test_the_example_runs(tmp_path: Path) -> None:
    import subprocess
    import sys

    example = Path(__file__).resolve().parents[2] / "examples" / "segment.py"
    done = subprocess.run(
        [sys.executable, str(example)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "stopped by" in done.stdout
    assert (tmp_path / "segment-example" / "masks.json").exists()
