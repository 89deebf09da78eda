from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videoseg.data.lazy import LazyDict, LazyLines, LazyList, find_path, members, read_pickle, read_span
from videoseg.errors import DatasetError

leaves = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
values = st.recursive(
    leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)


@given(
    data=st.lists(values) | st.dictionaries(st.text(), values),
    indent=st.sampled_from([None, 0, 3]),
    ascii_only=st.booleans(),
)
def test_members_are_what_json_reads(
    tmp_path_factory: pytest.TempPathFactory, data: Any, indent: int | None, ascii_only: bool
) -> None:
    path = tmp_path_factory.mktemp("lazy") / "data.json"
    path.write_bytes(
        json.dumps(data, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    )
    found = [(key, read_span(path, span)) for key, span in members(path)]
    assert found == (list(data.items()) if isinstance(data, dict) else list(enumerate(data)))


def test_brackets_and_quotes_in_texts_do_not_confuse(tmp_path: Path) -> None:
    data = {"1": [{"size": [2, 2], "counts": r"[]{}\"04"}, None], 'a"]': [[["}"]]], "": {"x": {"y": [1, {}]}}}
    path = tmp_path / "mask_dict.json"
    path.write_text(json.dumps(data))
    lazy = LazyDict(path)
    assert dict(lazy.items()) == data
    assert LazyList(path, lazy.spans["1"])[0] == data["1"][0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file is empty"),
        ("17", "byte 0: a list or an object is expected"),
        ('{"a": [1, 2', "byte 6: what begins here never ends"),
        ('{"a": 1 "b": 2}', "byte 8: a comma"),
        ("{a: 1}", "byte 1: a quoted key"),
        ("[1, , 2]", "byte 4: a value is expected"),
        ("[1, 2", "a comma or the end"),
    ],
)
def test_broken_files_are_named_with_the_place(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(DatasetError, match=words) as caught:
        list(members(path))
    assert str(path) in str(caught.value)


def test_a_broken_member_is_found_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text('[{"a": 1}, {"a": nonsense}]')
    lazy = LazyList(path)
    assert lazy[0] == {"a": 1}
    with pytest.raises(DatasetError, match=r"data\.json: not valid JSON at byte 11"):
        _ = lazy[1]


def test_lines_skip_blank_ones_and_keep_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"a": "é"}\n\n{"a": 2}\nbroken\n')
    lines = LazyLines(path)
    assert [lines[0], lines[1]] == [{"a": "é"}, {"a": 2}]
    assert lines.numbers == [1, 3, 4]
    with pytest.raises(DatasetError, match=r"data\.jsonl, line 4: not valid JSON"):
        _ = lines[2]


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("code from a pickle",))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickles_of_plain_data_are_read(tmp_path: Path, protocol: int) -> None:
    data = {"1": [{"size": [2, 3], "counts": b"06"}, None], "x": (1, 2.5, {"s"} if protocol > 3 else "s")}
    path = tmp_path / "mask_dict.pkl"
    path.write_bytes(pickle.dumps(data, protocol=protocol))
    assert read_pickle(path, "masks") == data


def test_pickles_with_code_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mask_dict.pkl"
    path.write_bytes(pickle.dumps([Evil()]))
    with pytest.raises(DatasetError, match=r"mask_dict\.pkl: not a pickle of plain data.*print"):
        read_pickle(path, "masks")
    assert capsys.readouterr().out == ""


def test_a_pickle_of_python_2_is_read(tmp_path: Path) -> None:
    path = tmp_path / "refs.p"
    path.write_bytes(b"(lp0\n(dp1\nS'ref_id'\np2\nI5\nsS'raw'\np3\nS'caf\\xe9'\np4\nsa.")
    assert read_pickle(path, "refs") == [{"ref_id": 5, "raw": "café"}]


def test_a_missing_path_lists_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"a or .*b: not found; it should hold the masks"):
        find_path("the masks", tmp_path / "a", tmp_path / "b")
