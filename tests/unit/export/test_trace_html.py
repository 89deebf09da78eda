"""The page of a trace: self-contained, escaped, with the frames at the size they were shown."""

from __future__ import annotations

import base64
import io
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from videoseg.export.trace_html import curve, overview_frames, write_trace_html
from videoseg.masks import Masklets
from videoseg.types import Interval, MaskReason, Result, Select, StopReason, VideoInfo
from videoseg.video.reader import Video

VOID = {"meta", "img", "line", "polyline", "polygon", "br"}


class Page(HTMLParser):
    """Checks that elements nest; collects tags, picture sources and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def pictures(self) -> list[Image.Image]:
        uris = [value for name, value in self.attributes if name == "src" and value]
        assert all(uri.startswith("data:image/jpeg;base64,") for uri in uris)
        return [Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))) for uri in uris]


@pytest.fixture
def page(result: Result, frames: np.ndarray, tmp_path: Path) -> Page:
    return Page(write_trace_html(result, tmp_path / "a.html", video=Video(frames)).read_text())


def test_what_a_model_wrote_is_escaped(page: Page, result: Result) -> None:
    assert page.tags["script"] == 0
    assert page.text.count('<script>alert("x")</script>&amp;') >= 6
    assert result.query.text in page.text


def test_page_needs_no_network(page: Page) -> None:
    for name, value in page.attributes:
        assert name not in {"href", "onclick", "onload"}
        assert not (value or "").startswith(("http", "//", "file:"))


def test_pictures_have_the_size_that_was_shown(page: Page, result: Result) -> None:
    pictures = page.pictures()
    shown = sorted(
        [frame for turn in result.trace.turns for frame in turn.shown], key=lambda f: (f.width, f.height)
    )
    sizes = sorted(picture.size for picture in pictures[: len(shown)])
    assert sizes == [(frame.width, frame.height) for frame in shown]
    assert len(pictures) == len(shown) + 1 + 8
    shade = np.array(pictures[1]).mean()
    assert shade == pytest.approx(170, abs=2), "frame 11 is shown second"


def test_masks_are_drawn_on_the_keyframe(page: Page) -> None:
    keyframe = np.array(page.pictures()[4]).astype(int)
    assert np.ptp(keyframe[5, 15]) > 60
    assert np.ptp(keyframe[33, 3]) < 10


def test_decisions_and_numbers(page: Page) -> None:
    for words in (
        "Look closer",
        "frames 3 to 9",
        "keyframe 5",
        "Not understood",
        "the masks come from this reply",
        "it answered",
        "49 tokens in 1.5 s",
        "torch 2.13",
        "Object 4",
        "in 10 of 12 frames, from 2 to 11",
    ):
        assert words in re.sub(r"\s+", " ", page.text)
    styles = [value for name, value in page.attributes if name == "style"]
    assert "left:25.0%;width:58.333%" in styles
    assert "left:45.833%" in styles
    assert page.tags["polyline"] == 2


def test_without_video(result: Result, tmp_path: Path) -> None:
    page = Page(write_trace_html(result, tmp_path / "a.html").read_text())
    assert "written without the video" in page.text
    assert page.tags["img"] == 0
    assert "0, 11" in page.text


def test_edge_cases(result: Result, frames: np.ndarray, tmp_path: Path) -> None:
    """No turn, no object, one frame, a keyframe outside the video, an interval outside it."""
    outside = replace(result.trace.turns[0], reply=Select(Interval(40, 50), 45))
    for trace, masklets in [
        (replace(result.trace, turns=(), stop=StopReason.TURN_LIMIT), result.masklets),
        (replace(result.trace, turns=(outside,), keyframe=77), result.masklets),
        (replace(result.trace, mask_reason=MaskReason.NO_SEG), Masklets(12, 36, 48)),
        (result.trace, Masklets(12, 36, 48)),
    ]:
        odd = replace(result, trace=trace, masklets=masklets, provenance={})
        Page(write_trace_html(odd, tmp_path / "a.html", video=Video(frames)).read_text())
    single = replace(
        result,
        video=VideoInfo("one", 1, 36, 48, 0.0),
        masklets=Masklets(1, 36, 48),
        trace=replace(result.trace, turns=(), keyframe=0),
    )
    Page(write_trace_html(single, tmp_path / "a.html", video=Video(frames[:1])).read_text())


def test_overview_is_even(result: Result) -> None:
    assert overview_frames(result) == [0, 2, 3, 5, 6, 8, 9, 11]
    assert overview_frames(replace(result, video=replace(result.video, num_frames=3))) == [0, 1, 2]


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=1500))
def test_curve_stays_in_its_box(values: list[float]) -> None:
    points = [tuple(map(float, point.split(","))) for point in curve(values).split()]
    assert all(0 <= x <= 1000 and 0 <= y <= 100 for x, y in points)
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert bool(points) == bool(values)
