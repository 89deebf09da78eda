"""Stock Qwen3-VL and SAM2 in, an O3 model to start SFT from out, and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AddedToken

from builders import CORPUS, random_o3
from videoseg.errors import CheckpointError, CheckpointKeysError
from videoseg.models.checkpoints.folder import load_folder, save_folder
from videoseg.models.checkpoints.meta_sam2 import save_meta
from videoseg.models.checkpoints.stock import EMBEDDING, from_stock, to_stock
from videoseg.models.o3 import ADDED_TOKENS, O3Model
from videoseg.models.tiny import build_tokenizer, build_vlm, text_files, vlm_config


@pytest.fixture(scope="module")
def model() -> O3Model:
    return random_o3(1)


@pytest.fixture(scope="module")
def stock(model: O3Model, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A Qwen3-VL folder as its makers ship it (no O3 tokens, tied head, padded embedding) and a SAM2 file."""
    folder = tmp_path_factory.mktemp("stock")
    tokenizer = _without_o3_tokens()
    config = vlm_config(tokenizer)
    config.text_config.vocab_size += 16
    qwen = build_vlm(config)
    for name, content in text_files(tokenizer).items():
        (folder / name).write_bytes(content)
    state = {key: value for key, value in qwen.state_dict().items() if key != "lm_head.weight"}
    save_file(state, folder / "model.safetensors")
    settings = config.to_dict() | {"model_type": "qwen3_vl", "tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(settings, default=str))
    save_meta(model.sam2, folder / "sam2.pt")
    return folder, folder / "sam2.pt"


def _without_o3_tokens() -> object:
    import videoseg.models.tiny as tiny

    kept = tuple(token for token in tiny.SPECIAL_TOKENS if token not in ADDED_TOKENS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "SPECIAL_TOKENS", kept)
        tokenizer = build_tokenizer(CORPUS)
    assert isinstance(tokenizer.added_tokens_decoder[0], AddedToken)
    return tokenizer


def test_tokens_are_added_and_the_head_is_untied(stock: tuple[Path, Path], model: O3Model) -> None:
    size = model.sam2.image_size
    built = from_stock(*stock, sam2_image_size=size)
    tokenizer = built.text.tokenizer
    ids = [tokenizer.convert_tokens_to_ids(token) for token in ADDED_TOKENS]
    assert ids == list(range(len(tokenizer) - 5, len(tokenizer)))
    embedding = built.vlm.model.get_input_embeddings().weight
    head = built.vlm.model.lm_head.weight
    assert len(embedding) == len(tokenizer) == built.vlm.config.text_config.vocab_size
    assert torch.equal(embedding, head)
    assert embedding.data_ptr() != head.data_ptr()
    original = load_file(stock[0] / "model.safetensors")[EMBEDDING]
    assert torch.equal(embedding[: ids[0]], original[: ids[0]])
    torch.testing.assert_close(embedding[built.seg_id], original[: ids[0]].mean(dim=0))


def test_it_saves_as_an_o3_folder(stock: tuple[Path, Path], model: O3Model, tmp_path: Path) -> None:
    built = from_stock(*stock, sam2_image_size=model.sam2.image_size)
    save_folder(built, tmp_path / "o3", torch.float32)
    again = load_folder(tmp_path / "o3", dtype="float32", sam2_image_size=model.sam2.image_size)
    assert again.seg_id == built.seg_id


def test_there_and_back(stock: tuple[Path, Path], model: O3Model, tmp_path: Path) -> None:
    size = model.sam2.image_size
    built = from_stock(*stock, sam2_image_size=size)
    qwen, sam2 = to_stock(built, tmp_path, torch.float32)
    again = from_stock(qwen, sam2, sam2_image_size=size)
    for part in ("vlm", "sam2"):
        before, after = getattr(built, part).state_dict(), getattr(again, part).state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)


def test_another_model_or_a_missing_key(stock: tuple[Path, Path], model: O3Model, tmp_path: Path) -> None:
    config = json.loads((stock[0] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    with pytest.raises(CheckpointError, match="llama"):
        from_stock(tmp_path, stock[1])
    state = torch.load(stock[1], weights_only=True)["model"]
    state.pop("no_mem_embed")
    torch.save({"model": state}, tmp_path / "short.pt")
    with pytest.raises(CheckpointKeysError, match="no_mem"):
        from_stock(stock[0], tmp_path / "short.pt", sam2_image_size=model.sam2.image_size)
