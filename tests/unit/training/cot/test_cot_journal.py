"""The builder's journal: what survives a kill, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from videoseg.errors import OutputError
from videoseg.training.cot.journal import Journal

HEAD = {"dataset": "mevis", "limits": {"leaks": ("a", "b")}}


def written(path: Path) -> bytes:
    with Journal(path, HEAD) as journal:
        for number in (3, 0):
            journal.add(number, {"item": {"exp": f"é{number}"}, "tries": [1, 2]})
    return path.read_bytes()


def test_what_was_added_is_there_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "j.jsonl"
    written(path)
    with Journal(path, HEAD) as journal:
        assert journal.records == {number: {"tries": [1, 2], "written": True} for number in (3, 0)}
        assert [journal.item(number) for number in (0, 3)] == [{"exp": "é0"}, {"exp": "é3"}]
        journal.add(5, {"item": None, "tries": []})
        assert (journal.item(3), journal.item(5)) == ({"exp": "é3"}, None)
        assert journal.records[5]["written"] is False
    assert len(path.read_bytes().splitlines()) == 4


def test_a_file_cut_at_any_byte_is_gone_on_with(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole.jsonl")
    path = tmp_path / "cut.jsonl"
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        with Journal(path, HEAD) as journal:
            kept = set(journal.records)
            assert kept == {0: set(), 1: set(), 2: {3}, 3: {3, 0}}[whole[:length].count(b"\n")]
            for number in {3, 0} - kept:
                journal.add(number, {"item": {"exp": f"é{number}"}, "tries": [1, 2]})
        with Journal(path, HEAD) as journal:
            assert set(journal.records) == {3, 0}
        assert sorted(path.read_bytes().splitlines()) == sorted(whole.splitlines())


def test_a_run_with_other_settings_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "j.jsonl")
    with pytest.raises(OutputError, match=r"other settings \(dataset, seed\)"):
        Journal(tmp_path / "j.jsonl", HEAD | {"dataset": "revos", "seed": 1})


def test_damage_in_the_middle_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    lines = written(path).splitlines()
    path.write_bytes(b"\n".join([lines[0], b"{broken", lines[2], b""]))
    with pytest.raises(OutputError, match="line 2: damaged"):
        Journal(path, HEAD)


@pytest.mark.parametrize("content", [b'{"some": "thing"}\n', b"[1, 2]\n"])
def test_another_file_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "j.jsonl"
    path.write_bytes(content)
    with pytest.raises(OutputError, match="not a journal"):
        Journal(path, HEAD)
    assert path.read_bytes() == content


def test_of_one_sample_the_first_record_counts(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    written(path)
    with path.open("a") as file:
        file.write(json.dumps({"sample": 3, "item": None}) + "\n")
    with Journal(path, HEAD) as journal:
        assert journal.item(3) == {"exp": "é3"}


def test_two_processes_do_not_share_a_journal(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    path = tmp_path / "j.jsonl"
    with Journal(path, HEAD):
        code = (
            "import sys; from pathlib import Path; from videoseg.training.cot.journal import Journal\n"
            "from videoseg.errors import OutputError\n"
            "try: Journal(Path(sys.argv[1]), {})\n"
            "except OutputError as error: print(error)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
        )
    assert "another run is writing it" in done.stdout


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        Journal(tmp_path / "file" / "j.jsonl", HEAD)
