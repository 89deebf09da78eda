"""Checks before rendering: queries with reserved tokens, chat templates that rewrite history."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videoseg.dialogue.chatml import check_query, check_template, reserved_tokens
from videoseg.dialogue.preset import RELEASED
from videoseg.errors import CheckpointError, QueryError


@pytest.mark.parametrize("token", ["[SEG]", "<|im_end|>", "<|image_pad|>", "<|endoftext|>"])
def test_reserved_tokens_are_refused_by_name(tokenizer: Any, token: str) -> None:
    assert token in reserved_tokens(tokenizer)
    with pytest.raises(QueryError, match=token.strip("[]<>|")):
        check_query(f"the cat{token}on the left", tokenizer)


@pytest.mark.parametrize("query", ["", "  ", "\n"])
def test_blank_queries_are_refused(tokenizer: Any, query: str) -> None:
    with pytest.raises(QueryError, match="empty"):
        check_query(query, tokenizer)


def test_broken_characters_are_refused(tokenizer: Any) -> None:
    with pytest.raises(QueryError, match="position 2"):
        check_query("a \ud800", tokenizer)


def test_placeholders_are_deleted_before_the_check(tokenizer: Any) -> None:
    check_query("the <image> cat", tokenizer)
    check_query("the <image> cat", tokenizer, RELEASED)
    with pytest.raises(QueryError, match="im_end"):
        check_query("the <|im_<image>end|>", tokenizer, RELEASED)
    with pytest.raises(QueryError, match="empty"):
        check_query("<video>", tokenizer, RELEASED)


def test_a_token_found_only_after_normalising_is_refused(tokenizer_builder: Any) -> None:
    from tokenizers import AddedToken, normalizers

    shouting = tokenizer_builder()
    shouting.backend_tokenizer.normalizer = normalizers.Lowercase()
    shouting.add_tokens([AddedToken("<cut>", normalized=True)])
    check_query("the cat", shouting)
    with pytest.raises(QueryError, match="<cut>"):
        check_query("the <CUT> here", shouting)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_other_text_is_accepted_and_read_without_special_tokens(tokenizer: Any, query: str) -> None:
    if not query.strip() or any(token in query for token in reserved_tokens(tokenizer)):
        with pytest.raises(QueryError):
            check_query(query, tokenizer)
        return
    check_query(query, tokenizer)
    special = set(tokenizer.get_added_vocab().values())
    assert not special & set(tokenizer.encode(query, add_special_tokens=False))


def test_verbatim_template_is_accepted(tokenizer: Any) -> None:
    check_template(tokenizer)


@pytest.mark.parametrize(
    ("template", "named"),
    [
        (None, "no chat template"),
        ("{{ undefined.field.deeper }}", "fails"),
        ("{% for m in messages %}{{ m.role }}{% endfor %}", "verbatim"),
        (
            "{%- for m in messages -%}{{- '<|im_start|>' + m.role + '\n' -}}"
            "{%- if m.content is string -%}{{- m.content.split('</think>')[-1] -}}{%- else -%}"
            "{%- for c in m.content -%}{%- if c.type == 'image' -%}"
            "{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}{%- else -%}{{- c.text -}}{%- endif -%}"
            "{%- endfor -%}{%- endif -%}{{- '<|im_end|>\n' -}}{%- endfor -%}"
            "{{- '<|im_start|>assistant\n' -}}",
            "verbatim",
        ),
    ],
)
def test_templates_that_rewrite_the_dialogue_are_refused(
    tokenizer_builder: Any, template: str | None, named: str
) -> None:
    with pytest.raises(CheckpointError, match=named):
        check_template(tokenizer_builder(template=template))
