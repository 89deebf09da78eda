"""What goes to a model behind an OpenAI-compatible endpoint and what comes back, as frozen data."""

from __future__ import annotations

import base64
import io
import math
import os
import re
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from videoseg.errors import UsageError

ImageFormat = Literal["jpeg", "png"]
PATH = "/chat/completions"


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded image."""

    data: bytes
    media: str

    @property
    def uri(self) -> str:
        """The image as a data URI."""
        return f"data:{self.media};base64,{base64.b64encode(self.data).decode('ascii')}"


def picture(
    frame: NDArray[np.uint8],
    size: tuple[int, int] | None = None,
    *,
    format: ImageFormat = "jpeg",
    quality: int = 90,
) -> Picture:
    """Encode a frame uint8 [H, W, 3], first resized (bicubic) to `size` (height, width) if given."""
    image = Image.fromarray(np.ascontiguousarray(frame))
    if size is not None and size != frame.shape[:2]:
        image = image.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    options = {"quality": quality} if format == "jpeg" else {}
    image.save(file, format.upper(), **options)
    return Picture(file.getvalue(), f"image/{format}")


@dataclass(frozen=True, slots=True)
class Message:
    """One message; only a user's may hold pictures."""

    role: Literal["system", "user", "assistant"]
    parts: tuple[str | Picture, ...]

    def body(self) -> dict[str, Any]:
        """The message as the endpoint reads it; plain text where there are no pictures."""
        if all(isinstance(part, str) for part in self.parts):
            return {"role": self.role, "content": "".join(str(part) for part in self.parts)}
        return {"role": self.role, "content": [_part(part) for part in self.parts]}


def _part(part: str | Picture) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "image_url", "image_url": {"url": part.uri}}


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """Messages to reply to; `name` (a query, a sample) is what errors call the request."""

    name: str
    messages: tuple[Message, ...]
    max_tokens: int = 1024
    temperature: float = 0.0
    seed: int | None = None
    top_p: float | None = None

    def body(self, settings: ChatSettings) -> dict[str, Any]:
        """The JSON body; fields of `settings.extra` replace ours, those that are None are left out."""
        fields = {
            "model": settings.model,
            "messages": [message.body() for message in self.messages],
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "seed": self.seed,
            "top_p": self.top_p,
            **settings.extra,
        }
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True, slots=True)
class ChatReply:
    """What the model said. `truncated`: cut by the token limit; `attempts`: how often it was asked.

    `reasoning` is what a server with a reasoning parser keeps apart from the text.
    """

    text: str
    truncated: bool = False
    reasoning: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    attempts: int = 1
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatSettings:
    """One endpoint and how patiently it is asked.

    base_url: address up to `/v1`; the rest of the path is added.
    timeout: seconds for one attempt, from connecting to the last byte.
    retries: attempts after the first; between them at most `longest_wait` seconds, beginning with
        `first_wait` and doubling.
    extra: further fields of the body (`top_p`, `chat_template_kwargs`, …); None removes one of ours, such as
        `{"max_tokens": None, "max_completion_tokens": 2048}`.

    Raises UsageError on a value that cannot be used; the key is never printed.
    """

    base_url: str
    model: str
    api_key: str = field(default="", repr=False)
    timeout: float = 120.0
    retries: int = 5
    first_wait: float = 1.0
    longest_wait: float = 60.0
    concurrency: int = 8
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_address(self.base_url)
        if not self.model.strip():
            raise UsageError("the model of the endpoint is not named; give model")
        if not re.fullmatch(r"[\x21-\x7e]*", self.api_key):
            raise UsageError("api_key holds white space or characters beyond ASCII; it was not copied whole")
        for name in ("timeout", "first_wait", "longest_wait"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise UsageError(f"{name} is {value}; give seconds above 0")
        if self.retries < 0 or self.concurrency < 1:
            raise UsageError("retries must be at least 0 and concurrency at least 1")

    @property
    def endpoint(self) -> str:
        """The address that is asked."""
        return self.base_url.rstrip("/").removesuffix(PATH) + PATH

    @classmethod
    def from_environment(
        cls, base_url: str | None = None, model: str | None = None, **more: Any
    ) -> ChatSettings:
        """Settings whose address, model and key come from the environment where they are not given.

        The variables are VIDEOSEG_REMOTE_URL, VIDEOSEG_REMOTE_MODEL and VIDEOSEG_REMOTE_KEY.
        """
        url = base_url or os.environ.get("VIDEOSEG_REMOTE_URL", "")
        name = model or os.environ.get("VIDEOSEG_REMOTE_MODEL", "")
        if not url or not name:
            raise UsageError("give base_url and model of the endpoint, or set VIDEOSEG_REMOTE_URL and _MODEL")
        key = more.pop("api_key", None) or os.environ.get("VIDEOSEG_REMOTE_KEY", "")
        return cls(base_url=url, model=name, api_key=key, **more)


def _check_address(address: str) -> None:
    if "@" in address:
        raise UsageError("base_url holds a name or a password; give the key as api_key instead")
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise UsageError(f"base_url is {address!r}; give one like http://127.0.0.1:8000/v1")


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Text(_Lenient):
    text: str = ""


class _Said(_Lenient):
    content: str | list[_Text]
    reasoning_content: str | None = None
    reasoning: str | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class _Choice(_Lenient):
    message: _Said
    finish_reason: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> _Choice:
        # A refusal by a content filter has no text; an empty text that was cut is an ordinary, poor reply.
        if not self.message.text.strip() and self.finish_reason != "length":
            raise ValueError(f"the reply holds no text (finish_reason {self.finish_reason})")
        return self


class _Usage(_Lenient):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Completion(_Lenient):
    """The fields of a chat completion that count."""

    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None

    def reply(self, attempts: int, seconds: float) -> ChatReply:
        """The first choice."""
        choice, usage = self.choices[0], self.usage or _Usage()
        return ChatReply(
            choice.message.text,
            choice.finish_reason == "length",
            choice.message.reasoning_content or choice.message.reasoning or "",
            usage.prompt_tokens,
            usage.completion_tokens,
            attempts,
            seconds,
        )
