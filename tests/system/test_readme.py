"""The README does what it says: its Python block runs, its commands exist, its links lead somewhere."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from golden import REPOSITORY
from videoseg.cli.main import VERBS, main
from videoseg.data.world.truth import read_truth
from videoseg.models.checkpoints.hub import ASSETS

README = (REPOSITORY / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_python_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = blocks("python")
    shutil.copy(ASSETS / "tiny" / "demo.mp4", tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    exec(code, scope)
    assert (tmp_path / "out" / "trace.html").exists()
    assert len(scope["results"]) == 2  # type: ignore[arg-type]


def test_the_first_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ASSETS / "tiny" / "demo.mp4", tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    line = next(line for line in "".join(blocks("bash")).splitlines() if line.startswith("videoseg segment"))
    words = [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', line)][1:]
    # The README asks about somebody's clip; ours holds something else.
    assert words[:2] == ["segment", "clip.mp4"]
    words[2] = read_truth(ASSETS / "tiny" / "demo_truth.json")[0].query
    assert main(words) == 0
    written = {path.name for path in (tmp_path / "clip.videoseg").iterdir()}
    for name in ("masks.json", "masks", "overlay.mp4", "trace.json", "trace.html"):
        assert name in written
        assert name in README


def test_every_command_of_the_readme_exists() -> None:
    verbs = {path[0] for path in VERBS}
    for line in "".join(blocks("bash")).splitlines():
        if line.startswith("videoseg "):
            assert line.split()[1] in verbs, line


def test_every_link_leads_somewhere() -> None:
    for page in [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
