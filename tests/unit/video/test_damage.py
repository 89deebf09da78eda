"""Broken input: each kind has a named error whose text says where it is and what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from videoseg.errors import (
    CorruptVideoError,
    EmptyVideoError,
    FrameError,
    InputError,
    NoVideoStreamError,
    UnsupportedVideoError,
    VideoError,
    VideoNotFoundError,
)
from videoseg.video.reader import Video

FAST = {"movflags": "faststart"}


def packets_of(path: Path) -> list[tuple[int, int, int]]:
    """`(pts, position, size)` of all packets in file order."""
    with av.open(str(path)) as container:
        found = [(p.pts, p.pos, bytes(p)) for p in container.demux(video=0) if p.size]
    data = path.read_bytes()
    # The position of a Matroska packet is that of the block around it.
    return [(pts, data.index(content, position), len(content)) for pts, position, content in found]


def spoil(path: Path, frame: int, *, fill: bytes = b"\0") -> None:
    """Overwrite the coded data of one frame (by order of presentation)."""
    _, position, size = sorted(packets_of(path))[frame]
    data = bytearray(path.read_bytes())
    data[position : position + size] = (fill * size)[:size]
    path.write_bytes(data)


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def sound_only(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("aac", rate=16000)
        for index in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 16000, index * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def refused(source: Any, kind: type[VideoError], *words: str) -> None:
    """Opening fails with exactly `kind` and a text that holds `words`."""
    with pytest.raises(VideoError) as caught:
        Video(source)
    assert type(caught.value) is kind
    assert isinstance(caught.value, InputError)
    assert caught.value.exit_code == 3
    for word in words:
        assert word in str(caught.value)


def test_missing_path(tmp_path: Path) -> None:
    refused(tmp_path / "none.mp4", VideoNotFoundError, "none.mp4", "check the path")


def test_address() -> None:
    refused("rtsp://camera/stream", UnsupportedVideoError, "rtsp://camera/stream", "download")


def test_glob_without_match(tmp_path: Path) -> None:
    refused(str(tmp_path / "*.png"), VideoNotFoundError, "*.png", "matches nothing")


def test_glob_of_several_videos(tmp_path: Path, clip: Callable) -> None:
    clip("a.mp4", 2)
    clip("b.mp4", 2)
    refused(str(tmp_path / "*.mp4"), VideoNotFoundError, "2 files")


def test_zero_bytes(tmp_path: Path) -> None:
    path = tmp_path / "zero.mp4"
    path.touch()
    refused(path, EmptyVideoError, "zero.mp4", "0 bytes")


@pytest.mark.parametrize("name", ["notes.txt", "notes.mp4"])
def test_not_a_video(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("These are words, and no moving picture.\n" * 50)
    refused(path, UnsupportedVideoError, name, "mp4")


@pytest.mark.parametrize("name", ["sound.mp4", "sound.mkv"])
def test_sound_only(name: str, tmp_path: Path) -> None:
    refused(sound_only(tmp_path / name), NoVideoStreamError, name, "audio")


def test_container_without_index(clip: Callable) -> None:
    """An mp4 whose index comes last and was never written."""
    path = clip("unfinished.mp4", 30)
    cut(path, 0.6)
    refused(path, CorruptVideoError, "unfinished.mp4")


def test_overwritten_header(clip: Callable) -> None:
    path = clip("scrambled.mkv", 10)
    data = bytearray(path.read_bytes())
    data[5:600] = bytes(reversed(data[5:600]))
    path.write_bytes(data)
    with pytest.raises(VideoError, match=r"scrambled\.mkv"):
        Video(path).check()


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("cut.mp4", {"muxer": FAST}),
        ("cut_gops.mp4", {"muxer": FAST, "options": {"g": "5"}}),
        ("cut_fragments.mp4", {"muxer": {"movflags": "frag_keyframe+empty_moov"}, "options": {"g": "25"}}),
        ("cut.mkv", {"options": {"g": "5"}}),
        ("cut.webm", {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}}),
        ("cut.avi", {"codec": "mpeg4"}),
        ("cut_h264.avi", {}),
        ("cut.gif", {"codec": "gif", "pixels": "rgb8"}),
    ],
)
def test_cut_short(name: str, how: dict[str, Any], clip: Callable, read_index: Callable) -> None:
    path = clip(name, 60, **how)
    cut(path, 0.8)
    refused(path, CorruptVideoError, name, "cut short", "frame ")
    with Video(path, conceal_damage=True) as video:
        assert 2 <= len(video) < 60
        assert read_index(video[0]) == 0
        video.check()


def test_cut_names_the_first_frame_that_is_missing(clip: Callable) -> None:
    path = clip("cut.mp4", 60, muxer=FAST, options={"bf": "0"})
    _, position, size = packets_of(path)[40]
    path.write_bytes(path.read_bytes()[: position + size // 2])
    refused(path, CorruptVideoError, "frame 40 ")


@pytest.mark.parametrize("fill", [b"\0", b"\x9c\x31\x5a"])
@pytest.mark.parametrize("name", ["bad.mp4", "bad.mkv"])
def test_damaged_frame_in_the_middle(name: str, fill: bytes, clip: Callable, read_index: Callable) -> None:
    path = clip(name, 40, options={"g": "10", "bf": "0"})
    spoil(path, 25, fill=fill)
    with Video(path) as video:
        assert len(video) == 40
        assert [read_index(video[index]) for index in (0, 24, 30, 39)] == [0, 24, 30, 39]
        for index in (25, 27):
            with pytest.raises(FrameError, match=rf"{name}: frame 25 .*conceal_damage"):
                video[index]
        with pytest.raises(FrameError, match="frame 25 "):
            video.check()
        assert read_index(video[31]) == 31
    with Video(path, conceal_damage=True) as video:
        assert sum(1 for _ in video) == 40


def test_damaged_block_header_of_matroska(clip: Callable) -> None:
    """The demuxer would skip to the next cluster without a word."""
    path = clip("bad.mkv", 40, options={"g": "10", "bf": "0"})
    _, position, _ = packets_of(path)[25]
    data = bytearray(path.read_bytes())
    data[position - 8 : position] = b"\x9c\x31\x5a\x9c\x31\x5a\x9c\x31"
    path.write_bytes(data)
    refused(path, CorruptVideoError, "bad.mkv", "damaged at byte")


def test_damaged_block_of_a_gif(clip: Callable) -> None:
    """The demuxer would take it for the end of the file."""
    path = clip("bad.gif", 20, codec="gif", pixels="rgb8")
    parts = path.read_bytes().split(b"!\xf9\x04")
    path.write_bytes(b"!\xf9\x04".join(parts[:11]) + b"w\xf9\x04" + b"!\xf9\x04".join(parts[11:]))
    refused(path, CorruptVideoError, "bad.gif", "damaged at byte")


def test_container_that_the_demuxer_gives_up_on(clip: Callable) -> None:
    path = clip("lost.flv", 60)
    data = path.read_bytes()
    messages = []
    for start in range(len(data) // 4, len(data), len(data) // 23):
        path.write_bytes(data[:start] + data[start + 40 :])
        with contextlib.suppress(VideoError), Video(path) as video:
            video.check()
        try:
            with Video(path, conceal_damage=True) as video:
                assert 0 < len(list(video)) <= 60
        except VideoError as error:
            messages.append(str(error))
    assert all("lost.flv" in message for message in messages)


def test_damaged_first_frame(clip: Callable) -> None:
    path = clip("bad.mp4", 20, options={"bf": "0"})
    spoil(path, 0)
    refused(path, FrameError, "frame 0 ")


def test_damage_in_a_counted_format(clip: Callable) -> None:
    path = clip("bad.avi", 20, codec="mpeg4")
    spoil(path, 7, fill=b"\x9c\x31\x5a")
    with pytest.raises(FrameError, match=r"bad\.avi: frame \d+ "):
        Video(path).check()


def test_size_changes_within_a_file(clip: Callable, tmp_path: Path) -> None:
    """Two streams of different size, joined as raw H.264 in a transport stream."""
    first = clip("first.ts", 5, options={"bf": "0"})
    second = clip("second.ts", 5, options={"bf": "0"}, size=(64, 96), time_of=lambda index: index + 20)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    with Video(joined) as video, pytest.raises(FrameError, match=r"frame 5 is 64x96"):
        video.check()


def test_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("nothing here")
    (tmp_path / ".hidden.png").write_bytes(b"")
    refused(tmp_path, EmptyVideoError, str(tmp_path), "no image")


def test_images_of_two_sizes(tmp_path: Path) -> None:
    for index, size in enumerate([(8, 6), (8, 6), (9, 6)]):
        Image.new("RGB", size).save(tmp_path / f"{index}.png")
    refused(tmp_path, FrameError, "2.png", "6x9", "6x8")


@pytest.mark.parametrize("content", [b"", b"not an image at all"])
def test_image_that_is_none(content: bytes, tmp_path: Path) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "0.png")
    (tmp_path / "1.png").write_bytes(content)
    refused(tmp_path, FrameError, "1.png", "frame 1")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_image_that_is_cut_short(suffix: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for index in range(3):
        Image.fromarray(noise).save(tmp_path / f"{index}.{suffix}")
    cut(tmp_path / f"1.{suffix}", 0.5)
    with Video(tmp_path) as video:
        assert len(video) == 3
        with pytest.raises(FrameError, match=rf"1\.{suffix}: frame 1 "):
            video.check()


def test_missing_image_of_a_list(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "0.png")
    refused([tmp_path / "0.png", tmp_path / "1.png"], VideoNotFoundError, "1.png", "frame 1")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 6, 8, 3), np.float32),
        np.zeros((4, 6, 8), np.uint8),
        np.zeros((4, 3, 6, 8), np.uint8),
        np.zeros((6, 8, 3), np.uint8),
        np.zeros((4, 6, 8, 4), np.uint8),
    ],
    ids=["float", "grey", "channels first", "one frame", "alpha"],
)
def test_wrong_array(array: np.ndarray) -> None:
    refused(array, UnsupportedVideoError, str(list(array.shape)), str(array.dtype), "[T, H, W, 3]")


@pytest.mark.parametrize("shape", [(0, 6, 8, 3), (4, 0, 8, 3)])
def test_empty_array(shape: tuple[int, ...]) -> None:
    refused(np.zeros(shape, np.uint8), EmptyVideoError, "no frame")


GOOD = np.zeros((6, 8, 3), np.uint8)


@pytest.mark.parametrize("wrap", [list, iter], ids=["sequence", "iterator"])
@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (GOOD.astype(float), "float64"),
        (GOOD[..., 0], "[6, 8]"),
        (np.zeros((7, 8, 3), np.uint8), "7x8"),
        ("words", "<U5"),
    ],
)
def test_wrong_frame_of_a_sequence(bad: Any, word: str, wrap: Callable) -> None:
    refused(wrap([GOOD, GOOD, bad]), FrameError, "frame 2", word)


def test_empty_sequence_and_iterator() -> None:
    refused([], EmptyVideoError, "no frame")
    refused(iter([]), EmptyVideoError, "no frame")


def test_iterator_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def frames() -> Iterator[np.ndarray]:
        yield GOOD
        raise RuntimeError("camera unplugged")

    with pytest.raises(RuntimeError, match="camera"):
        Video(frames())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("source", [7, None, 2.5])
def test_no_video_at_all(source: Any) -> None:
    refused(source, UnsupportedVideoError, type(source).__name__)
