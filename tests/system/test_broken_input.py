"""Broken input through the command line: a named error, its exit code, nothing half-written left behind."""

from __future__ import annotations

import json
import shutil
import wave
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from builders import moving_square, random_o3
from videoseg.cli.main import main
from videoseg.models.checkpoints.folder import save_folder
from videoseg.video.writer import VideoWriter


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_folder(random_o3(), tmp_path_factory.mktemp("model") / "o3")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with VideoWriter(path, 10.0) as writer:
        for frame in moving_square(40):
            writer.write(frame)
    return path


def missing(folder: Path, clip: Path) -> str:
    return str(folder / "nowhere.mp4")


def empty(folder: Path, clip: Path) -> str:
    (folder / "empty.mp4").touch()
    return str(folder / "empty.mp4")


def text(folder: Path, clip: Path) -> str:
    (folder / "text.mp4").write_text("this is no video\n" * 100)
    return str(folder / "text.mp4")


def truncated(folder: Path, clip: Path) -> str:
    data = clip.read_bytes()
    (folder / "cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    return str(folder / "cut.mp4")


def damaged(folder: Path, clip: Path) -> str:
    with av.open(str(clip)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][20]
        position, size = packet.pos, packet.size
    data = bytearray(clip.read_bytes())
    data[position : position + size] = b"\xff" * size
    (folder / "damaged.mp4").write_bytes(data)
    return str(folder / "damaged.mp4")


def audio(folder: Path, clip: Path) -> str:
    with wave.open(str(folder / "sound.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(np.zeros(8000, np.int16).tobytes())
    return str(folder / "sound.wav")


def audio_in_mp4(folder: Path, clip: Path) -> str:
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return str(folder / "sound.mp4")


def no_images(folder: Path, clip: Path) -> str:
    (folder / "notes.txt").write_text("x")
    return str(folder)


def two_sizes(folder: Path, clip: Path) -> str:
    for index, size in enumerate([(64, 48), (64, 48), (48, 64)]):
        Image.new("RGB", size).save(folder / f"{index}.png")
    return str(folder)


def broken_image(folder: Path, clip: Path) -> str:
    for index in range(3):
        Image.new("RGB", (64, 48)).save(folder / f"{index}.png")
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:60])
    return str(folder)


def empty_glob(folder: Path, clip: Path) -> str:
    return str(folder / "*.png")


VIDEOS: dict[Callable[[Path, Path], str], str] = {
    missing: "nowhere.mp4",
    empty: "empty",
    text: "text.mp4",
    truncated: "cut",
    damaged: "damaged.mp4",
    audio: "no video stream",
    audio_in_mp4: "no video stream",
    no_images: "no image",
    two_sizes: "2.png",
    broken_image: "1.png",
    empty_glob: "match",
}


@pytest.mark.parametrize("make", VIDEOS, ids=lambda make: make.__name__)
def test_a_broken_video(
    make: Callable[[Path, Path], str],
    clip: Path,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    video = make(source, clip)
    before = sorted(source.rglob("*"))
    out = str(tmp_path / "out" / "here")
    code = main(["segment", video, "the disc", "--model", str(model), "--out", out])
    said = capsys.readouterr().err
    assert code == 3, said
    assert said.startswith("error: ")
    assert VIDEOS[make] in said
    assert "Traceback" not in said
    assert sorted(source.rglob("*")) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["  "], 3, "empty"),
        (["the [SEG] disc"], 3, "[SEG]"),
        (["the disc", "--preset", "bogus"], 2, "bogus"),
        (["the disc", "--overrides", '{"bogus": 1}'], 2, "bogus"),
        (["the disc", "--overrides", '{"low_frames": 0}'], 2, "low_frames"),
        (["the disc", "--propagation", "bogus"], 2, "bogus"),
        (["the disc", "--propagation", "original_sam2"], 2, "original"),
        (["the disc", "--dtype", "int3"], 3, "int3"),
        (["the disc", "--max-turns", "many"], 2, "max_turns"),
        (["the disc", "--bogus", "1"], 2, "bogus"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_broken_arguments(
    arguments: list[str],
    code: int,
    says: str,
    clip: Path,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = str(tmp_path / "out")
    assert main(["segment", str(clip), *arguments, "--model", str(model), "--out", out]) == code
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def without_key(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state.pop("text_hidden_fcs.0.bias")
    save_file(state, folder / "model.safetensors")


def without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def torn_config(folder: Path) -> None:
    (folder / "config.json").write_text((folder / "config.json").read_text()[:50])


def torn_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize("damage", [without_key, without_config, torn_config, torn_weights])
def test_a_broken_checkpoint(
    damage: Callable[[Path], None],
    clip: Path,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken = Path(shutil.copytree(model, tmp_path / "broken"))
    damage(broken)
    out = str(tmp_path / "out")
    assert main(["segment", str(clip), "the disc", "--model", str(broken), "--out", out]) == 3
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_an_unknown_checkpoint(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["segment", str(clip), "the disc", "--model", "bogus", "--out", str(tmp_path / "o")]) == 3
    assert "videoseg-o3-4b" in capsys.readouterr().err


def test_results_that_exist_are_kept(
    clip: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "masks.json").write_text(json.dumps("precious"))
    code = main(["segment", str(clip), "the disc", "--model", str(model), "--out", str(out)])
    assert code == 2
    assert "--overwrite" in capsys.readouterr().err
    assert json.loads((out / "masks.json").read_text()) == "precious"
