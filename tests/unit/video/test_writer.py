"""Writing of videos: colours, odd sizes, alpha, and nothing left behind on errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from videoseg.errors import OutputError, UsageError
from videoseg.masks import Masklet, Masklets, Rle
from videoseg.video.reader import Video
from videoseg.video.writer import VideoWriter, color_of, overlay, write_alpha, write_overlay


def disc_masklets(count: int, height: int, width: int) -> Masklets:
    """One disc that moves to the right."""
    rows, columns = np.mgrid[:height, :width]
    masks = [(rows - 30) ** 2 + (columns - 20 - 2 * index) ** 2 < 144 for index in range(count)]
    ones = (1.0,) * count
    masklet = Masklet(1, tuple(Rle.encode(mask) for mask in masks), ones, ones)
    return Masklets(count, height, width, (masklet,))


def write_all(path: Path, frames: Iterable[np.ndarray], *, alpha: bool = False) -> None:
    with VideoWriter(path, 10, alpha=alpha) as writer:
        for frame in frames:
            writer.write(frame)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_round_trip(suffix: str, tmp_path: Path, paint: Callable, read_index: Callable) -> None:
    path = tmp_path / f"out{suffix}"
    with VideoWriter(path, 29.97) as writer:
        for index in range(20):
            writer.write(paint(index))
        assert not path.exists()
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    with Video(path) as video:
        assert video.fps == pytest.approx(29.97, rel=1e-3)
        assert [read_index(frame) for frame in video] == list(range(20))
        red, blue = video[5][30, 20].astype(int), video[5][30, 76].astype(int)
        assert np.abs(red - (255, 0, 0)).max() <= 8
        assert np.abs(blue - (0, 0, 255)).max() <= 8


def test_odd_size_repeats_the_edge(tmp_path: Path, paint: Callable) -> None:
    with VideoWriter(tmp_path / "out.mp4", 10) as writer:
        writer.write(paint(7, 49, 97))
    with Video(tmp_path / "out.mp4") as video:
        frame = video[0].astype(int)
        assert frame.shape == (50, 98, 3)
        assert np.abs(frame[30, 97] - (0, 0, 255)).max() <= 12
        assert np.abs(frame[49, 20] - (255, 0, 0)).max() <= 12


def test_lower_crf_is_closer(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    sizes = []
    for crf in (5, 45):
        with VideoWriter(tmp_path / f"{crf}.mp4", 10, crf=crf) as writer:
            writer.write(noise)
        sizes.append((tmp_path / f"{crf}.mp4").stat().st_size)
    assert sizes[0] > 2 * sizes[1]


@pytest.mark.parametrize("had", [False, True])
def test_exception_leaves_nothing_half_written(had: bool, tmp_path: Path, paint: Callable) -> None:
    path = tmp_path / "out.mp4"
    if had:
        path.write_bytes(b"earlier")

    def frames() -> Iterator[np.ndarray]:
        yield paint(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_all(path, frames())
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"earlier"] * had


def test_nothing_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"out\.mp4: no frame"), VideoWriter(tmp_path / "out.mp4", 10):
        pass
    assert list(tmp_path.iterdir()) == []


def test_bad_frames(tmp_path: Path, paint: Callable) -> None:
    with pytest.raises(UsageError, match="frame 1 is 50x96"):
        write_all(tmp_path / "a.mp4", [paint(0), paint(0, 50)])
    with pytest.raises(UsageError, match="float64"):
        write_all(tmp_path / "a.mp4", [paint(0).astype(float)])
    with pytest.raises(UsageError, match=r"uint8 \[H, W, 4\]"):
        write_all(tmp_path / "a.mov", [paint(0)], alpha=True)
    assert list(tmp_path.iterdir()) == []


def test_bad_place_and_kind(tmp_path: Path, paint: Callable) -> None:
    with pytest.raises(OutputError, match="folder exists"):
        write_all(tmp_path / "none" / "a.mp4", [paint(0)])
    with pytest.raises(UsageError, match="mp4"):
        VideoWriter(tmp_path / "a.gif", 10)
    with pytest.raises(UsageError, match="webm"):
        VideoWriter(tmp_path / "a.mp4", 10, alpha=True)
    with pytest.raises(UsageError, match="fps"):
        VideoWriter(tmp_path / "a.mp4", 0)


@pytest.mark.parametrize(("name", "decoder"), [("a.webm", "libvpx-vp9"), ("a.mov", "prores")])
@pytest.mark.parametrize("size", [(64, 96), (63, 95)])
def test_alpha_round_trip(
    name: str, decoder: str, size: tuple[int, int], tmp_path: Path, paint: Callable
) -> None:
    """The libvpx decoder is asked for: FFmpeg's own VP9 decoder ignores alpha."""
    masklets = disc_masklets(10, *size)
    with Video([paint(index, *size) for index in range(10)]) as video:
        write_alpha(tmp_path / name, video, masklets)
    with av.open(str(tmp_path / name)) as container:
        context = av.CodecContext.create(decoder, "r")
        stream = container.streams.video[0]
        if stream.codec_context.extradata:
            context.extradata = stream.codec_context.extradata
        context.width, context.height = stream.width, stream.height
        frames = [frame for packet in container.demux(stream) for frame in context.decode(packet)]
    assert len(frames) == 10
    for index, frame in enumerate(frames):
        pixels = frame.to_ndarray(format="rgba")[: size[0], : size[1]]
        mask = masklets.union(index)
        assert ((pixels[..., 3] > 127) == mask).mean() > 0.995
        assert np.abs(pixels[30, 20 + 2 * index, :3].astype(int) - paint(index, *size)[30, 20]).max() < 12


def test_overlay_video(tmp_path: Path, paint: Callable) -> None:
    frames = [paint(index) for index in range(8)]
    with Video(frames, fps=12) as video:
        masklets = disc_masklets(8, 48, 96)
        write_overlay(tmp_path / "a.mp4", video, masklets)
        write_overlay(tmp_path / "b.mp4", video, masklets, side_by_side=True)
        with pytest.raises(UsageError, match=r"8 frames of 48x96.*9 frames of 48x96"):
            write_overlay(tmp_path / "c.mp4", video, disc_masklets(9, 48, 96))
    with Video(tmp_path / "a.mp4") as drawn:
        assert (len(drawn), drawn.fps) == (8, 12)
        expected = (np.array((255, 0, 0)) + color_of(0)) / 2
        assert np.abs(drawn[3][30, 26] - expected).max() < 15
    with Video(tmp_path / "b.mp4") as both:
        assert both.frame_size == (48, 192)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


def test_overlay_of_a_square() -> None:
    frame = np.full((40, 40, 3), 100, np.uint8)
    mask = np.zeros((1, 40, 40), bool)
    mask[0, 10:20, 10:20] = True
    drawn = overlay(frame, mask, colors=[(200, 0, 0)], alpha=0.25)
    assert (frame == 100).all()
    assert drawn[15, 15].tolist() == [125, 75, 75]
    assert drawn[10, 15].tolist() == drawn[15, 19].tolist() == [200, 0, 0]
    assert (drawn[~mask[0]] == 100).all()


def test_overlay_has_no_line_along_the_picture_border() -> None:
    frame, mask = np.full((20, 20, 3), 100, np.uint8), np.zeros((1, 20, 20), bool)
    mask[0, :, :10] = True
    drawn = overlay(frame, mask, colors=[(200, 0, 0)])
    assert drawn[0, 0].tolist() == drawn[19, 4].tolist() == [150, 50, 50]
    assert drawn[8, 9].tolist() == [200, 0, 0]


def test_overlay_refuses_other_shapes() -> None:
    with pytest.raises(UsageError, match=r"\[N, H, W\]"):
        overlay(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), bool))


@settings(max_examples=40, deadline=None)
@given(arrays(np.uint8, (9, 11, 3)), arrays(bool, (3, 9, 11)), st.floats(0, 1))
def test_overlay_changes_only_what_masks_cover(frame: np.ndarray, masks: np.ndarray, alpha: float) -> None:
    drawn = overlay(frame, masks, alpha=alpha)
    outside = ~masks.any(axis=0)
    np.testing.assert_array_equal(drawn[outside], frame[outside])
    assert drawn.dtype == np.uint8
