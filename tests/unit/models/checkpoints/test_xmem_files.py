"""XMem's checkpoints: the official file and our folder, complete in both directions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from videoseg.errors import CheckpointError, CheckpointKeysError, UsageError
from videoseg.models.checkpoints.xmem import ASSETS, from_state, load_xmem, save_xmem
from videoseg.models.xmem import TINY, XMem
from xmem_builders import MICRO, SIZE, random_xmem


@pytest.fixture(scope="module")
def xmem() -> XMem:
    return random_xmem()


def test_the_official_file_and_back_is_exact(xmem: XMem, tmp_path: Path) -> None:
    save_xmem(xmem, tmp_path / "XMem.pth")
    read = load_xmem(tmp_path / "XMem.pth")
    assert (read.sizes, read.image_size, read.training) == (MICRO, 480, False)
    assert len(read.source["sha256"]) == 64
    for name, tensor in xmem.state_dict().items():
        assert torch.equal(read.state_dict()[name], tensor), name


def test_our_folder_is_bfloat16_and_knows_its_size(xmem: XMem, tmp_path: Path) -> None:
    save_xmem(xmem, tmp_path / "mine")
    read = load_xmem(tmp_path / "mine")
    assert read.image_size == SIZE
    for name, tensor in xmem.state_dict().items():
        exact = "running" in name or not tensor.is_floating_point()
        assert torch.equal(read.state_dict()[name], tensor if exact else tensor.bfloat16().float()), name


def test_the_bundled_one_is_small_and_knows_where_it_comes_from() -> None:
    xmem = load_xmem()
    assert (xmem.image_size, xmem.sizes) == (112, TINY)
    assert xmem.source["name"] == "tiny-xmem"
    folder = ASSETS / "tiny-xmem"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 6e6
    card = json.loads((folder / "card.json").read_text())
    assert card["sha256"] == xmem.source["sha256"]


def test_what_is_wrong_is_named(xmem: XMem, tmp_path: Path) -> None:
    state = xmem.state_dict()
    del state["decoder.pred.bias"]
    with pytest.raises(CheckpointKeysError, match=r"here.*missing: decoder\.pred\.bias"):
        from_state(state, "here")
    with pytest.raises(CheckpointKeysError, match="unexpected: stranger"):
        from_state({**xmem.state_dict(), "stranger": torch.zeros(1)}, "here")
    with pytest.raises(CheckpointError, match="no weights of XMem"):
        from_state({"a": torch.zeros(1)}, "here")
    single = xmem.state_dict()
    single["value_encoder.conv1.weight"] = single["value_encoder.conv1.weight"][:, :4]
    with pytest.raises(CheckpointError, match="single objects"):
        from_state(single, "here")
    with pytest.raises(UsageError, match=r"\.pth or a folder"):
        save_xmem(xmem, tmp_path / "x.onnx")
    with pytest.raises(CheckpointError, match="no checkpoint file"):
        load_xmem(tmp_path / "absent.pth")


def test_a_folder_without_its_size_is_refused(xmem: XMem, tmp_path: Path) -> None:
    save_xmem(xmem, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"image_size": "big"}))
    with pytest.raises(CheckpointError, match="image_size must be an integer"):
        load_xmem(tmp_path)
