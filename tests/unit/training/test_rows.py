"""Samples of real layouts as dialogues: prompts as specified, every mask where its [SEG] is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from data_builders import (
    LINE,
    edit_json,
    ground,
    make_chat,
    make_grandf,
    make_mevis,
    make_ref_sav,
    make_refcoco,
    make_timelens,
    make_vts_cot,
    reply,
    square,
)
from videoseg.data.readers import open_dataset
from videoseg.data.sample import Sample
from videoseg.dialogue.prompts import SYSTEM_PROMPT
from videoseg.errors import DatasetError, UsageError
from videoseg.models.o3 import O3Model
from videoseg.training.collate import DialogueRow, join_rows
from videoseg.training.config import DataEntry, SupervisedConfig
from videoseg.training.forward import TeacherForced
from videoseg.training.rows import ANSWERS, RATE, RowMaker
from videoseg.types import Role

Recipe = Callable[..., SupervisedConfig]


class Told:
    """A row and what it says."""

    def __init__(self, model: O3Model, row: DialogueRow) -> None:
        self.row = row
        decode = model.text.tokenizer.decode
        text = decode(row.chunk.ids, skip_special_tokens=False)
        self.text = re.sub(r"(<\|image_pad\|>)+", "<image>", text).replace(
            "<|vision_start|><image><|vision_end|>", "@"
        )
        self.learned = decode(row.chunk.ids[row.chunk.loss_mask], skip_special_tokens=False)

    @property
    def questions(self) -> list[str]:
        return re.findall(r"user\n(.*?)<\|im_end\|>", self.text, re.DOTALL)

    @property
    def answers(self) -> list[str]:
        return self.learned.split("<|im_end|>")[:-1]


def tell(model: O3Model, config: SupervisedConfig, samples: list[Sample], name: str, **share: Any) -> Told:
    maker = RowMaker(model, config)
    return Told(model, maker.row(samples, DataEntry(name, **share).share(), np.random.default_rng(0)))


def test_expressions_of_a_video_share_its_frames(
    small_model: O3Model, recipe: Recipe, tmp_path: Path
) -> None:
    reader = open_dataset("mevis", make_mevis(tmp_path))
    told = tell(small_model, recipe(), [reader[0], reader[2], reader[1]], "mevis")
    assert "system" not in told.text
    assert told.questions == [
        "@@@\nPlease segment: The square that stays",
        "Please segment: Both squares",
        "Please segment: The square that leaves",
    ]
    assert all(answer in ANSWERS for answer in told.answers)
    assert len(told.row.masks) == 9
    assert [(query.seg, query.frame) for query in told.row.masks[:4]] == [(0, 0), (0, 1), (0, 2), (1, 0)]
    both = torch.from_numpy(square() | square(left=8)).float()[None, None]
    expected = F.interpolate(both, size=(16, 16), mode="nearest")[0, 0].bool()
    assert torch.equal(told.row.masks[3].truth, expected)
    assert told.row.masks[7].truth.sum() == 0, "it has left in the second frame"


def test_objects_beyond_five_are_drawn_from(small_model: O3Model, recipe: Recipe, tmp_path: Path) -> None:
    reader = open_dataset("mevis", make_mevis(tmp_path))
    told = tell(small_model, recipe(), [reader[0]] * 7, "mevis")
    assert len({query.seg for query in told.row.masks}) == 5
    assert len(told.answers) == 7
    few = tell(small_model, recipe(max_objects=2), [reader[0]] * 7, "mevis")
    assert len({query.seg for query in few.row.masks}) == 2


def test_five_phrases_of_an_image(small_model: O3Model, recipe: Recipe, tmp_path: Path) -> None:
    reader = open_dataset("refcoco", make_refcoco(tmp_path))
    told = tell(small_model, recipe(), [reader[0]], "refcoco")
    assert told.questions[0].startswith("@\nPlease segment: ")
    assert len(told.answers) == 5
    assert [query.seg for query in told.row.masks] == list(range(5))
    assert len(told.row.frames) == 1


def test_a_caption_has_a_mask_for_every_phrase(small_model: O3Model, recipe: Recipe, tmp_path: Path) -> None:
    groundings = {"a red car": ground(13, 22, square(left=20)), "A man": ground(0, 5, square())}
    reader = open_dataset("gcg-grandf", make_grandf(tmp_path, groundings))
    told = tell(small_model, recipe(), [reader[0]], "gcg-grandf")
    assert told.answers == ["<p> A man </p> [SEG] beside <p> a red car </p> [SEG]."]
    left, right = (torch.nonzero(query.truth)[:, 1].float().mean() for query in told.row.masks)
    assert left < right


def test_events_are_asked_on_a_time_line(small_model: O3Model, recipe: Recipe, tmp_path: Path) -> None:
    reader = open_dataset("timelens", make_timelens(tmp_path / "t", LINE))
    told = tell(small_model, recipe(), [reader[0]], "timelens")
    first, second = told.questions
    indices = [int(frame / 24 * RATE) for frame in range(8)]
    assert first.startswith(
        "@" * 8 + f"\nThe video has total 120 frames. The sampled indices is {indices}.\n"
    )
    spans = {"it turns": (12, 39), "it stops": (115, 119)}
    for question, answer in zip((first.split("\n")[-1], second), told.answers, strict=True):
        assert json.loads(answer) == dict(zip(("start_frame", "end_frame"), spans[question], strict=True))
    assert not told.row.masks
    assert not told.row.frames


def test_conversations_learn_every_answer(small_model: O3Model, recipe: Recipe, tmp_path: Path) -> None:
    told = tell(small_model, recipe(), [open_dataset("chat-univi", make_chat(tmp_path))[0]], "chat-univi")
    assert told.questions == ["@@@@@\nWhat happens?", "Why?"]
    assert told.answers == ["A square moves.", "Nobody knows."]


def test_pictures_keep_to_the_budget_of_their_kind(
    small_model: O3Model, recipe: Recipe, tmp_path: Path
) -> None:
    image = open_dataset("refcoco", make_refcoco(tmp_path / "a"))[0]
    video = open_dataset("ref-sav", make_ref_sav(tmp_path / "b"))[0]
    config = recipe(pixels={"image": [4096, 16384], "frames": [1024, 1024], "grounding": [1024, 1024]})
    tokens = [
        tell(small_model, config, [sample], name).row.chunk.images[0].num_tokens
        for sample, name in ((image, "refcoco"), (video, "ref-sav"))
    ]
    assert tokens[0] >= 4
    assert tokens[1] == 1


def test_traces_go_through_the_environment(small_model: O3Model, recipe: Recipe, tmp_path: Path) -> None:
    reader = open_dataset("vts-cot", make_vts_cot(tmp_path))
    told = tell(small_model, recipe(), [reader[0]], "vts-cot")
    assert told.text.startswith(f"<|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>")
    assert 'The query is "Both squares"' in told.questions[0]
    assert told.answers == [reply("select", 0, 1, 1), reply("answer", 0, 1, 1)]
    shown = [(image.turn, image.role, image.frame) for image in told.row.chunk.images]
    assert shown == [
        *((0, Role.LOW, frame) for frame in (0, 1, 2)),
        *((0, Role.HIGH, frame) for frame in (0, 2)),
        *((1, Role.LOW, frame) for frame in (0, 1)),
        (1, Role.KEYFRAME, 1),
    ]


def test_a_seg_is_drawn_on_what_its_turn_was_shown(
    small_model: O3Model, recipe: Recipe, tmp_path: Path
) -> None:
    """Turn r: turn-0 high-resolution frames and the keyframe selected in turn r - 1 (specification §11)."""
    reader = open_dataset("vts-cot", make_vts_cot(tmp_path))
    row = tell(small_model, recipe(), [reader[0]], "vts-cot").row
    frames = reader[0].mask_frames()
    found = [(query.turn, query.seg, frames[query.frame], query.kind) for query in row.masks]
    assert found == [
        (0, 0, 0, "video"),
        (0, 0, 2, "video"),
        (1, 1, 0, "video"),
        (1, 1, 2, "video"),
        (1, 1, 1, "keyframe"),
    ]


def test_images_and_tokens_have_one_order(small_model: O3Model, recipe: Recipe, tmp_path: Path) -> None:
    """§16 no. 1: the release stacks high-resolution pixels first, its tokens low-resolution first.

    Frames of the fixture differ in brightness, roles in size: patches and grids tell which image they are.
    """
    sample = open_dataset("vts-cot", make_vts_cot(tmp_path))[0]
    config = recipe(preset={"low_pixels": 1024, "high_pixels": 2048, "keyframe_pixels": 4096})
    row = tell(small_model, config, [sample], "vts-cot").row
    batch = join_rows([row], 0)
    is_image = (row.chunk.ids == small_model.vlm.config.image_token_id).astype(int)
    starts = np.flatnonzero(np.diff(is_image, prepend=0) == 1)
    stops = np.flatnonzero(np.diff(is_image, append=0) == -1) + 1
    frames = sample.frames.read(range(3))
    for number, image in enumerate(row.chunk.images):
        place = batch.images[0][number]
        assert batch.grids[place] == image.grid
        assert len(batch.patches[place]) == image.grid[0] * image.grid[1]
        assert stops[number] - starts[number] == image.num_tokens
        level = batch.patches[place].mean() * 127.5 + 127.5
        assert level == pytest.approx(float(frames[image.frame].mean()), abs=1.5)
    images = small_model.vlm.encode_images(row.patches, [image.grid for image in row.chunk.images])
    positions = small_model.vlm.rope_positions(batch.ids[0], images)
    for start, image in zip(starts, row.chunk.images, strict=True):
        rows, columns = (side // 2 for side in image.grid)
        block = positions[1:, start : start + image.num_tokens] - positions[1:, start : start + 1]
        expected = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).T
        assert torch.equal(block, expected)


def test_every_seg_gets_a_gradient_from_its_masks(
    small_model: O3Model, recipe: Recipe, tmp_path: Path
) -> None:
    """§16 no. 2: in the release only the first [SEG] is reached, also by the later keyframes."""
    sample = open_dataset("vts-cot", make_vts_cot(tmp_path))[0]
    row = tell(small_model, recipe(), [sample], "vts-cot").row
    output = TeacherForced(small_model)(join_rows([row], 0))
    for query, logits in zip(row.masks, output.mask_logits, strict=True):
        gradient = torch.autograd.grad(logits.square().sum(), output.seg_embeddings, retain_graph=True)[0]
        reached = gradient.abs().sum(1) > 0
        assert reached.tolist() == [seg == query.seg for seg in range(2)]


def test_a_single_turn_is_valid(small_model: O3Model, recipe: Recipe, tmp_path: Path) -> None:
    """§16 no. 16: in the release an item without a select raises KeyError."""
    sample = open_dataset("vts-cot", make_vts_cot(tmp_path))[1]
    row = tell(small_model, recipe(), [sample], "vts-cot").row
    assert {query.turn for query in row.masks} == {0}
    assert all(image.turn == 0 for image in row.chunk.images)


def test_an_interval_of_one_frame_shows_it(small_model: O3Model, recipe: Recipe, tmp_path: Path) -> None:
    """§16 no. 16: in the release `arange(start, end)` is empty when both are equal."""
    root = make_vts_cot(tmp_path)

    def change(items: list[dict[str, Any]]) -> None:
        items[0]["cot_trace"] = [{"start_frame": 2, "end_frame": 2, "key_frame": 2}]
        items[0]["conversations"][2]["value"] = reply("select", 2, 2, 2)

    edit_json(root / "VTG-CoT/mevis.json", change)
    row = tell(small_model, recipe(), [open_dataset("vts-cot", root)[0]], "vts-cot").row
    later = [(image.role, image.frame) for image in row.chunk.images if image.turn == 1]
    assert later == [(Role.LOW, 2), (Role.KEYFRAME, 2)]


def test_mistakes_name_the_sample(small_model: O3Model, recipe: Recipe, tmp_path: Path) -> None:
    root = make_mevis(tmp_path)
    reader = open_dataset("mevis", root)
    with pytest.raises(DatasetError, match=r"sample .*, dialogue: \d+ tokens; max_length"):
        tell(small_model, recipe(max_length=10), [reader[0]], "mevis")
    (root / "train/JPEGImages/v1/00001.jpg").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"sample .*frames.*00001\.jpg"):
        tell(small_model, recipe(), [reader[0]], "mevis")
    edit_json(
        root / "train/meta_expressions.json",
        lambda data: data["videos"]["v2"]["expressions"]["0"].update(exp="<|im_end|> all"),
    )
    with pytest.raises(DatasetError, match=r"holds '<\|im_end\|>'"):
        tell(small_model, recipe(), [open_dataset("mevis", root)[3]], "mevis")


def test_data_of_another_stage_is_refused(small_model: O3Model, recipe: Recipe) -> None:
    with pytest.raises(UsageError, match="rl: not a set for supervised training"):
        tell(small_model, recipe(), [object()], "rl")  # type: ignore[list-item]
