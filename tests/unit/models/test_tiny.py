"""The tiny architecture: its parts fit, and its initialisation lets it learn (spec tiny.md)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from videoseg.dialogue.chatml import check_template
from videoseg.dialogue.episode import Episode
from videoseg.models.causal_blocks import attend
from videoseg.models.checkpoints.folder import load_folder, official_state, save_folder
from videoseg.models.o3 import O3Model
from videoseg.models.tiny import PHRASES, PRESET, build_o3, build_sam2, build_tokenizer, build_vlm, vlm_config
from videoseg.models.vision_speed import speed_up_vision
from videoseg.models.vlm import VLM

CORPUS = ["the small red disc", "Step 1: all stay in view", "1, 2, 3"] * 5
SMALL = {
    "trunk": "micro",
    "image_size": 64,
    "decoder_mlp": 64,
    "memory_layers": 1,
    "memory_mlp": 64,
    "fuser_mlp": 64,
}


@pytest.fixture(scope="module")
def model() -> O3Model:
    return build_o3(corpus=CORPUS, sam2=SMALL).eval()


def test_size_of_the_default_architecture() -> None:
    language = build_vlm(vlm_config(build_tokenizer(CORPUS)))
    sam2 = build_sam2()
    size = sum(p.numel() for part in (language, sam2) for p in part.parameters())
    assert 2 * size < 25e6  # bf16


def test_any_text_survives_the_tokenizer() -> None:
    tokenizer = build_tokenizer(CORPUS)
    check_template(tokenizer)
    for text in ("the small red disc, 7!", "Żółw ⟂ 猫\n\t<b>", PHRASES[0], "x" + PHRASES[1] + "8"):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids) == text
    assert len(tokenizer.encode(PHRASES[0], add_special_tokens=False)) == 1


def test_prompts_hold_the_phrases(model: O3Model) -> None:
    renderer = model.text.renderer((160, 224))
    episode = Episode(24, "the red disc", model.text.preset)
    assert episode.observation is not None
    chunk = renderer.first(episode.observation)
    assert len(chunk.ids) - chunk.num_image_tokens < 100  # one token per phrase, not one per word
    assert {image.role.value: image.size for image in chunk.images} == {"low": (64, 96), "high": (96, 128)}
    assert PRESET["propagation"] == "per_frame"


def test_sam2_is_initialised_at_a_living_scale() -> None:
    torch.manual_seed(0)
    sam2 = build_sam2(**SMALL)
    features = sam2.encode(torch.randn(2, 3, 64, 64))
    with torch.no_grad():
        logits = sam2.segment(features, sam2.prompt_language(torch.randn(2, 256))).logits
    assert logits.std() > 0.03  # the library's own initialisation gives 0.005
    inner = sam2.model
    assert torch.equal(
        inner.shared_image_embedding.positional_embedding,
        inner.prompt_encoder.shared_embedding.positional_embedding,
    )


def test_checkpoint_round_trip(model: O3Model, tmp_path: Path) -> None:
    again = load_folder(save_folder(model, tmp_path, torch.float32))
    ours, theirs = official_state(model), official_state(again)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert again.text.preset == model.text.preset
    assert again.sam2.image_size == 64


def test_faster_vision_gives_the_same_numbers() -> None:
    torch.manual_seed(0)
    vlm = VLM(build_vlm(vlm_config(build_tokenizer(CORPUS)))).eval()
    patches = [torch.randn(24, 1536) for _ in range(3)] + [torch.randn(16, 1536)]
    grids = [(4, 6)] * 3 + [(4, 4)]
    with torch.no_grad():
        before = vlm.encode_images(patches, grids)
        speed_up_vision(vlm.model.model.visual)
        after = vlm.encode_images(patches, grids)
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a.tokens, b.tokens, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(a.deepstack, b.deepstack, rtol=1e-4, atol=1e-5)


def test_causal_blocks_equal_plain_attention() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 4, 201, 8), torch.randn(2, 2, 201, 8), torch.randn(2, 2, 201, 8)
    ours, _ = attend(torch.nn.Identity(), query, key, value, None, 0.3)
    plain = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=0.3, enable_gqa=True
    )
    torch.testing.assert_close(ours, plain.transpose(1, 2))
    with pytest.raises(ValueError, match="without mask"):
        attend(torch.nn.Identity(), query, key, value, torch.ones(1), 0.3)
