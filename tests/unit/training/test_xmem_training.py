"""Training XMem: its forward is inference's, its data are what they say, an interrupted run goes on."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from videoseg.errors import InterruptedRunError, UsageError
from videoseg.models.checkpoints.xmem import load_xmem
from videoseg.models.xmem import MemoryOptions, XMemSession
from videoseg.training import xmem as training
from videoseg.training.curves import read_records
from videoseg.training.settings import read_settings
from videoseg.training.xmem import Clips, XMemConfig, clip_loss, draw_clips, propagate, run
from xmem_builders import MICRO, keys_of, random_clip, random_xmem, squares

RECIPE = Path(__file__).parents[3] / "configs" / "tiny-xmem.yaml"
CONFIG = XMemConfig("out", steps=4, batch=2, frames=(2, 3), image_size=48, valid_clips=1, log_every=1)


def test_the_forward_is_that_of_inference() -> None:
    xmem = random_xmem()
    images = torch.stack([random_clip(7, 48, 64, seed) for seed in (0, 1)])
    masks = torch.stack([squares(), squares().flip(0)])
    clips = Clips(images, masks[:, None].expand(-1, 7, -1, -1, -1))
    with torch.no_grad():
        logits = propagate(xmem, clips, [time % 2 == 0 for time in range(7)])
    for row in range(2):
        session = XMemSession(xmem, MemoryOptions(every=2, top_k=None, long_term=False))
        for time, keys in enumerate(keys_of(xmem, images[row])):
            expected = session.step(keys, masks[row].float() if time == 0 else None, last=time == 6)
            if time:
                ours = logits[time - 1][row].softmax(0)
                torch.testing.assert_close(ours, expected, atol=2e-3, rtol=2e-3)


def test_things_absent_at_first_have_no_mask() -> None:
    config = replace(CONFIG, gap_share=1.0)
    clips = draw_clips(range(30), 4, config)
    assert clips.images.shape == (30, 4, 3, 48, 67)
    first = clips.masks[:, 0].flatten(2).any(2)
    ever = clips.masks.flatten(3).any(3).any(1)
    assert bool((ever <= first).all())
    assert not bool((clips.masks.sum(2) > 1).any())
    later = clips.masks[:, 1:].flatten(3).any(3)
    assert bool((first[:, None] & ~later).any())  # some things disappear
    again = draw_clips(range(30), 4, config)
    assert torch.equal(again.images, clips.images)


def test_loss_is_zero_for_certainty_and_counts_the_worst() -> None:
    masks = squares()[None, None].expand(1, 2, -1, -1, -1)
    sure = torch.cat([~squares().any(0, keepdim=True), squares()]).float()[None] * 40 - 20
    cross, dice = clip_loss([sure], masks, 0.15)
    assert float(cross) < 1e-6
    assert float(dice) < 1e-3
    wrong = sure.clone()
    wrong[0, :, 0, 0] = wrong[0, [1, 0, 2], 0, 0]
    every, worst = (float(clip_loss([wrong], masks, share)[0]) for share in (1.0, 0.01))
    assert worst == pytest.approx(100 * every, rel=0.05)


def test_an_interrupted_run_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "TINY", MICRO)
    straight = run(replace(CONFIG, out=str(tmp_path / "a")))

    def stop(record: dict[str, object]) -> None:
        if record["step"] == 1:
            signal.raise_signal(signal.SIGINT)

    config = replace(CONFIG, out=str(tmp_path / "b"))
    with pytest.raises(InterruptedRunError):
        run(config, stop)
    told: list[dict[str, object]] = []
    resumed = run(config, told.append)
    assert [record["step"] for record in told] == [2, 3]
    one, other = load_xmem(straight).state_dict(), load_xmem(resumed).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    logged = read_records(tmp_path / "b" / "metrics.jsonl")
    assert [record["step"] for record in logged] == [0, 1, 2, 3]
    assert {"ce", "dice", "valid_iou"} <= set(logged[-1])
    more = run(replace(CONFIG, out=str(tmp_path / "c"), init=str(resumed), steps=1, lr=1e-9))
    start, moved = (load_xmem(path).state_dict() for path in (resumed, more))
    assert all(torch.allclose(start[n], moved[n], atol=1e-6) for n in start if n.endswith("conv1.weight"))


def test_the_recipe_is_read() -> None:
    config = read_settings(XMemConfig, RECIPE)
    assert config.frames == (3, 8)
    with pytest.raises(UsageError, match="unknown field speed"):
        read_settings(XMemConfig, RECIPE, {"speed": 1})
    with pytest.raises(UsageError, match="frames: 2"):
        XMemConfig("out", frames=(5, 3))
