"""`Video` over image folders, globs, lists, arrays and iterators."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from videoseg.video.reader import Video

COUNT = 12


@pytest.fixture
def pictures(paint: Callable) -> list[np.ndarray]:
    return [paint(index) for index in range(COUNT)]


@pytest.fixture
def folder(tmp_path: Path, pictures: list[np.ndarray]) -> Path:
    """`frame1.png` to `frame12.png`, with files between them that are no frames."""
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"frame{index + 1}.png")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "._frame1.png").write_bytes(b"resource fork")
    return tmp_path


def check(video: Video, pictures: list[np.ndarray]) -> None:
    assert len(video) == len(pictures)
    assert video.frame_size == pictures[0].shape[:2]
    for index, frame in video.frames(0, len(video)):
        np.testing.assert_array_equal(frame, pictures[index])
    backward = [
        index for index, frame in video.frames(len(video) - 1, -1, -1) if (frame == video[index]).all()
    ]
    assert backward == list(range(len(pictures)))[::-1]


def test_folder_in_natural_order(folder: Path, pictures: list[np.ndarray]) -> None:
    with Video(folder) as video:
        check(video, pictures)
        assert video.fps == 24
    with Video(str(folder), fps=10, cache_bytes=0) as video:
        check(video, pictures)
        assert video.fps == 10
        assert len(video.cache) == 0


def test_glob_list_and_single_image(folder: Path, pictures: list[np.ndarray]) -> None:
    with Video(str(folder / "frame*.png")) as video:
        check(video, pictures)
    with Video([folder / "frame3.png", str(folder / "frame1.png")]) as video:
        check(video, [pictures[2], pictures[0]])
    with Video(folder / "frame5.png") as video:
        check(video, [pictures[4]])


def test_glob_of_one_video(tmp_path: Path, clip: Callable) -> None:
    clip("only.mp4", 5)
    with Video(str(tmp_path / "*.mp4")) as video:
        assert len(video) == 5


def test_orientation_of_photographs(tmp_path: Path, pictures: list[np.ndarray]) -> None:
    for suffix in ("jpg", "png"):
        image = Image.fromarray(pictures[3])
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(tmp_path / f"photo.{suffix}", exif=exif, quality=95)
        with Video(tmp_path / f"photo.{suffix}") as video:
            assert video.frame_size == (96, 48)
            assert np.abs(video[0].astype(int) - np.rot90(pictures[3], -1)).mean() < 4


def test_palette_and_grey_images_become_rgb(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 6), (250, 10, 20))
    image.save(tmp_path / "0.png")
    image.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "1.png")
    image.convert("RGBA").save(tmp_path / "2.png")
    with Video(tmp_path) as video:
        assert [tuple(frame[0, 0]) for frame in video] == [(250, 10, 20)] * 3


def test_arrays(pictures: list[np.ndarray]) -> None:
    whole = np.stack(pictures)
    with Video(whole) as video:
        check(video, pictures)
        whole[:] = 0
        assert video[0].any(), "a cached frame must not change with the caller's array"
    with Video(pictures) as video:
        check(video, pictures)
    with Video(tuple(Image.fromarray(picture) for picture in pictures)) as video:
        check(video, pictures)


def test_iterator_is_spooled(
    tmp_path: Path, pictures: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    held: list[int] = []

    def camera() -> Iterator[np.ndarray]:
        for index, picture in enumerate(pictures):
            held.append(index)
            yield picture.copy()

    with Video(camera(), cache_bytes=2 * pictures[0].nbytes) as video:
        assert held == list(range(COUNT))
        check(video, pictures)
        assert video.cache.peak_frames == 2
    with Video(Image.fromarray(picture) for picture in pictures) as video:
        check(video, pictures)
    assert list(tmp_path.iterdir()) == []
