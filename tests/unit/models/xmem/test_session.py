"""XMem's network and its frame-by-frame use."""

from __future__ import annotations

import pytest
import torch

from videoseg.errors import UsageError
from videoseg.models.xmem import TINY, MemoryOptions, XMem, XMemSession, XMemSizes
from videoseg.models.xmem.network import compete, padding
from videoseg.models.xmem.sizes import infer_sizes
from xmem_builders import MICRO, keys_of, random_clip, random_xmem, squares

OPTIONS = MemoryOptions(every=2, max_frames=3, min_frames=2, prototypes=4, max_long=20)


@pytest.fixture(scope="module")
def xmem() -> XMem:
    return random_xmem()


@pytest.mark.parametrize(("sizes", "parameters"), [(XMemSizes(), 62_188_114), (TINY, 1_800_000), (MICRO, 0)])
def test_sizes_are_found_again(sizes: XMemSizes, parameters: int) -> None:
    with torch.device("meta"):
        xmem = XMem(sizes)
    assert infer_sizes(xmem.state_dict()) == sizes
    if parameters:
        assert sum(p.numel() for p in xmem.parameters()) == pytest.approx(parameters, rel=0.01)


def test_probabilities_sum_to_one_and_have_the_size_of_the_frame(xmem: XMem) -> None:
    session = XMemSession(xmem, OPTIONS)
    for number, keys in enumerate(keys_of(xmem, random_clip(6, 50, 70))):
        found = session.step(keys, squares(50, 70).float() if number == 0 else None)
        assert found.shape == (3, 50, 70)
        torch.testing.assert_close(found.sum(0), torch.ones(50, 70))
    assert session.memory.tokens[1] > 0


def test_order_of_objects_does_not_matter(xmem: XMem) -> None:
    one, other = XMemSession(xmem, OPTIONS), XMemSession(xmem, OPTIONS)
    masks = squares(objects=3).float()
    order = [2, 0, 1]
    for number, keys in enumerate(keys_of(xmem, random_clip(5))):
        straight = one.step(keys, masks if number == 0 else None)
        turned = other.step(keys, masks[order] if number == 0 else None)
        torch.testing.assert_close(straight[1:][order], turned[1:], atol=2e-5, rtol=1e-4)
    assert float((straight[1] - straight[2]).abs().max()) > 1e-3


def test_memory_frames_matter(xmem: XMem) -> None:
    clip = random_clip(5)
    found = []
    for every in (1, 4):
        session = XMemSession(xmem, MemoryOptions(every=every, long_term=False))
        for number, keys in enumerate(keys_of(xmem, clip)):
            result = session.step(keys, squares().float() if number == 0 else None)
        found.append(result)
    assert float((found[0] - found[1]).abs().max()) > 1e-4


def test_a_mask_given_later_adds_an_object_and_wins_where_it_is(xmem: XMem) -> None:
    session = XMemSession(xmem, OPTIONS)
    first, second = keys_of(xmem, random_clip(2))
    session.step(first, squares(objects=1).float())
    masks = squares(objects=2).float()
    found = session.step(second, masks, [1])
    assert found.shape[0] == 3
    assert bool((found.argmax(0)[masks[1] > 0] == 2).all())
    assert float(found[1][masks[1] > 0].max()) < 1e-3


def test_state_is_a_snapshot(xmem: XMem) -> None:
    keys = keys_of(xmem, random_clip(9))
    session = XMemSession(xmem, OPTIONS)
    for number in range(4):
        session.step(keys[number], squares().float() if number == 0 else None)
    kept = session.state()
    expected = [session.step(each) for each in keys[4:]]
    again = XMemSession(xmem, OPTIONS)
    again.restore(kept)
    for each, wanted in zip(keys[4:], expected, strict=True):
        assert torch.equal(again.step(each), wanted)


def test_no_masks_on_the_first_frame(xmem: XMem) -> None:
    with pytest.raises(UsageError, match="give masks"):
        XMemSession(xmem).step(keys_of(xmem, random_clip(1))[0])


def test_padding_is_even() -> None:
    assert padding(90, 150) == (5, 5, 3, 3)
    assert padding(95, 161) == (7, 8, 0, 1)
    assert padding(64, 32) == (0, 0, 0, 0)


def test_background_is_the_absence_of_all() -> None:
    logits = compete(torch.tensor([0.5, 0.25])[None, :, None, None])
    torch.testing.assert_close(logits.sigmoid()[0, :, 0, 0], torch.tensor([0.375, 0.5, 0.25]))


def test_mixed_precision_keeps_memories_in_float32(xmem: XMem, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = random_clip(5)

    def results() -> list[torch.Tensor]:
        session = XMemSession(xmem, OPTIONS)
        found = []
        for number, image in enumerate(clip):
            with torch.no_grad(), xmem.precision():
                keys = xmem.encode_frame(image[None])
            found.append(session.step(keys, squares().float() if number == 0 else None))
        assert session.memory.work is not None
        assert session.memory.work.keys.dtype == session.memory.work.values.dtype == torch.float32
        return found

    exact = results()
    monkeypatch.setattr(xmem, "precision", lambda: torch.autocast("cpu", torch.bfloat16))
    mixed = results()
    assert all(found.dtype == torch.float32 for found in mixed)
    difference = max(float((a - b).abs().mean()) for a, b in zip(exact, mixed, strict=True))
    assert 0 < difference < 0.05
