"""The turn grammar: canonical forms, tolerated variants, named errors, hostile input."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videoseg.dialogue.grammar import (
    MAX_INDEX,
    RESERVED,
    clamp,
    first_vtg_keyframe,
    format_reply,
    parse,
    think_steps,
)
from videoseg.errors import ReplyError
from videoseg.types import Answer, Interval, Select

NUMBERS = '{"start": 2, "end": 9, "keyframe": 5}'
VTG = f"<VTG>{NUMBERS}</VTG>"
SEG = "<RefSeg>[SEG]</RefSeg>"
CANONICAL = f"<think>why</think><select>{VTG}{SEG}</select>"

index = st.integers(-MAX_INDEX, MAX_INDEX)
think = st.text().filter(lambda text: not any(tag in text for tag in RESERVED))
replies = st.builds(
    lambda kind, start, end, keyframe, text, seg: kind(Interval(start, end), keyframe, text, seg),
    st.sampled_from([Select, Answer]),
    index,
    index,
    index,
    think,
    st.booleans(),
)
# Text built from the grammar's own pieces reaches the parser's branches far oftener than random letters.
pieces = st.sampled_from(
    [*RESERVED, NUMBERS, '"start": 1', "{", "}", ", ", "[", "9" * 30, "NaN", "\x00", "\n"]
)
soup = st.lists(st.one_of(pieces, st.text(max_size=5)), max_size=25).map("".join)


def test_canonical_turn() -> None:
    assert parse(CANONICAL) == Select(Interval(2, 9), 5, think="why", has_seg=True)
    assert format_reply(Answer(Interval(2, 9), 5, think="why")) == CANONICAL.replace("select", "answer")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"<answer>{VTG}, {SEG}</answer>", Answer(Interval(2, 9), 5)),
        (
            f"\n<think>a\nb</think>\n\n<answer>\n {VTG} ,\n{SEG} </answer> bye",
            Answer(Interval(2, 9), 5, "a\nb"),
        ),
        (f"<select>{VTG}<RefVOS>[SEG]</RefVOS></select>", Select(Interval(2, 9), 5)),
        (f"<select>{VTG}</select>", Select(Interval(2, 9), 5, has_seg=False)),
        (f"<select>{VTG}<RefSeg></RefSeg>[SEG]</select>", Select(Interval(2, 9), 5, has_seg=False)),
        (f"<select>{SEG}{VTG}</select>", Select(Interval(2, 9), 5, has_seg=False)),
        (f"<answer>{VTG}</answer> then <select>{VTG}</select>", Select(Interval(2, 9), 5, has_seg=False)),
        (
            f"<think>no <select> yet</think><answer>{VTG}</answer>",
            Answer(Interval(2, 9), 5, "no <select> yet", False),
        ),
        (f"<think>open <answer>{VTG}{SEG}</answer>", Answer(Interval(2, 9), 5)),
        (f"<select> unclosed <answer>{VTG}{SEG}</answer>", Answer(Interval(2, 9), 5)),
        (f"<answer>{VTG}<VTG>broken</VTG>{SEG}</answer>", Answer(Interval(2, 9), 5)),
        (
            '<answer><VTG>{"start": 5.0, "end": -2, "keyframe": 1e2, "x": []}</VTG></answer>',
            Answer(Interval(5, -2), 100, has_seg=False),
        ),
        (
            '<answer><VTG>{"start": 1, "start": 2, "end": 3, "keyframe": 4}</VTG></answer>',
            Answer(Interval(2, 3), 4, has_seg=False),
        ),
    ],
)
def test_tolerated_forms(text: str, expected: Select | Answer) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "no_action"),
        ("<select>", "no_action"),
        (f"</select>{VTG}<select>", "no_action"),
        (f"<SELECT>{VTG}</SELECT>", "no_action"),
        (f"<think><answer>{VTG}</answer></think>", "no_action"),
        (f"<select>{NUMBERS}</select>", "no_vtg"),
        (f"<select>nothing</select>{VTG}", "no_vtg"),
        ("<select><VTG>{start: 2}</VTG></select>", "bad_json"),
        ("<select><VTG>[1, 2]</VTG></select>", "bad_json"),
        ("<select><VTG></VTG></select>", "bad_json"),
        ("<select><VTG>{'start': 1, 'end': 2, 'keyframe': 1}</VTG></select>", "bad_json"),
        ('<select><VTG>{"start": NaN, "end": 2, "keyframe": 1}</VTG></select>', "bad_json"),
        (f"<select><VTG>broken</VTG></select><answer>{VTG}</answer>", "bad_json"),
        ("<select><VTG>" + "[" * 4000 + "</VTG></select>", "bad_json"),
        ("<select><VTG>" + "9" * 4090 + "</VTG></select>", "bad_json"),
        ('<select><VTG>{"start": 1, "end": 2}</VTG></select>', "bad_field"),
        ('<select><VTG>{"start": true, "end": 2, "keyframe": 1}</VTG></select>', "bad_field"),
        ('<select><VTG>{"start": "1", "end": 2, "keyframe": 1}</VTG></select>', "bad_field"),
        ('<select><VTG>{"start": 1.5, "end": 2, "keyframe": 1}</VTG></select>', "bad_field"),
        ('<select><VTG>{"start": 1e999, "end": 2, "keyframe": 1}</VTG></select>', "bad_field"),
        ('<select><VTG>{"start": null, "end": 2, "keyframe": 1}</VTG></select>', "bad_field"),
    ],
)
def test_errors_are_named(text: str, kind: str) -> None:
    with pytest.raises(ReplyError) as caught:
        parse(text)
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"<select>{NUMBERS}</select> [SEG]", Select(Interval(2, 9), 5, has_seg=False)),
        (f"<select>x{VTG}{SEG}</select>", Select(Interval(2, 9), 5)),
        (
            f"<think>a<select>{NUMBERS}</select></think>",
            Select(Interval(2, 9), 5, f"a<select>{NUMBERS}</select>", False),
        ),
    ],
)
def test_optional_vtg(text: str, expected: Select) -> None:
    assert parse(text, optional_vtg=True) == expected
    with pytest.raises(ReplyError):
        parse(f"<select>{NUMBERS}{SEG}</select>", optional_vtg=True)


def test_huge_numbers_are_cut_before_anyone_counts_frames() -> None:
    reply = parse(f'<answer><VTG>{{"start": -{"9" * 400}, "end": 1e300, "keyframe": 0}}</VTG></answer>')
    assert reply.interval == Interval(-MAX_INDEX, MAX_INDEX)
    assert len(reply.interval) == 2 * MAX_INDEX + 1
    assert clamp(reply, 7) == (Interval(0, 6), 0)


def test_clamp() -> None:
    assert clamp(Select(Interval(-3, 99), 50), 10) == (Interval(0, 9), 9)
    assert clamp(Select(Interval(9, 4), -1), 10) == (Interval(9, 4), 0)
    assert not clamp(Select(Interval(20, 30), 25), 10)[0]
    assert clamp(Answer(Interval(0, 0), 0), 1) == (Interval(0, 0), 0)


@pytest.mark.parametrize(
    ("start", "end", "keyframe", "expected"),
    [
        ("1.9", "6.0", "-0.9", Select(Interval(1, 6), 0)),
        ('"1"', '" 1_6 "', '"-3"', Select(Interval(1, 16), -3)),
        ("false", "6", "true", Select(Interval(0, 6), 1)),
        ("1e300", "-1e300", "0", Select(Interval(MAX_INDEX, -MAX_INDEX), 0)),
        ("1", "6", '2, "sure": NaN', Select(Interval(1, 6), 2)),
        ("1", "6", f'2, "note": "{"a" * 5000}"', Select(Interval(1, 6), 2)),
    ],
)
def test_loose_numbers_are_what_python_makes_of_them(
    start: str, end: str, keyframe: str, expected: Select
) -> None:
    text = f'<select><VTG>{{"start": {start}, "end": {end}, "keyframe": {keyframe}}}</VTG>{SEG}</select>'
    assert parse(text, loose_json=True) == expected
    with pytest.raises(ReplyError):
        parse(text.replace("1e300", "1.5"))


@pytest.mark.parametrize("value", ["null", "[1]", "{}", '"one"', '"1.5"', '""', "NaN", "Infinity", "-1e999"])
def test_loose_numbers_have_limits(value: str) -> None:
    text = f'<select><VTG>{{"start": 1, "end": {value}, "keyframe": 2}}</VTG>{SEG}</select>'
    with pytest.raises(ReplyError) as caught:
        parse(text, loose_json=True)
    assert caught.value.kind == "bad_field"


def test_first_vtg_needs_no_surroundings() -> None:
    assert first_vtg_keyframe(f"so: {VTG} and <VTG>2</VTG>") == 5
    assert first_vtg_keyframe(f"<VTG>broken</VTG>{VTG}") is None
    assert first_vtg_keyframe(NUMBERS) is None


def test_first_vtg_needs_no_interval() -> None:
    assert first_vtg_keyframe('<VTG>{"keyframe": "6"}</VTG>') == 6
    assert first_vtg_keyframe('<VTG>{"start": null, "end": [], "keyframe": 6.9}</VTG>') == 6
    assert first_vtg_keyframe('<VTG>{"start": 1, "end": 2}</VTG>') is None
    assert first_vtg_keyframe("<VTG>6</VTG>") is None


@given(replies)
def test_print_then_parse_is_the_identity(reply: Select | Answer) -> None:
    assert parse(format_reply(reply)) == reply
    assert parse(format_reply(reply), optional_vtg=True) == reply


@pytest.mark.parametrize("tag", RESERVED)
def test_printing_refuses_tags_in_the_thought(tag: str) -> None:
    with pytest.raises(ValueError, match="think"):
        format_reply(Select(Interval(0, 1), 0, think=f"a {tag} b"))


def test_printing_refuses_numbers_it_could_not_read_back() -> None:
    with pytest.raises(ValueError, match="keyframe"):
        format_reply(Select(Interval(0, 1), MAX_INDEX + 1))


@given(st.one_of(soup, st.text(), st.text(st.characters(categories=["Cs", "Cc", "L"]))), st.booleans())
def test_any_text_is_read_or_refused_by_name(text: str, optional: bool) -> None:
    kinds: set[str] = set()
    try:
        reply = parse(text, optional_vtg=optional, loose_json=optional)
    except ReplyError as error:
        kinds.add(error.kind)
    else:
        interval, keyframe = clamp(reply, 5)
        assert 0 <= keyframe < 5
        assert interval.start >= 0
        assert interval.end < 5
    first_vtg_keyframe(text)
    think_steps(text)
    assert kinds <= {"no_action", "no_vtg", "bad_json", "bad_field"}


@pytest.mark.parametrize(
    "unit", [*RESERVED, "<select><VTG>", "<select></VTG>", "[", "step 1", "step ", "action", " "]
)
def test_a_megabyte_is_read_in_linear_time(unit: str) -> None:
    text = (unit * (2**20 // len(unit)))[: 2**20]
    started = time.perf_counter()
    for attack in (text, f"<think>{text}", f"<select><VTG>{text}</VTG>{text}</select>", f"{text}</select>"):
        for optional in (False, True):
            with pytest.raises(ReplyError):
                parse(attack, optional_vtg=optional, loose_json=optional)
    think_steps(text)
    assert time.perf_counter() - started < 2


def test_think_steps() -> None:
    text = "Well. Step 1: it moves. STEP 2 : left, at 1:2 Step3: named. Action: See new segment."
    assert think_steps(text) == (
        ("Thought", "Well."),
        ("Step 1", "it moves."),
        ("Step 2", "left, at 1:2"),
        ("Step 3", "named."),
        ("Action", "See new segment."),
    )
    assert think_steps("  plain ") == (("Thought", "plain"),)
    assert think_steps(" ") == ()
