"""The renderer: chunks against the tokenised whole, loss mask, counts, pixels, and the cache's condition."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videoseg.dialogue.budget import ImageGeometry
from videoseg.dialogue.chatml import END, IMAGE, PLACEHOLDER, START
from videoseg.dialogue.episode import Episode, ImagePart, Observation, TextPart
from videoseg.dialogue.grammar import format_reply
from videoseg.dialogue.preset import DEFAULT, RELEASED, Preset, preset
from videoseg.dialogue.prompts import SYSTEM_PROMPT, clean_query
from videoseg.dialogue.render import Renderer, check_query, join, require_features
from videoseg.errors import CheckpointError, QueryError, RenderError
from videoseg.types import O3_ROLES, Answer, Interval, Role, Select, ShownFrame

SIZE = (48, 64)
SMALL = {"low_pixels": 1024, "high_pixels": 2048, "keyframe_pixels": 3072, "min_pixels": 256}
PRESETS = [
    preset("default", **SMALL),
    preset("released", low_frames=4, high_frames=2, obey_processor_limits=False),
]

think = st.text(st.sampled_from("abZ é\n\t 0'<>[]"), max_size=12)
reply_text = st.builds(
    lambda kind, start, length, keyframe, text: format_reply(
        kind(Interval(start, start + length), keyframe, text)
    ),
    st.sampled_from([Select, Select, Answer]),
    st.integers(-1, 9),
    st.integers(-1, 9),
    st.integers(0, 9),
    think,
)
spaces = st.sampled_from(["", "", " ", "\n", "\n\n", " \n", "x"])
replies = st.lists(st.builds(lambda a, b, c: a + b + c, spaces, reply_text, spaces), min_size=1, max_size=3)
Play = tuple[list[tuple[Observation, list[int]]], Observation | None]


def play(renderer: Renderer, texts: list[str], *, cut: bool = False, query: str = "a red disc") -> Play:
    """The stored turns of an episode and the observation still pending, if any."""
    episode = Episode(10, query, renderer.preset)
    turns: list[tuple[Observation, list[int]]] = []
    for text in texts:
        if episode.observation is None:
            break
        ids = renderer.encode_reply(text)
        turns.append((episode.observation, ids[:-1] if cut else ids))
        episode.step(text)
    return turns, episode.observation


@pytest.fixture(params=PRESETS, ids=lambda chosen: chosen.name, scope="module")
def renderer(request: pytest.FixtureRequest, tokenizer: Any, small_geometry: ImageGeometry) -> Renderer:
    return Renderer(tokenizer, small_geometry, request.param, SIZE)


def appended(renderer: Renderer, turns: list[tuple[Observation, list[int]]], pending: Observation) -> Any:
    """The chunks of a cached dialogue, one after the other."""
    chunks = [renderer.first(turns[0][0] if turns else pending)]
    following = [*(observation for observation, _ in turns), pending][1:]
    for (_, ids), observation in zip(turns, following, strict=True):
        chunks += [renderer.reply(ids), renderer.later(observation, closed=ids[-1] == renderer.end_id)]
    return join(chunks)


def test_first_chunk_is_chatml(renderer: Renderer, tokenizer: Any) -> None:
    observation = Episode(3, "a red disc", renderer.preset).observation
    assert observation is not None
    chunk = renderer.first(observation)
    text = tokenizer.decode(chunk.ids.tolist(), skip_special_tokens=False)
    assert text.startswith(f"{START}system\n{SYSTEM_PROMPT}{END}\n{START}user\n<|vision_start|>{IMAGE}")
    assert text.endswith(f"{END}\n{START}assistant\n")
    assert chunk.ids.dtype == np.int64
    assert not chunk.loss_mask.any()
    for image in chunk.images:
        assert image.size == (image.grid[0] * 8, image.grid[1] * 8)
        assert image.num_tokens == image.grid[0] * image.grid[1] // 4
    counts = [image.num_tokens for image in chunk.images]
    bodies = ("<|vision_start|>" + IMAGE * count + "<|vision_end|>" for count in counts)
    images_and_texts = "".join(
        next(bodies) if isinstance(part, ImagePart) else part.text for part in observation.parts
    )
    assert images_and_texts in text


@settings(deadline=None, max_examples=60)
@given(texts=replies, cut=st.booleans())
def test_chunks_equal_the_whole_prompt_where_the_cache_is_valid(
    renderer: Renderer, tokenizer: Any, texts: list[str], cut: bool
) -> None:
    turns, pending = play(renderer, texts, cut=cut)
    if pending is None:
        turns, pending = turns[:-1], turns[-1][0]
    whole = renderer.prompt(turns, pending)
    chunks = appended(renderer, turns, pending)
    assert whole.images == chunks.images
    valid = all(renderer.retokenises(ids) for _, ids in turns)
    assert valid == np.array_equal(whole.ids, chunks.ids)
    assert (whole.ids == renderer.image_id).sum() == whole.num_image_tokens
    # the chunks themselves are the tokenised text of the whole
    text = tokenizer.decode(whole.ids.tolist(), skip_special_tokens=False)
    assert tokenizer.encode(text, add_special_tokens=False) == whole.ids.tolist()


@settings(deadline=None, max_examples=60)
@given(texts=replies, cut=st.booleans())
def test_a_stored_trajectory_renders_the_same_again(renderer: Renderer, texts: list[str], cut: bool) -> None:
    turns, _ = play(renderer, texts, cut=cut)
    once = renderer.dialogue(turns)
    again = renderer.dialogue(pickle.loads(pickle.dumps(turns)))
    np.testing.assert_array_equal(once.ids, again.ids)
    np.testing.assert_array_equal(once.loss_mask, again.loss_mask)
    assert once.images == again.images
    assert once.num_image_tokens == (once.ids == renderer.image_id).sum()
    assert once.ids[once.loss_mask].tolist() == [index for _, ids in turns for index in ids]
    chunks = appended(renderer, turns[:-1], turns[-1][0])
    np.testing.assert_array_equal(chunks.ids, once.ids[: len(chunks.ids)])


def test_the_end_of_a_cut_turn_is_added_without_loss(renderer: Renderer) -> None:
    text = format_reply(Select(Interval(0, 5), 2))
    closed, _ = play(renderer, [text, text])
    cut, _ = play(renderer, [text, text], cut=True)
    whole, shorter = renderer.dialogue(closed), renderer.dialogue(cut)
    np.testing.assert_array_equal(whole.ids[:-1], shorter.ids)
    assert whole.loss_mask.sum() == shorter.loss_mask.sum() + 2


@pytest.mark.parametrize("text", ["\n<think>a</think>", "\n\n x"])
def test_newlines_merging_with_the_header_need_a_new_encoding(renderer: Renderer, text: str) -> None:
    ids = renderer.encode_reply(text)
    assert not renderer.retokenises(ids)
    assert renderer.retokenises(renderer.encode_reply(text.strip()))


def test_ids_that_are_not_the_tokenizers_own_need_a_new_encoding(renderer: Renderer) -> None:
    own = renderer.encode_reply("thinking about frames")
    single = [renderer.encode_reply(letter)[0] for letter in "thinking"]
    rest = own[len(renderer.encode_reply("thinking")) - 1 :]
    assert renderer.history_text(single + rest) == renderer.history_text(own)
    assert renderer.retokenises(own)
    assert not renderer.retokenises(single + rest)
    assert renderer.retokenises(own[:-1])
    assert renderer.retokenises([renderer.end_id])


def test_history_text(tokenizer: Any, small_geometry: ImageGeometry) -> None:
    ids = tokenizer.encode(" a b \n<|endoftext|><|im_end|>", add_special_tokens=False)
    texts = [Renderer(tokenizer, small_geometry, chosen, SIZE).history_text(ids) for chosen in PRESETS]
    assert texts == [" a b \n", "a b \n<|endoftext|>"]


def test_released_history_keeps_the_white_space_before_the_end_of_the_turn(
    tokenizer: Any, small_geometry: ImageGeometry
) -> None:
    """The release strips the reply while it still ends with `<|im_end|>`; a reply that was cut has none."""
    renderer = Renderer(tokenizer, small_geometry, RELEASED, SIZE)
    closed = renderer.encode_reply("a b \n")
    assert renderer.history_text(closed) == "a b \n"
    assert renderer.retokenises(closed)
    assert renderer.history_text(closed[:-1]) == "a b"
    assert renderer.history_text(renderer.encode_reply("\n a")) == "a"


def test_separator_between_neighbouring_images(tokenizer: Any, small_geometry: ImageGeometry) -> None:
    chosen = preset("default", image_separator="\n", **SMALL)
    observation = Observation(
        (ImagePart(0, Role.LOW), ImagePart(1, Role.LOW), TextPart("t"), ImagePart(1, Role.HIGH)), 0
    )
    chunk = Renderer(tokenizer, small_geometry, chosen, SIZE).first(observation)
    text = tokenizer.decode(chunk.ids.tolist(), skip_special_tokens=False)
    assert "<|vision_end|>\n<|vision_start|>" in text
    assert "<|vision_end|>t<|vision_start|>" in text


def test_image_keys_and_shown_sizes(renderer: Renderer) -> None:
    observation = Observation(
        (ImagePart(3, Role.LOW), ImagePart(3, Role.HIGH), ImagePart(3, Role.HIGH), ImagePart(4, Role.LOW)), 2
    )
    low, high, same, other = renderer.first(observation).images
    assert high.key == same.key
    assert low.key != other.key
    assert (low.key == high.key) == (low.plan == high.plan)
    shown = renderer.shown(observation)
    assert shown[0] == ShownFrame(3, Role.LOW, width=low.size[1], height=low.size[0])
    assert low.turn == 2


def test_patches(renderer: Renderer) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    observation = Observation(tuple(ImagePart(0, role) for role in O3_ROLES), 1)
    for image in renderer.first(observation).images:
        patches = renderer.patches(image, frame)
        assert patches.shape == (image.grid[0] * image.grid[1], 3 * 2 * 8 * 8)
        assert patches.dtype == np.float32
        assert -1 <= patches.min() < 0 < patches.max() <= 1
    for wrong in (frame[:-1], frame.astype(np.float32), frame[..., 0]):
        with pytest.raises(RenderError, match="turn 1, frame 0"):
            renderer.patches(image, wrong)


def test_patch_order(tokenizer: Any) -> None:
    """Each patch of a hand-made image carries its own (row, column); groups of 2 × 2 come first."""
    rows, columns = np.mgrid[0:4, 0:6].repeat(8, 1).repeat(8, 2).astype(np.uint8)
    frame = np.stack([rows, columns, rows * 0], axis=-1)
    chosen = preset("default", min_pixels=256, low_pixels=32 * 48)
    renderer = Renderer(tokenizer, ImageGeometry(patch=8, mean=(0, 0, 0), std=(1, 1, 1)), chosen, (32, 48))
    (image,) = renderer.first(Observation((ImagePart(0, Role.LOW),), 0)).images
    assert image.plan == ()
    values = renderer.patches(image, frame).reshape(-1, 3, 2, 64) * 255
    places = [tuple(np.round(value[:2, 0, 0]).astype(int)) for value in values]
    assert places[:8] == [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (0, 3), (1, 2), (1, 3)]
    assert places[12] == (2, 0)
    assert (values.std(axis=(2, 3)) < 1e-6).all()


def test_features_must_match_tokens(renderer: Renderer) -> None:
    observation = Episode(4, "q", renderer.preset).observation
    assert observation is not None
    chunk = renderer.first(observation)
    counts = [image.num_tokens for image in chunk.images]
    require_features(chunk, counts, renderer.image_id)
    wrong = [*counts[:2], counts[2] + 1, *counts[3:]]
    with pytest.raises(RenderError, match=f"turn 0, frame {chunk.images[2].frame}"):
        require_features(chunk, wrong, renderer.image_id)
    with pytest.raises(RenderError, match=f"turn 0, frame {chunk.images[-1].frame}"):
        require_features(chunk, counts[:-1], renderer.image_id)
    with pytest.raises(RenderError, match="features of"):
        require_features(chunk, [*counts, 4], renderer.image_id)


def test_forged_turns_and_images_are_refused(renderer: Renderer) -> None:
    for forged in (IMAGE, PLACEHOLDER, END, "[SEG]"):
        observation = Episode(4, f"a {forged} b", renderer.preset).observation
        assert observation is not None
        with pytest.raises(QueryError, match="turn 0"):
            renderer.first(observation)
    with pytest.raises(RenderError, match="turn 2"):
        renderer.reply([1, renderer.image_id], 2)
    ids = [renderer.image_id, renderer.end_id]
    turns, pending = play(renderer, [format_reply(Select(Interval(0, 5), 2))])
    assert pending is not None
    with pytest.raises(RenderError, match="turn 0, 1"):
        renderer.prompt([(turns[0][0], ids)], pending)
    assert renderer.image_id in renderer.forbidden_ids
    assert renderer.end_id not in renderer.forbidden_ids


@pytest.mark.parametrize("chosen", [DEFAULT, RELEASED])
def test_a_text_tokenizer_is_refused(tokenizer_builder: Any, chosen: Preset) -> None:
    plain = tokenizer_builder(["<|endoftext|>", START, END])
    with pytest.raises(CheckpointError, match="Qwen-VL"):
        Renderer(plain, ImageGeometry(), chosen, SIZE)


@settings(deadline=None, max_examples=50)
@given(query=st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_no_accepted_query_can_forge_structure(renderer: Renderer, tokenizer: Any, query: str) -> None:
    try:
        check_query(query, tokenizer, renderer.preset)
    except QueryError:
        return
    turns, pending = play(renderer, [format_reply(Select(Interval(0, 5), 2))], query=query)
    assert pending is not None
    plain, _ = play(renderer, [format_reply(Select(Interval(0, 5), 2))])
    structure = sorted(tokenizer.get_added_vocab().values())
    ids, expected = renderer.prompt(turns, pending).ids, renderer.prompt(plain, pending).ids
    assert [int((ids == i).sum()) for i in structure] == [int((expected == i).sum()) for i in structure]
    assert tokenizer.decode(ids.tolist(), skip_special_tokens=False).count(
        clean_query(query, renderer.preset)
    )


def test_dialogues_need_no_torch() -> None:
    code = "import sys, videoseg.dialogue.render; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
