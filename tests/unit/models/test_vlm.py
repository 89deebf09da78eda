"""Qwen3-VL with explicit positions: the pre-norm state, image features, agreement with transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from builders import IMAGE, PATCH, random_chunk, random_vlm
from videoseg.errors import RenderError


@pytest.fixture(scope="module")
def vlm():
    return random_vlm()


def test_the_norm_of_the_prenorm_state_gives_the_logits(vlm):
    ids, images = random_chunk(vlm, np.random.default_rng(0), [(4, 6)], 5)
    tensor = torch.tensor(ids)
    with torch.no_grad():
        states = vlm(tensor[None], vlm.rope_positions(tensor, images)[:, None], images=images)
        again = vlm.model.model.language_model.norm(states.prenorm)
    assert torch.equal(again, states.norm)
    assert not torch.allclose(states.prenorm, states.norm, atol=0.1)


def test_it_equals_the_stock_forward_with_pixels(vlm):
    rng = np.random.default_rng(1)
    grids = [(4, 6), (2, 2), (4, 6)]
    ids, _ = random_chunk(vlm, np.random.default_rng(1), grids, 4)
    patches = [torch.from_numpy(rng.normal(size=(r * c, 6 * PATCH**2))).float() for r, c in grids]
    tensor = torch.tensor(ids)
    with torch.no_grad():
        images = vlm.encode_images(patches, grids)
        ours = vlm(tensor[None], vlm.rope_positions(tensor, images)[:, None], images=images)
        stock = vlm.model(
            input_ids=tensor[None],
            pixel_values=torch.cat(patches),
            image_grid_thw=torch.tensor([[1, *grid] for grid in grids]),
            mm_token_type_ids=(tensor[None] == IMAGE).int(),
        )
    torch.testing.assert_close(vlm.logits(ours.norm), stock.logits, atol=1e-4, rtol=1e-4)


def test_an_image_does_not_depend_on_its_neighbours(vlm):
    rng = np.random.default_rng(2)
    grids = [(4, 4), (2, 6), (4, 4)]
    patches = [torch.from_numpy(rng.normal(size=(r * c, 6 * PATCH**2))).float() for r, c in grids]
    with torch.no_grad():
        together = vlm.encode_images(patches, grids)
        alone = [vlm.encode_images([p], [g])[0] for p, g in zip(patches, grids, strict=True)]
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a.tokens, b.tokens, atol=1e-5, rtol=1e-5)
        assert a.grid == b.grid
        assert len(a.deepstack) == 2


def test_image_tokens_without_features_are_an_error(vlm):
    ids, images = random_chunk(vlm, np.random.default_rng(3), [(4, 4), (2, 2)], 3)
    tensor = torch.tensor(ids)
    positions = vlm.rope_positions(tensor, images)[:, None]
    with pytest.raises(RenderError, match="5 image tokens"):
        vlm(tensor[None], positions, images=images[:1])
