"""Meta's SAM2 layout, both directions: exact, complete, and precise about what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from sam2_builders import MICRO, random_sam2
from videoseg.errors import CheckpointError, CheckpointKeysError, UsageError
from videoseg.models.checkpoints.keys import rename, require_complete
from videoseg.models.checkpoints.meta_sam2 import load_meta, save_meta, to_meta, to_transformers
from videoseg.models.sam2 import Sam2
from videoseg.models.sam2_config import sam2_config

SIZE = MICRO["image_size"]


def names_of(trunk: str, version: str) -> dict[str, Tensor]:
    """The state dict of a full-size SAM2 with a different one-number tensor for every key."""
    with torch.device("meta"):
        keys = list(Sam2(sam2_config(trunk, version=version)).model.state_dict())
    state = {key: torch.tensor([[float(i)]]) for i, key in enumerate(keys)}
    state["prompt_encoder.point_embed.weight"] = torch.arange(4.0)[:, None]
    state["shared_image_embedding.positional_embedding"] = state[
        "prompt_encoder.shared_embedding.positional_embedding"
    ]
    return state


@pytest.mark.parametrize("o3_names", [False, True])
@pytest.mark.parametrize("version", ["2.0", "2.1"])
@pytest.mark.parametrize("trunk", ["tiny", "large"])
def test_round_trip_is_exact(trunk: str, version: str, o3_names: bool) -> None:
    state = names_of(trunk, version)
    official = to_meta(state, o3_names=o3_names)
    assert len(official) == len(state) + 2  # four point embeddings for one, one position table for two
    back = to_transformers(official)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in state.items())
    scales = {key.rsplit(".")[-1] for key in official} & {"gamma", "g_weight"}
    assert scales == {"g_weight" if o3_names else "gamma"}


def test_official_names() -> None:
    official = to_meta(names_of("tiny", "2.1"))
    for name in (
        "image_encoder.trunk.blocks.11.mlp.layers.1.weight",
        "image_encoder.neck.convs.3.conv.bias",
        "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
        "sam_prompt_encoder.point_embeddings.3.weight",
        "sam_prompt_encoder.mask_downscaling.6.weight",
        "sam_mask_decoder.transformer.layers.1.cross_attn_token_to_image.out_proj.weight",
        "sam_mask_decoder.transformer.final_attn_token_to_image.out_proj.bias",
        "sam_mask_decoder.output_hypernetworks_mlps.3.layers.2.weight",
        "memory_attention.layers.3.cross_attn_image.out_proj.weight",
        "memory_attention.norm.weight",
        "memory_encoder.mask_downsampler.encoder.12.weight",
        "memory_encoder.mask_downsampler.encoder.10.bias",
        "memory_encoder.fuser.layers.1.pwconv2.weight",
        "memory_encoder.out_proj.weight",
        "mask_downsample.weight",
        "obj_ptr_proj.layers.1.weight",
        "obj_ptr_tpos_proj.weight",
        "no_obj_embed_spatial",
        "maskmem_tpos_enc",
    ):
        assert name in official


@pytest.mark.parametrize("file", ["sam2.pt", "sam2.safetensors"])
@pytest.mark.parametrize("o3_names", [False, True])
def test_files_round_trip(tmp_path: Path, file: str, o3_names: bool) -> None:
    sam2 = random_sam2(version="2.1")
    save_meta(sam2, tmp_path / file, o3_names=o3_names)
    loaded = load_meta(tmp_path / file, image_size=SIZE)
    expected = sam2.model.state_dict()
    assert loaded.model.state_dict().keys() == expected.keys()
    assert all(torch.equal(t, expected[k]) for k, t in loaded.model.state_dict().items())
    assert load_meta(tmp_path / file, image_size=SIZE, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_pt_files_hold_a_model_entry(tmp_path: Path) -> None:
    sam2 = random_sam2()
    save_meta(sam2, tmp_path / "sam2.pt")
    content = torch.load(tmp_path / "sam2.pt", weights_only=True)
    assert list(content) == ["model"]
    torch.save(content["model"], tmp_path / "bare.pt")
    load_meta(tmp_path / "bare.pt", image_size=SIZE)


def test_missing_and_unexpected_keys_are_listed(tmp_path: Path) -> None:
    state = to_meta(random_sam2().model.state_dict())
    del state["maskmem_tpos_enc"]
    state["visitor.weight"] = torch.zeros(1)
    torch.save({"model": state}, tmp_path / "sam2.pt")
    with pytest.raises(CheckpointKeysError) as caught:
        load_meta(tmp_path / "sam2.pt", image_size=SIZE)
    text = str(caught.value)
    assert "1 missing: memory_temporal_positional_encoding" in text
    assert "1 unexpected: visitor.weight" in text
    assert "sam2.pt" in text


def test_an_image_only_checkpoint_must_be_asked_for(tmp_path: Path) -> None:
    absent = ("memory_", "obj_ptr_proj.", "maskmem_tpos_enc", "no_obj_ptr", "no_mem_pos_enc")
    state = {k: v for k, v in to_meta(random_sam2().model.state_dict()).items() if not k.startswith(absent)}
    torch.save({"model": state}, tmp_path / "image.pt")
    config = sam2_config(**MICRO)
    with pytest.raises(CheckpointKeysError, match="missing"):
        load_meta(tmp_path / "image.pt", config)
    sam2 = load_meta(tmp_path / "image.pt", config, may_miss=absent)
    assert torch.equal(sam2.model.no_memory_embedding, state["no_mem_embed"])
    with pytest.raises(CheckpointKeysError, match="missing"):
        load_meta(tmp_path / "image.pt", config, may_miss=absent[1:])


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "noise.pt").write_bytes(b"no checkpoint")
    (tmp_path / "noise.safetensors").write_bytes(b"no checkpoint")
    torch.save({"model": [1, 2]}, tmp_path / "list.pt")
    for name in ("noise.pt", "noise.safetensors", "list.pt", "absent.pt"):
        with pytest.raises(CheckpointError, match=name):
            load_meta(tmp_path / name)
    save_meta(random_sam2(), tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="do not fit the configuration"):
        load_meta(tmp_path / "other.pt", sam2_config("pico", 32))
    with pytest.raises(UsageError, match="safetensors"):
        save_meta(random_sam2(), tmp_path / "sam2.bin")


def test_two_position_tables_cannot_be_saved_as_one() -> None:
    state = random_sam2().model.state_dict()
    state["shared_image_embedding.positional_embedding"] = torch.zeros(2, 32)
    with pytest.raises(CheckpointError, match="differ"):
        to_meta(state)


class TestKeys:
    TABLE = (
        ("a.{i}.norm{j}.", "b.{i}.layer_norm{j}."),
        ("a.{i}.{name}.out.", "b.{i}.{name}.o."),
        ("a.", "b."),
    )

    def test_first_fitting_pair_wins(self) -> None:
        state = {"a.3.norm1.w": 1, "a.0.self_attn.out.w": 2, "a.x": 3, "c.a.x": 4}
        renamed = rename(state, self.TABLE)
        assert renamed == {"b.3.layer_norm1.w": 1, "b.0.self_attn.o.w": 2, "b.x": 3, "c.a.x": 4}
        assert rename(renamed, self.TABLE, reverse=True) == state

    def test_two_keys_may_not_meet(self) -> None:
        with pytest.raises(CheckpointKeysError, match="two keys"):
            rename({"a.x": 1, "b.x": 2}, self.TABLE)

    def test_long_lists_are_counted(self) -> None:
        require_complete([], [], "nothing")
        with pytest.raises(CheckpointKeysError, match=r"12 missing: k00, .* and 2 more; 1 unexpected: z"):
            require_complete([f"k{i:02d}" for i in range(12)], ["z"], "file.pt")
