from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from data_builders import edit_json, make_mevis, make_revos
from videoseg.data.mix import COLD_START_2B, RECIPES, SFT, Mix, Share
from videoseg.data.readers import READERS
from videoseg.data.readers.mevis import MevisReader
from videoseg.data.readers.revos import RevosReader
from videoseg.errors import DatasetError, UsageError


def make_mix(root: Path, **options: object) -> Mix:
    mevis, revos = MevisReader(make_mevis(root / "mevis")), RevosReader(make_revos(root / "revos"))
    return Mix([(mevis, Share("mevis", 4, 5, 5)), (revos, Share("revos", 2, 5, 5))], **options)  # type: ignore[arg-type]


def test_the_recipe_of_the_specification() -> None:
    table = {share.dataset: share.repeats for share in SFT}
    assert table == {
        **dict.fromkeys(("refcoco", "refcoco+", "refcocog", "chat-univi"), 1),
        **dict.fromkeys(("revos", "mevis", "ref-ytvos", "long-rvos", "timelens"), 4),
        **dict.fromkeys(("gcg-refcocog", "gcg-flickr30k", "gcg-openpsg"), 1),
        "ref-sav": 2,
        "gcg-grandf": 10,
    }
    assert COLD_START_2B[0].repeats == 2
    assert {share.dataset for shares in RECIPES.values() for share in shares} <= set(READERS)


def test_every_unit_comes_as_often_as_it_is_repeated(tmp_path: Path) -> None:
    mix = make_mix(tmp_path)
    assert len(mix) == 2 * 4 + 2 * 2
    assert mix.sizes() == {"mevis": 8, "revos": 4}
    assert Counter(mix.place(i) for i in range(len(mix))) == {(0, 0): 4, (0, 1): 4, (1, 0): 2, (1, 1): 2}
    with pytest.raises(IndexError):
        mix.place(12)


def test_draws_depend_on_seed_epoch_and_position_alone(tmp_path: Path) -> None:
    def keys(mix: Mix, position: int, epoch: int = 0) -> list[str]:
        return [sample.origin.key for sample in mix.draw(position, epoch)]

    mix, again = make_mix(tmp_path), make_mix(tmp_path)
    forwards = [keys(mix, i) for i in range(12)]
    assert forwards[::-1] == [keys(again, i) for i in reversed(range(12))]
    assert len(forwards[0]) == 5
    assert all(key.startswith("v1/") for key in forwards[0])
    assert forwards[1] == ["v2/0"]
    others = [keys(mix, 0, epoch) for epoch in range(1, 9)]
    assert any(other != forwards[0] for other in others)
    assert {key for draw in others for key in draw} == {"v1/0", "v1/2", "v1/10"}


def break_video(root: Path) -> None:
    edit_json(root / "mevis/train/meta_expressions.json", lambda data: data["videos"]["v1"].update(frames=[]))


def test_a_bad_sample_stops_by_default_and_is_counted_when_skipping_is_chosen(tmp_path: Path) -> None:
    make_mix(tmp_path)
    break_video(tmp_path)
    mevis = MevisReader(tmp_path / "mevis")
    loud = Mix([(mevis, Share("mevis", 1, 5, 5))])
    with pytest.raises(DatasetError, match="sample v1/"):
        loud.draw(0)
    quiet = Mix([(mevis, Share("mevis", 1, 5, 5))], on_bad="skip")
    assert [sample.origin.key for sample in quiet.draw(0)] == ["v2/0"]
    assert quiet.skipped == {"mevis": 1}
    assert "frames: the list is empty" in quiet.first_error["mevis"]


def test_masks_that_fail_later_are_skipped_too(tmp_path: Path) -> None:
    make_mix(tmp_path)
    edit_json(tmp_path / "mevis/train/mask_dict.json", lambda data: data.update({"7": "x", "8": "x"}))
    share = replace(SFT[4], repeats=1)
    mix = Mix([(MevisReader(tmp_path / "mevis"), share)], on_bad="skip")
    areas = mix.read(0, 0, lambda samples: [sample.masks([0])[0].area for sample in samples])  # type: ignore[union-attr]
    assert areas == [64]
    assert mix.skipped == {"mevis": 1}


def test_a_dataset_without_any_good_unit_is_an_error_even_when_skipping(tmp_path: Path) -> None:
    make_mix(tmp_path)
    edit_json(tmp_path / "mevis/train/mask_dict.json", lambda data: [data.pop(name) for name in list(data)])
    mix = Mix([(MevisReader(tmp_path / "mevis"), SFT[4])], on_bad="skip")
    with pytest.raises(DatasetError, match=r"mevis: no unit can be read; the first error is .*7 is not in"):
        mix.draw(0)


def test_mixtures_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    reader = MevisReader(make_mevis(tmp_path / "mevis"))
    with pytest.raises(UsageError, match="at least one dataset"):
        Mix([])
    with pytest.raises(UsageError, match="repeats 0"):
        Mix([(reader, Share("mevis", 0))])
