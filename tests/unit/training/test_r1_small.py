"""How the bundled R1 is trained: its SAM2 on clicks, its reasoner on true answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from videoseg.data.world.sampler import WorldSpec
from videoseg.models.checkpoints.hub import ASSETS
from videoseg.models.checkpoints.r1 import load_r1_sam2, load_reasoner
from videoseg.training import clicks, r1_supervised
from videoseg.training.clicks import KINDS, ClicksConfig, draw_clicks, prompt_of
from videoseg.training.curves import read_records
from videoseg.training.losses import mask_iou
from videoseg.training.r1_supervised import R1SftConfig


def test_every_kind_of_prompt_finds_the_thing_with_the_bundled_weights() -> None:
    sam2 = load_r1_sam2(ASSETS / "tiny-r1", image_size=128, dtype="float32", device="cpu")
    config = ClicksConfig("unused", frames=6, jitter=0.02)
    batch = draw_clicks(range(1_000_000_000, 1_000_000_006), WorldSpec(), sam2, config)
    with torch.no_grad():
        features = sam2.encode(batch.images).select(batch.frame)
        for kind in KINDS:
            prompt = prompt_of(sam2, batch, kind)
            assert (
                prompt.sparse.shape[2] == 2 * ("box" in kind) + ("point" in kind) + ("negative" in kind) + 1
            )
            masks = sam2.segment(features, prompt).logits[:, 0]
            assert mask_iou(masks, batch.masks).mean() > 0.5, kind


def test_clicks_are_on_the_thing_and_off_it() -> None:
    sam2 = load_r1_sam2(ASSETS / "tiny-r1", image_size=128, dtype="float32", device="cpu")
    batch = draw_clicks(range(4), WorldSpec(), sam2, ClicksConfig("unused", frames=4, jitter=0.0))
    for box, point, mask in zip(batch.box, batch.point, batch.masks, strict=True):
        x1, y1, x2, y2 = box.tolist()
        assert x1 <= point[0] <= x2
        assert y1 <= point[1] <= y2
        assert mask[int(point[1] / 2), int(point[0] / 2)] > 0


def test_a_step_of_each_run(tmp_path: Path) -> None:
    done = clicks.run(ClicksConfig(str(tmp_path / "c"), steps=2, frames=2))
    assert torch.load(done, weights_only=True)
    assert len(read_records(tmp_path / "c" / "metrics.jsonl")) == 2
    config = R1SftConfig(str(tmp_path / "r"), steps=1, batch=2, think=False, log_every=1)
    folder = r1_supervised.run(config)
    vlm, text = load_reasoner(folder)
    assert text.config["videoseg"]["system"] == "r1"
    record = read_records(tmp_path / "r" / "metrics.jsonl")[0]
    assert {"text", "dense", "place", "gaze", "loss", "accuracy"} <= set(record)
    before = load_reasoner(ASSETS / "tiny-r1")[0].state_dict()
    name = "model.model.language_model.layers.0.mlp.up_proj.weight"
    assert not np.array_equal(vlm.state_dict()[name].numpy(), before[name].numpy())
    again = r1_supervised.run(config)  # finished: nothing is trained twice
    assert len(read_records(tmp_path / "r" / "metrics.jsonl")) == 1
    assert again == folder


def test_the_sizes_on_disk_stay_within_what_was_agreed() -> None:
    total = sum(
        path.stat().st_size for name in ("tiny", "tiny-r1", "tiny-xmem") for path in (ASSETS / name).iterdir()
    )
    assert total <= 40 * 2**20


@pytest.mark.parametrize("name", ["tiny-r1.yaml", "tiny-r1-clicks.yaml"])
def test_the_recipes_are_read(name: str) -> None:
    from videoseg.training.settings import read_settings

    kind = ClicksConfig if "clicks" in name else R1SftConfig
    assert read_settings(kind, Path(__file__).parents[3] / "configs" / name).steps > 1


@pytest.mark.parametrize("name", ["r1-3b-grpo.yaml", "r1-7b-grpo.yaml"])
def test_the_published_recipes_are_read(name: str) -> None:
    from videoseg.training.grpo_config import GrpoConfig
    from videoseg.training.rewards.registry import choose
    from videoseg.training.settings import read_settings

    config = read_settings(GrpoConfig, Path(__file__).parents[3] / "configs" / name)
    assert (config.system, config.batch, config.group, config.calibration) == ("r1", 16, 8, None)
    assert config.epsilon == 1e-6
    assert len(choose(config.rewards)) == 6
