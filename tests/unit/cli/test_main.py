"""The command line's own manners: help, unknown commands, flags, exit codes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from videoseg import __version__
from videoseg.cli.main import VERBS, Verb, main
from videoseg.errors import DatasetError


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(" ".join(path) in printed for path in VERBS)


def test_nothing_is_wrong_usage() -> None:
    assert main([]) == 2


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize("path", VERBS, ids=" ".join)
def test_every_command_explains_itself(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*path, "--help"]) == 0
    assert "options:" in capsys.readouterr().out


def test_a_group_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "data world" in shown
    assert "segment" not in shown
    assert main(["data", "bogus"]) == 2
    assert "data bogus" in capsys.readouterr().err


def test_an_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bogus"]) == 2
    assert "'bogus'" in capsys.readouterr().err


def called_with(values: dict[str, Any], raises: BaseException | None = None) -> Any:
    def verb(name: str, *, max_turns: int = 3, loud: bool = False) -> int:
        if raises:
            raise raises
        values.update(name=name, max_turns=max_turns, loud=loud)
        return 0

    return verb


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["x"], {"name": "x", "max_turns": 3, "loud": False}),
        (["x", "--max-turns", "2", "--loud"], {"name": "x", "max_turns": 2, "loud": True}),
        (["x", "--max_turns=5", "--loud", "false"], {"name": "x", "max_turns": 5, "loud": False}),
        (["null"], {"name": "null", "max_turns": 3, "loud": False}),
    ],
)
def test_flags(arguments: list[str], expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setitem(VERBS, ("fake",), Verb("x:y", "a fake"))
    monkeypatch.setattr(Verb, "function", lambda self: called_with(seen))
    assert main(["fake", *arguments]) == 0
    assert seen == expected


def test_options_from_a_file(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    (tmp_path / "c.yaml").write_text(json.dumps({"max_turns": 7}))
    monkeypatch.setitem(VERBS, ("fake",), Verb("x:y", "a fake"))
    monkeypatch.setattr(Verb, "function", lambda self: called_with(seen))
    assert main(["fake", "x", "--config", str(tmp_path / "c.yaml")]) == 0
    assert seen["max_turns"] == 7


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [(DatasetError("line 3 of x.json"), 3, "line 3"), (KeyboardInterrupt(), 130, "interrupted")],
)
def test_exit_codes(
    error: BaseException,
    code: int,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(VERBS, ("fake",), Verb("x:y", "a fake"))
    monkeypatch.setattr(Verb, "function", lambda self: called_with({}, error))
    assert main(["fake", "x"]) == code
    assert says in capsys.readouterr().err


def test_doctor_speaks_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["weights"]["tiny"] == "bundled"
    assert report["required"]["torch"]
