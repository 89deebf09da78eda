"""SAM2 configurations: known sizes, and deducing them from a checkpoint's shapes."""

from __future__ import annotations

import json

import pytest
import torch

from sam2_builders import MICRO
from videoseg.errors import CheckpointError, UsageError
from videoseg.models.sam2 import Sam2
from videoseg.models.sam2_config import TRUNKS, Trunk, infer_config, sam2_config


@pytest.mark.parametrize(
    ("trunk", "version", "keys", "millions"),
    [
        ("tiny", "2.0", 466, 39.0),
        ("tiny", "2.1", 469, 39.0),
        ("large", "2.0", 898, 224.4),
        ("large", "2.1", 901, 224.4),
    ],
)
def test_published_sizes(trunk: str, version: str, keys: int, millions: float) -> None:
    with torch.device("meta"):
        model = Sam2(sam2_config(trunk, version=version)).model
    assert len(model.state_dict()) == keys
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


@pytest.mark.parametrize("version", ["2.0", "2.1"])
@pytest.mark.parametrize("trunk", sorted(TRUNKS))
def test_a_checkpoint_tells_its_configuration(trunk: str, version: str) -> None:
    config = sam2_config(trunk, 256, version)
    with torch.device("meta"):
        state = Sam2(config).model.state_dict()
    assert infer_config(state, 256).to_dict() == config.to_dict()


def test_small_sizes_are_deduced_too() -> None:
    config = sam2_config(**MICRO, version="2.1", num_maps=4)
    with torch.device("meta"):
        state = Sam2(config).model.state_dict()
    assert infer_config(state, MICRO["image_size"]).to_dict() == config.to_dict()


def test_the_input_size_is_set_everywhere() -> None:
    config = sam2_config("pico", 128)
    assert config.image_size == config.prompt_encoder_config.image_size == 128
    assert config.vision_config.backbone_config.image_size == [128, 128]
    assert config.vision_config.backbone_feature_sizes == [[32, 32], [16, 16], [8, 8]]
    assert config.memory_attention_rope_feat_sizes == [8, 8]


def test_an_own_trunk_may_come_from_json() -> None:
    own = Trunk(24, 2, (1, 1, 2, 1), (3,), (8, 4, 8, 4))
    fields = {name: getattr(own, name) for name in Trunk.__dataclass_fields__}
    config = sam2_config(json.loads(json.dumps(fields)), 64)
    assert config.to_dict() == sam2_config(own, 64).to_dict()
    with torch.device("meta"):
        state = Sam2(config).model.state_dict()
    with pytest.raises(CheckpointError, match="width 24, blocks"):
        infer_config(state, 64)
    assert infer_config(state, 64, own).to_dict() == config.to_dict()


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match=r"'huge'; known are: .*tiny"):
        sam2_config("huge")
    with pytest.raises(UsageError, match="multiple of 32"):
        sam2_config("pico", 100)
    with pytest.raises(UsageError, match=r"2\.0"):
        sam2_config("pico", 128, "3")
    with pytest.raises(UsageError, match="known are: width"):
        sam2_config("pico", 128, breadth=3)
    with pytest.raises(UsageError, match="does not fit"):
        sam2_config({"dims": 3}, 128)
    with pytest.raises(CheckpointError, match="not a SAM2 checkpoint"):
        infer_config({})
