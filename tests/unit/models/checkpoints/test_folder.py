"""Checkpoint folders: complete in both directions, or an error that lists what is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from builders import random_o3
from videoseg.errors import CheckpointError, CheckpointKeysError, UsageError
from videoseg.models.checkpoints.folder import load_folder, official_state, save_folder, sha256
from videoseg.models.o3 import O3Model


@pytest.fixture(scope="module")
def model() -> O3Model:
    return random_o3()


@pytest.fixture(scope="module")
def saved(model: O3Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_folder(model, tmp_path_factory.mktemp("checkpoint") / "o3", torch.float32)


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(saved, tmp_path / "o3"))


def test_a_saved_model_loads_equal(model: O3Model, saved: Path) -> None:
    again = load_folder(saved, dtype="float32")
    before, after = official_state(model), official_state(again)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert again.text.preset == model.text.preset
    assert again.sam2.image_size == model.sam2.image_size
    assert again.seg_id == model.seg_id
    assert again.text.source["sha256"] == {"model.safetensors": sha256(saved / "model.safetensors")}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(saved: Path, dtype: str) -> None:
    model = load_folder(saved, dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}
    inv_freq = model.vlm.model.model.language_model.rotary_emb.inv_freq
    assert inv_freq.dtype == torch.float32


def test_shards_are_read_through_their_index(model: O3Model, folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    names = sorted(state)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, keys in parts.items():
        save_file({key: state[key] for key in keys}, folder / file)
    index = {"weight_map": {key: file for file, keys in parts.items() for key in keys}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    again = load_folder(folder, dtype="float32")
    assert torch.equal(official_state(again)[names[0]], official_state(model)[names[0]])
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model-00002-of-00002"):
        load_folder(folder)


@pytest.mark.parametrize(
    "key",
    [
        "model.lm_head.weight",
        "model.model.visual.pos_embed.weight",
        "grounding_encoder.sam2_model.no_mem_embed",
        "text_hidden_fcs.2.bias",
    ],
)
def test_a_missing_key_is_named(folder: Path, key: str) -> None:
    change(folder, lambda state: state.pop(key))
    with pytest.raises(CheckpointKeysError, match="missing") as error:
        load_folder(folder)
    assert key.split(".")[-2] in str(error.value) or "no_memory_embedding" in str(error.value)


@pytest.mark.parametrize(
    "key", ["model.bogus", "grounding_encoder.sam2_model.bogus", "text_hidden_fcs.9.bogus", "bogus"]
)
def test_an_unexpected_key_is_named(folder: Path, key: str) -> None:
    change(folder, lambda state: state.update({key: torch.zeros(1)}))
    with pytest.raises(CheckpointKeysError, match="bogus"):
        load_folder(folder)


def test_a_wrong_shape_is_named(folder: Path) -> None:
    key = "model.model.language_model.norm.weight"
    change(folder, lambda state: state.update({key: torch.zeros(3)}))
    with pytest.raises(CheckpointKeysError, match="shape"):
        load_folder(folder)


def test_a_folder_without_weights_or_config(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no model\.safetensors"):
        load_folder(folder)
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        load_folder(tmp_path)


def test_a_damaged_weight_file_is_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_folder(folder)


def test_a_wrong_hash_is_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="published hashes"):
        load_folder(folder, hashes={"model.safetensors": "0" * 64})


def test_a_chat_template_that_drops_thoughts_is_refused(folder: Path) -> None:
    template = (folder / "chat_template.jinja").read_text()
    dropping = template.replace("message.content }}", "message.content.split('</think>')[-1] }}")
    assert dropping != template
    (folder / "chat_template.jinja").write_text(dropping)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="chat template"):
        load_folder(folder)


def test_unknown_dtype_and_preset_field(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="dtype"):
        load_folder(folder, dtype="int4")
    config = json.loads((folder / "config.json").read_text())
    config["videoseg"]["preset"]["bogus"] = 1
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="bogus"):
        load_folder(folder)


def change(folder: Path, edit: object) -> None:
    state = load_file(folder / "model.safetensors")
    edit(state)  # type: ignore[operator]
    save_file(state, folder / "model.safetensors")
