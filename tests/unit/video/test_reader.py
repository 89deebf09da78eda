"""`Video` over files: exact lengths, order of presentation, random access, both directions."""

from __future__ import annotations

import gc
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from videoseg.errors import UsageError, VideoError
from videoseg.video.reader import Video

OPEN_GOP = {"g": "10", "x264-params": "open-gop=1:scenecut=0:bframes=3:ref=3"}
FORMATS: dict[str, dict[str, Any]] = {
    "plain.mp4": {},
    "short_gop.mp4": {"options": {"g": "7"}},
    "fragmented.mp4": {"muxer": {"movflags": "frag_keyframe+empty_moov"}, "options": {"g": "7"}},
    "variable.mp4": {"time_of": lambda index: index * index},
    "variable.mkv": {"time_of": lambda index: index * 3 + index % 3},
    "late_start.mp4": {"time_of": lambda index: index + 50},
    "no_packet_times.mkv": {
        "time_of": lambda index: index - 12,
        "muxer": {"avoid_negative_ts": "disabled"},
    },
    "no_edit_list.mp4": {"muxer": {"use_editlist": "0", "movflags": "negative_cts_offsets"}},
    "open_gop.mkv": {"options": OPEN_GOP},
    "open_gop.mp4": {"options": OPEN_GOP},
    "no_times.avi": {"options": {"g": "7"}},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mpeg4_b.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "hidden.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16"}},
    "stream.ts": {"options": {"g": "7"}},
    "flash.flv": {},
    "motion_jpeg.avi": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "animation.gif": {"codec": "gif", "pixels": "rgb8"},
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_in_any_order(name: str, clip: Callable, read_index: Callable) -> None:
    count = 41
    path = clip(name, count, **FORMATS[name])
    with Video(path, cache_bytes=5 * 48 * 96 * 3) as video:
        assert len(video) == count
        assert video.frame_size == (48, 96)
        forward = [frame.copy() for frame in video]
        assert [read_index(frame) for frame in forward] == list(range(count))
        backward = list(video.frames(count - 1, -1, -1))
        assert [index for index, _ in backward] == list(range(count))[::-1]
        for index, frame in backward:
            np.testing.assert_array_equal(frame, forward[index])
        order = list(range(count))
        random.Random(0).shuffle(order)
        for index in order:
            np.testing.assert_array_equal(video[index], forward[index])
        assert video.cache.peak_frames <= 5


def test_long_open_gop_file_after_seeks(clip: Callable, read_index: Callable) -> None:
    path = clip("long.mkv", 150, options=OPEN_GOP)
    with Video(path, cache_bytes=0) as video:
        for index in (149, 3, 77, 78, 79, 40, 41, 120, 10, 9, 8):
            assert read_index(video[index]) == index


def test_steps_and_parts(clip: Callable, read_index: Callable) -> None:
    with Video(clip("a.mp4", 30), cache_bytes=4 * 48 * 96 * 3) as video:
        assert [read_index(frame) for _, frame in video.frames(3, 20, 5)] == [3, 8, 13, 18]
        assert [read_index(frame) for _, frame in video.frames(20, 3, -5)] == [20, 15, 10, 5]
        assert list(video.frames(5, 5)) == []
        assert read_index(video[-1]) == 29
        with pytest.raises(IndexError, match="30 frames"):
            video[30]
        with pytest.raises(IndexError, match="30 frames"):
            list(video.frames(20, 31))


def test_directions_can_be_mixed(clip: Callable, read_index: Callable) -> None:
    """Two walks over one decoder do not disturb each other."""
    with Video(clip("a.mp4", 30, options={"g": "8"}), cache_bytes=3 * 48 * 96 * 3) as video:
        pairs = zip(video.frames(0, 30), video.frames(29, -1, -1), strict=True)
        for (low, ahead), (high, behind) in pairs:
            assert (read_index(ahead), read_index(behind)) == (low, high)


def test_channel_order_is_red_green_blue(clip: Callable) -> None:
    with Video(clip("a.mp4", 3)) as video:
        left, right = video[1][30, 20].astype(int), video[1][30, 76].astype(int)
        assert left[0] > 240
        assert max(left[1:]) < 15
        assert right[2] > 240
        assert max(right[:2]) < 15


def test_frames_are_read_only(clip: Callable) -> None:
    with Video(clip("a.mp4", 3)) as video, pytest.raises(ValueError, match="read-only"):
        video[0][0, 0] = 0


@pytest.mark.parametrize("degrees", [90, 180, -90])
@pytest.mark.parametrize("name", ["turned.mp4", "turned.mkv"])
def test_rotation_is_applied(name: str, degrees: int, clip: Callable) -> None:
    """The display matrix turns the picture by `degrees` counterclockwise."""
    plain = clip("plain" + name, 3)
    turned = clip(name, 3, rotation=(degrees, False))
    with Video(plain) as expected, Video(turned) as video:
        np.testing.assert_array_equal(video[1], np.rot90(expected[1], degrees // 90))
        assert video.frame_size == video[1].shape[:2]


def test_mirroring_is_applied(clip: Callable) -> None:
    with Video(clip("a.mp4", 3)) as plain, Video(clip("b.mp4", 3, rotation=(0, True))) as video:
        np.testing.assert_array_equal(video[1], plain[1][:, ::-1])


def test_phone_portrait_matrix(clip: Callable) -> None:
    """The matrix that phones write for portrait clips turns the recorded picture clockwise."""
    path = clip("phone.mp4", 3)
    with Video(path) as plain:
        expected = np.rot90(plain[1], -1)
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    data[start : start + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 48 << 16, 0, 1 << 30)
    path.write_bytes(data)
    with Video(path) as video:
        np.testing.assert_array_equal(video[1], expected)


def test_edit_list_hides_the_first_frames(clip: Callable, read_index: Callable) -> None:
    path = clip("cut.mp4", 30)
    data = bytearray(path.read_bytes())
    place = data.index(b"elst") + 4 + 8
    _, start = struct.unpack_from(">Ii", data, place)
    with av.open(str(path)) as container:
        ticks = container.streams.video[0].time_base.denominator // 10
    struct.pack_into(">i", data, place + 4, start + 6 * ticks)
    path.write_bytes(data)
    with Video(path) as video:
        shown = [read_index(frame) for frame in video]
        assert shown == list(range(6, 30))
        assert [read_index(video[index]) for index in (10, 0, 23)] == [16, 6, 29]


def test_frames_before_time_zero_are_hidden(clip: Callable, read_index: Callable) -> None:
    """An mp4 whose edit list starts at zero presents only what comes from then on."""
    with Video(clip("negative.mp4", 20, time_of=lambda index: index - 5)) as video:
        assert [read_index(frame) for frame in video] == list(range(5, 20))


@pytest.mark.parametrize("size", [(49, 97), (48, 97), (51, 96)])
def test_odd_sizes(size: tuple[int, int], clip: Callable, read_index: Callable) -> None:
    with Video(clip("odd.mkv", 5, size=size, pixels="yuv444p")) as video:
        assert video.frame_size == size
        assert video[3].shape == (*size, 3)
        assert read_index(video[3]) == 3


def test_rate(clip: Callable) -> None:
    with Video(clip("a.mp4", 20)) as video:
        assert video.fps == pytest.approx(10)
    with Video(clip("b.mkv", 20, time_of=lambda index: index + (10 if index > 9 else 0))) as video:
        assert video.fps == pytest.approx(20 / 3.0, rel=0.02)


def test_sampling_at_another_rate(clip: Callable, read_index: Callable) -> None:
    path = clip("a.mp4", 40, time_of=lambda index: index if index < 20 else 20 + (index - 20) * 2)
    with Video(path, fps=5) as video:
        assert video.fps == 5
        shown = [read_index(frame) for frame in video]
        assert shown == [*range(0, 20, 2), *range(20, 40)]
        assert [read_index(frame) for _, frame in video.frames(len(video) - 1, -1, -1)] == shown[::-1]
    with Video(path, fps=20) as video:
        assert [read_index(video[index]) for index in range(6)] == [0, 0, 1, 1, 2, 2]
    with pytest.raises(UsageError, match="above 0"):
        Video(path, fps=0)


def test_closed(clip: Callable) -> None:
    video = Video(clip("a.mp4", 3))
    video.close()
    video.close()
    with pytest.raises(VideoError, match="closed"):
        video[0]


def test_info_and_check(clip: Callable) -> None:
    path = clip("a.mp4", 12)
    with Video(str(path)) as video:
        video.check()
        info = video.info
    assert (info.source, info.num_frames, info.height, info.width, info.fps) == (str(path), 12, 48, 96, 10)


def test_memory_is_bounded_on_2000_frames_with_one_keyframe(tmp_path: Path, clip: Callable) -> None:
    path = clip("long.mkv", 2000, codec="mpeg4", options={"g": "5000", "mpeg_quant": "0"})
    with Video(path, cache_bytes=64 * 48 * 96 * 3) as video:
        assert sum(1 for _ in video.frames(0, 2000)) == 2000
        last = 2000
        for index, _ in video.frames(1999, -1, -1):
            assert index == last - 1
            last = index
            assert len(video.cache) <= 64
        assert last == 0
        assert video.cache.peak_frames <= 64
        assert video.cache.peak_bytes <= 64 * 48 * 96 * 3


def test_decoded_pictures_are_freed_without_the_garbage_collector(clip: Callable) -> None:
    """A picture that refers to itself would stay until the collector happens to run."""
    path = clip("a.mp4", 80)
    gc.collect()
    gc.disable()
    try:
        with Video(path, cache_bytes=0) as video:
            video.check()
            alive = sum(type(item) is av.VideoFrame for item in gc.get_objects())
    finally:
        gc.enable()
    assert alive <= 8


def test_default_cache_does_not_grow_with_length(clip: Callable) -> None:
    peaks = []
    for count in (200, 600):
        with Video(clip(f"{count}.mkv", count)) as video:
            video.check()
            for _ in video.frames(count - 1, -1, -1):
                pass
            peaks.append((video.cache.peak_frames, video.cache.peak_bytes))
    assert peaks[0] == peaks[1]
