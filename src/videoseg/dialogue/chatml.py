"""ChatML and its tokens, and what must hold before a dialogue is rendered (O3 specification §3)."""

from __future__ import annotations

from typing import Protocol

from videoseg.dialogue.grammar import SEG_TOKEN
from videoseg.dialogue.preset import Preset
from videoseg.dialogue.prompts import clean_query
from videoseg.errors import CheckpointError, QueryError

START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
GENERATE = f"{START}assistant\n"
PLACEHOLDER = VISION_START + IMAGE + VISION_END
RESERVED = (START, END, PAD, VISION_START, VISION_END, IMAGE, VIDEO, SEG_TOKEN)
"""Tokens with a meaning to the dialogue: no user text may hold them."""


class Tokenizer(Protocol):
    """What the renderer needs of a transformers tokenizer."""

    all_special_tokens: list[str]

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...

    def decode(
        self, token_ids: list[int], *, skip_special_tokens: bool, clean_up_tokenization_spaces: bool
    ) -> str: ...

    def convert_tokens_to_ids(self, tokens: str) -> int | None: ...

    def get_added_vocab(self) -> dict[str, int]: ...


def reserved_tokens(tokenizer: Tokenizer) -> tuple[str, ...]:
    """Every token text that a user may not write: special and added tokens, longest first."""
    texts = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    return tuple(sorted(texts, key=lambda text: (-len(text), text)))


def check_query(text: str, tokenizer: Tokenizer, preset: Preset | None = None) -> None:
    """Raise QueryError if a query is blank, holds a reserved token, or is not valid Unicode.

    The presets that delete `<image>` and `<video>` do so before the check.
    """
    query = text if preset is None else clean_query(text, preset)
    if not query.strip():
        raise QueryError("the query is empty; say in words what to find")
    for token in reserved_tokens(tokenizer):
        if token in query:
            raise QueryError(
                f"the query holds {token!r}, a token reserved by the model; write it differently"
            )
    try:
        query.encode()
    except UnicodeEncodeError as error:
        raise QueryError(
            f"the query holds a broken character at position {error.start}; retype it"
        ) from error
    added = {index: token for token, index in tokenizer.get_added_vocab().items()}
    # a tokenizer that normalises its input may find a reserved token that is not there literally
    for index in tokenizer.encode(query, add_special_tokens=False):
        if index in added:
            raise QueryError(f"the query is read as {added[index]!r}, a token reserved by the model")


def check_template(tokenizer: Tokenizer) -> None:
    """Raise CheckpointError unless the checkpoint's chat template writes our ChatML verbatim.

    Some Qwen3 templates drop `<think>` from earlier assistant turns; a dialogue would then not be what the
    model was trained on.
    """
    reply = '<think> a\n b </think><select><VTG>{"start": 0}</VTG><RefSeg>x</RefSeg></select>'
    roles = [("system", "s"), ("user", "q\n"), ("assistant", reply), ("user", "r"), ("assistant", reply)]
    messages: list[dict[str, object]] = [
        {"role": role, "content": [{"type": "text", "text": text}] if role != "assistant" else text}
        for role, text in [*roles, ("user", "t")]
    ]
    messages[1]["content"] = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "q\n"}]
    expected = "".join(f"{START}{role}\n{text}{END}\n" for role, text in [*roles, ("user", "t")])
    expected = expected.replace("q\n", f"{PLACEHOLDER}{PLACEHOLDER}q\n", 1) + GENERATE
    written = _apply_template(tokenizer, messages)
    if written != expected:
        at = next((i for i, (a, b) in enumerate(zip(written, expected, strict=False)) if a != b), -1)
        near = f"{written[max(0, at - 20) : at + 40]!r} instead of {expected[max(0, at - 20) : at + 40]!r}"
        raise CheckpointError(
            f"the checkpoint's chat template does not reproduce the dialogue verbatim (it writes {near}); "
            "use the chat_template.jinja of the Instruct model"
        )


def _apply_template(tokenizer: Tokenizer, messages: list[dict[str, object]]) -> str:
    from jinja2 import TemplateError

    apply = getattr(tokenizer, "apply_chat_template", None)
    if apply is None or not getattr(tokenizer, "chat_template", None):
        raise CheckpointError("the checkpoint has no chat template; add its chat_template.jinja")
    try:
        return str(apply(messages, tokenize=False, add_generation_prompt=True))
    except (TemplateError, TypeError, ValueError) as error:
        raise CheckpointError(f"the checkpoint's chat template fails: {error}") from error


def token_id(tokenizer: Tokenizer, text: str) -> int:
    """The id of a token that the tokenizer must know; raises CheckpointError otherwise."""
    index = tokenizer.convert_tokens_to_ids(text)
    if index is None or tokenizer.encode(text, add_special_tokens=False) != [index]:
        raise CheckpointError(f"the tokenizer has no token {text}; is it a Qwen-VL tokenizer?")
    return index
