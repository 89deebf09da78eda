"""O3 dialogues against the released inference: ids, image grids, prompt texts, frames, keyframes, pixels."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from golden import golden_root
from videoseg.dialogue.budget import ImageGeometry
from videoseg.dialogue.chatml import IMAGE
from videoseg.dialogue.episode import Episode, Observation
from videoseg.dialogue.preset import Preset, preset
from videoseg.dialogue.render import Chunk, Renderer, check_query, check_template, join
from videoseg.dialogue.seg import last_seg
from videoseg.types import StopReason

pytestmark = pytest.mark.parity

# cases are needed while collecting, before the `golden` fixture exists
CASES = sorted(path.parent.name for path in golden_root().glob("o3/cases/*/dialogue.json"))


@pytest.fixture(scope="module")
def folder(golden: Callable[[str], Path]) -> Path:
    return golden("o3")


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder / "checkpoint")


@dataclass
class Case:
    """One recorded dialogue and our own run of the same texts."""

    folder: Path
    record: dict[str, Any]
    tensors: dict[str, np.ndarray]
    preset: Preset
    episode: Episode
    renderer: Renderer
    observations: list[Observation]

    def generated(self, turn: int) -> list[int]:
        return self.tensors[f"turn{turn}.generated_ids"].tolist()

    def history(self, turn: int) -> list[tuple[Observation, list[int]]]:
        return [(self.observations[index], self.generated(index)) for index in range(turn)]

    def prompt(self, turn: int) -> Chunk:
        return self.renderer.prompt(self.history(turn), self.observations[turn])

    def closed(self, turn: int) -> bool:
        """Whether the reply ended by itself, not at the token limit."""
        return self.generated(turn)[-1] == self.renderer.end_id

    def continues(self, turn: int) -> bool:
        """Whether the recorded prompt of turn + 1 begins with all tokens of `turn` as they were sampled."""
        end = [] if self.closed(turn) else [self.renderer.end_id]
        sampled = [*self.tensors[f"turn{turn}.prompt_ids"].tolist(), *self.generated(turn), *end]
        return self.tensors[f"turn{turn + 1}.prompt_ids"].tolist()[: len(sampled)] == sampled


def _geometry(folder: Path, processor: str) -> ImageGeometry:
    return ImageGeometry.from_processor_config(
        json.loads((folder / processor / "preprocessor_config.json").read_text())
    )


@pytest.fixture(params=CASES or [pytest.param("", marks=pytest.mark.skip(reason="no golden numbers of o3"))])
def case(request: pytest.FixtureRequest, folder: Path, tokenizer: Any) -> Case:
    path = folder / "cases" / request.param
    record = json.loads((path / "dialogue.json").read_text())
    chosen = preset(
        "released",
        index_style=record["index_style"],
        max_turns=record["max_turns"],
        low_frames=record["low_res_frames_turn0"],
        high_frames=record["hi_res_frames_turn0"],
        later_frames=record["max_temporal_frames_per_round"],
    )
    renderer = Renderer(
        tokenizer, _geometry(folder, record["processor"]), chosen, tuple(record["frame_size_hw"])
    )
    episode = Episode(record["num_frames"], record["query"], chosen)
    tensors = load_file(path / "dialogue.safetensors")
    found = Case(path, record, tensors, chosen, episode, renderer, [])
    for turn in range(record["num_turns"]):
        assert episode.observation is not None, "the episode stopped before the recorded one did"
        found.observations.append(episode.observation)
        episode.step(renderer.history_text(found.generated(turn)), truncated=not found.closed(turn))
    return found


def test_prompts_of_every_turn(case: Case, tokenizer: Any) -> None:
    for index, turn in enumerate(case.record["turns"]):
        chunk = case.prompt(index)
        np.testing.assert_array_equal(chunk.ids, case.tensors[f"turn{index}.prompt_ids"])
        grids = [[1, *image.grid] for image in chunk.images]
        np.testing.assert_array_equal(grids, case.tensors[f"turn{index}.image_grid_thw"])
        assert len(chunk.images) == turn["images"]
        assert chunk.num_image_tokens == turn["image_tokens"] == (chunk.ids == case.renderer.image_id).sum()
        assert len(chunk.ids) == turn["prompt_tokens"]
        assert _collapsed(tokenizer, chunk, case.renderer.image_id) == turn["prompt_text"]


def _collapsed(tokenizer: Any, chunk: Chunk, image_id: int) -> str:
    """The chunk's text with one placeholder per image."""
    text = tokenizer.decode(chunk.ids.tolist(), skip_special_tokens=False)
    for count in sorted({image.num_tokens for image in chunk.images}, reverse=True):
        text = text.replace(IMAGE * count, IMAGE)
    return text


def test_replies(case: Case, tokenizer: Any) -> None:
    history = [m["content"] for m in case.record["messages"] if m["role"] == "assistant"]
    turns = case.record["turns"]
    for index, (turn, text) in enumerate(zip(turns, history, strict=True)):
        ids = case.generated(index)
        assert case.renderer.encode_reply(turn["forced_text"])[: len(ids)] == ids
        assert case.renderer.history_text(ids) == text
        assert tokenizer.decode(ids, skip_special_tokens=False) == turn["generated_text"]
        if index < len(turns) - 1:
            assert case.renderer.retokenises(ids) == case.continues(index)


def test_appended_chunks_equal_the_whole_prompt(case: Case) -> None:
    last = len(case.observations) - 1
    chunks = [case.renderer.first(case.observations[0]), case.renderer.reply(case.generated(0), 0)]
    for index in range(1, last + 1):
        if not case.continues(index - 1):
            break  # from here on the whole dialogue is encoded again
        closed = case.closed(index - 1)
        chunks.append(case.renderer.later(case.observations[index], closed=closed))
        np.testing.assert_array_equal(join(chunks).ids, case.prompt(index).ids)
        assert join(chunks).images == case.prompt(index).images
        chunks.append(case.renderer.reply(case.generated(index), index))
    else:
        np.testing.assert_array_equal(case.renderer.dialogue(case.history(last + 1)).ids, join(chunks).ids)
    whole = case.renderer.dialogue(case.history(last + 1))
    assert whole.loss_mask.sum() == sum(len(case.generated(index)) for index in range(last + 1))


def test_frames_keyframe_and_stop(case: Case) -> None:
    assert list(case.episode.high_frames) == case.record["sample_index"]
    assert case.episode.keyframe() == case.record["keyframe_index"]
    assert len(case.episode.turns) == case.record["num_turns"]
    assert case.episode.stop is not None
    users = sum(message["role"] == "user" for message in case.record["messages"])
    # the release still writes a user message when a select comes on the last turn; ours stops before it
    shown_in_vain = case.episode.stop is StopReason.TURN_LIMIT and bool(case.episode.turns[-1].interval)
    assert (users > len(case.observations)) == shown_in_vain


def test_seg_position(case: Case) -> None:
    last = case.record["num_turns"] - 1
    expected = case.record["seg_positions_in_last_sequence"]
    sequence = np.array([*case.prompt(last).ids, *case.generated(last)[:-1]])
    assert np.flatnonzero(sequence == case.record["seg_token_id"]).tolist() == expected
    replies = [case.generated(index) for index in range(last + 1)]
    found = last_seg(replies, case.record["seg_token_id"], case.preset.seg_rule)
    assert (found is None) == (not expected)
    # positions of turns that were encoded again differ from the sampled ones
    if found is not None and all(case.continues(index) for index in range(found.turn, last)):
        assert len(case.prompt(found.turn).ids) + found.offset == expected[-1]


def test_pixels_of_the_last_turn(case: Case, folder: Path) -> None:
    path = case.folder / "processor_output_last_turn.safetensors"
    if not path.is_file():
        pytest.skip("pixels are recorded for some cases only")
    recorded = load_file(path)
    frames = load_file(folder / "frames.safetensors")[case.record["video"]]
    images = case.prompt(len(case.observations) - 1).images
    ours = np.concatenate([case.renderer.patches(image, frames[image.frame]) for image in images])
    geometry = case.renderer.geometry
    side, copies = geometry.patch, geometry.temporal_patch
    ours = ours.reshape(-1, 3, copies, side, side)
    np.testing.assert_array_equal(ours[:, :, 0], ours[:, :, -1])
    mean, std = (np.reshape(values, (1, 3, 1, 1)) for values in (geometry.mean, geometry.std))
    levels = (ours[:, :, 0] * std + mean) * 255
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-3)
    np.testing.assert_array_equal(np.round(levels), recorded["patches"])


def test_checkpoint_template_and_queries(folder: Path, tokenizer: Any) -> None:
    check_template(tokenizer)
    for path in sorted(folder.glob("cases/*/dialogue.json")):
        check_query(json.loads(path.read_text())["query"], tokenizer, preset("released"))
