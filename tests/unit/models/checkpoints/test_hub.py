"""Names of checkpoints to folders, without a network."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from videoseg.errors import CheckpointError
from videoseg.models.checkpoints.hub import KNOWN, WANTED, resolve


def test_a_folder_is_itself(tmp_path: Path) -> None:
    assert resolve(str(tmp_path)) == tmp_path


def test_the_bundled_checkpoint_needs_no_download() -> None:
    assert resolve("tiny") == KNOWN["tiny"].folder


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(CheckpointError, match="videoseg-o3-4b"):
        resolve("bogus")


def test_modelscope_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(CheckpointError, match=r"videoseg\[modelscope\]"):
        resolve("videoseg-o3-2b")


@pytest.mark.parametrize("name", ["videoseg-o3-2b", "videoseg-o3-4b", "ms:someone/else"])
def test_modelscope_downloads_the_repository(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def snapshot_download(repository: str, allow_patterns: list[str]) -> str:
        asked.append((repository, allow_patterns))
        return str(tmp_path)

    monkeypatch.setitem(sys.modules, "modelscope", SimpleNamespace(snapshot_download=snapshot_download))
    assert resolve(name) == tmp_path
    expected = KNOWN[name].modelscope if name in KNOWN else "someone/else"
    assert asked == [(expected, WANTED)]


@pytest.mark.parametrize("name", ["hf:owner/model", "owner/model"])
def test_hugging_face_downloads_the_repository(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def snapshot_download(repository: str, allow_patterns: list[str]) -> str:
        asked.append(repository)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert resolve(name) == tmp_path
    assert asked == ["owner/model"]


def test_a_failed_download_names_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(repository: str, allow_patterns: list[str]) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(CheckpointError, match=r"owner/model.*no route"):
        resolve("owner/model")
