"""Statistics, page and contact sheet of generated clips."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from videoseg.data.world import FAMILIES, WorldSpec, draw_sample
from videoseg.data.world.page import charts, write_page
from videoseg.data.world.queries import Condition, Question
from videoseg.data.world.sampler import Sample
from videoseg.data.world.scene import Scene, Thing
from videoseg.data.world.sheet import contact_sheet, ringed, strip, strips
from videoseg.data.world.stats import collect, facts_of, families_of, summarise
from videoseg.errors import OutputError

SEEDS = range(40)


@pytest.fixture(scope="module")
def facts() -> list:
    return collect(SEEDS)


def late_square() -> Sample:
    """A square of 33 x 33 percent of the height in the middle, from frame 4 of 0..7 on."""
    thing = Thing(
        "square", "red", "large", 0.2, "plain", 0.8, "still", (0.5, 0.5), (0.5, 0.5), "late", 0.5, 1.0
    )
    other = replace(thing, colour="blue", motion="right", start=(0.2, 0.2), end=(0.8, 0.2), presence="always")
    scene = Scene(7, 96, 64, 8, 8.0, (thing, replace(other, enter=0.0)))
    return Sample(scene, Question("the red one", "appearance", Condition("red"), (0,)))


def test_facts_of_a_known_scene() -> None:
    found = facts_of(late_square())
    assert (found.words, found.num_frames, found.things, found.targets) == (3, 8, 2, 1)
    assert (found.target_motion, found.motions) == ("still", ("still", "right"))
    assert found.seen == pytest.approx(4 / 8)
    assert found.area == pytest.approx(0.328**2 * 64 / 96, rel=0.1)
    assert found.turns == 2
    assert found.interval is not None
    # the six shown frames are 0, 1, 2, 4, 5, 7: the answer says 4 to 7, keyframe 5
    assert (found.start, found.interval, found.keyframe) == pytest.approx((0.5, 0.5, 5 / 7))


def test_no_such_object_has_no_target() -> None:
    found = facts_of(draw_sample(3, WorldSpec(), "none"))
    assert (found.targets, found.area, found.seen, found.interval, found.keyframe) == (0, *[None] * 4)
    assert (found.turns, found.target_motion) == (1, None)


def test_families_are_drawn_by_their_weights() -> None:
    weights = WorldSpec().families
    counted = Counter(draw_sample(seed, WorldSpec()).question.family for seed in range(1000, 1300))
    for name, weight in weights.items():
        expected = weight / sum(weights.values())
        spread = 4 * np.sqrt(expected * (1 - expected) / 300)
        assert abs(counted[name] / 300 - expected) < spread


def test_processes_give_the_same_facts(facts: list) -> None:
    assert collect(SEEDS[:8], workers=2) == facts[:8]


def test_the_summary_counts_everything(facts: list) -> None:
    summary = summarise(facts)
    assert summary["clips"] == len(SEEDS) == sum(row["clips"] for row in summary["families"].values())
    assert list(summary["families"]) == families_of(facts)
    assert set(summary["families"]) <= set(FAMILIES)
    assert sum(summary["motions"].values()) == sum(item.things for item in facts)
    with pytest.raises(ValueError, match="no sample"):
        summarise([])


def test_every_bar_is_the_sum_of_its_parts(facts: list) -> None:
    with_target = sum(1 for item in facts if item.targets)
    for chart in charts(facts):
        total = sum(bar.count for bar in chart.bars)
        things = sum(item.things for item in facts)
        assert total in (len(facts), with_target, things), chart.title
        for bar in chart.bars:
            assert bar.count == sum(part.count for part in bar.parts)
        assert max(sum(part.height for part in bar.parts) for bar in chart.bars) == pytest.approx(
            100, abs=0.1
        )


def test_shares_fall_into_the_right_bars(facts: list) -> None:
    chart = next(chart for chart in charts(facts) if chart.title.startswith("Visibility"))
    whole = sum(1 for item in facts if item.seen is not None and item.seen >= 0.9)
    half = sum(1 for item in facts if item.seen is not None and 0.5 <= item.seen < 0.6)
    assert [bar.count for bar in chart.bars if bar.label in ("50", "90")] == [half, whole]


def test_the_page_needs_nothing_else(facts: list, tmp_path: Path) -> None:
    odd = replace(facts[0], query="<b>bold</b> & more")
    page = write_page([odd, *facts[1:]], strips(SEEDS, count=4), tmp_path / "deep" / "stats.html").read_text()
    assert "&lt;b&gt;bold" in page
    assert "<b>bold" not in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert page.count("<figure>") == 4
    for name in families_of(facts):
        assert f"</i>{name}" in page


def test_the_sheet_shows_families_in_turn(tmp_path: Path) -> None:
    items = strips(SEEDS, count=7)
    order = [FAMILIES.index(item.family) for item in items]
    assert order == sorted(order)
    assert set(order) == set(range(len(FAMILIES)))
    path = contact_sheet(items, tmp_path / "sheet.png", columns=2)
    with Image.open(path) as sheet:
        wide, high = items[0].image.shape[1], items[0].image.shape[0]
        assert sheet.width > 2 * wide
        assert 4 * high < sheet.height < 4 * (high + 80)


def test_a_strip_frames_the_keyframe_and_rings_the_target() -> None:
    sample = late_square()
    item = strip(sample)
    assert "keyframe 5" in item.detail
    tile = (item.image.shape[1] + 3) // 4
    edges = [tuple(item.image[0, place * tile]) for place in range(4)]
    assert edges.count((225, 29, 72)) == 1
    mask = np.zeros((64, 96), dtype=bool)
    mask[20:30, 40:50] = True
    drawn = ringed(np.zeros((64, 96, 3), np.uint8), mask)
    assert drawn.any()
    assert not drawn[mask].any()
    assert not ringed(np.zeros((64, 96, 3), np.uint8), mask & False).any()


def test_an_empty_sheet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no clip to draw"):
        contact_sheet([], tmp_path / "sheet.png")
