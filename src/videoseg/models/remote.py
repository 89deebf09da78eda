"""Models behind an OpenAI-compatible chat endpoint: R1's reasoner, the teacher of O3's cold start (users R7).

A request is text and images in, text out. Whatever the endpoint does, every request ends exactly once: in a
`ChatReply`, or in an error of the `RemoteError` family that names it. No torch here.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib import import_module
from typing import Any, TypeVar
from uuid import uuid4

from pydantic import ValidationError

from videoseg.errors import (
    RemoteError,
    RemoteRefusedError,
    RemoteReplyError,
    RemoteUnavailableError,
    UsageError,
)
from videoseg.models.remote_types import ChatReply, ChatRequest, ChatSettings, Completion

T = TypeVar("T")
R = TypeVar("R")

BUSY = frozenset({408, 409, 425, 429})
"""Refusals that pass; so do all of 500 and above."""
MAX_BYTES = 16 * 2**20
"""No chat completion is longer."""
ADVICE = {
    401: "check the key",
    403: "check the key and what it may use",
    404: "check the address (it usually ends in /v1) and the model's name",
    413: "show fewer or smaller images",
    429: "the quota is used up",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended: with a reply, or with the error that names it."""

    request: ChatRequest
    reply: ChatReply | None = None
    error: RemoteError | None = None


class _Transient(Exception):
    """An attempt that failed and may succeed when repeated; `wait` is what the endpoint asks for, seconds."""

    def __init__(self, kind: type[RemoteError], reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.kind = kind
        self.wait = wait


class RemoteChat:
    """Asks one endpoint, at most `settings.concurrency` requests at a time; an async context manager.

    Connection failures, timeouts, statuses 408, 409, 425, 429 and 5xx, and answers that are not a chat
    completion are tried again after a growing, randomly shortened wait, or the `Retry-After` of the endpoint
    if that is longer. A request keeps one `Idempotency-Key` through all its attempts. Raises UsageError
    without the `remote` extra.
    """

    def __init__(self, settings: ChatSettings) -> None:
        self.settings = settings
        self._http = _library()
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._random = random.Random()
        self._client: Any = None

    async def __aenter__(self) -> RemoteChat:
        limits = self._http.Limits(max_connections=self.settings.concurrency)
        self._client = self._http.AsyncClient(timeout=None, limits=limits, headers=self._headers())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def complete(self, request: ChatRequest) -> ChatReply:
        """The reply to one request.

        Raises RemoteRefusedError where asking again is useless, RemoteReplyError or RemoteUnavailableError,
        by the last failure, when all attempts have failed. All of them name the request.
        """
        key, started = uuid4().hex, time.perf_counter()
        attempts = self.settings.retries + 1
        for attempt in range(1, attempts + 1):
            try:
                async with self._slots:
                    completion = await self._attempt(request, key)
                return completion.reply(attempt, time.perf_counter() - started)
            except _Transient as error:
                if attempt == attempts:
                    raise self._given_up(request, error, attempts) from error
                await asyncio.sleep(self._delay(attempt, error.wait))
        raise RuntimeError("unreachable: the last attempt returns or raises")

    async def outcomes(self, requests: Iterable[ChatRequest]) -> list[Outcome]:
        """Every request's outcome, in the order of the requests, of which only a few are held at a time."""
        found: dict[int, Outcome] = {}

        async def ask_one(item: tuple[int, ChatRequest]) -> None:
            number, request = item
            try:
                found[number] = Outcome(request, await self.complete(request))
            except RemoteError as error:
                found[number] = Outcome(request, error=error)

        await for_each(enumerate(requests), ask_one, self.settings.concurrency)
        return [found[number] for number in range(len(found))]

    def _headers(self) -> dict[str, str]:
        key = self.settings.api_key
        return {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})

    async def _attempt(self, request: ChatRequest, key: str) -> Completion:
        try:
            async with asyncio.timeout(self.settings.timeout):
                status, headers, content = await self._post(request, key)
        except TimeoutError as error:
            reason = f"no complete answer within {self.settings.timeout:g} s"
            raise _Transient(RemoteUnavailableError, reason) from error
        except self._http.TransportError as error:
            reason = f"{type(error).__name__}: {error}".rstrip(": ")
            raise _Transient(RemoteUnavailableError, reason) from error
        except self._http.DecodingError as error:
            raise _Transient(RemoteReplyError, f"the answer cannot be decoded: {error}") from error
        if status != 200:
            raise self._refusal(request, status, content, headers.get("retry-after"))
        return _read(content)

    async def _post(self, request: ChatRequest, key: str) -> tuple[int, Any, bytes]:
        body = json.dumps(request.body(self.settings)).encode()
        content = bytearray()
        async with self._client.stream(
            "POST", self.settings.endpoint, content=body, headers={"Idempotency-Key": key}
        ) as response:
            async for part in response.aiter_bytes():
                content += part
                if len(content) > MAX_BYTES:
                    raise _Transient(RemoteReplyError, f"the answer has more than {MAX_BYTES} bytes")
        return response.status_code, response.headers, bytes(content)

    def _refusal(
        self, request: ChatRequest, status: int, content: bytes, retry_after: str | None
    ) -> Exception:
        said = self._without_key(_said(content))
        what = f"HTTP {status}" + (f": {said}" if said else "")
        passes = (status in BUSY or status >= 500) and "insufficient_quota" not in said
        if passes:
            return _Transient(RemoteUnavailableError, what, _seconds(retry_after))
        advice = ADVICE.get(status, "the endpoint does not accept it as it is")
        return RemoteRefusedError(
            status, f"{request.name}: {self.settings.endpoint} refuses the request ({what}); {advice}"
        )

    def _without_key(self, text: str) -> str:
        key = self.settings.api_key
        return text.replace(key, "***") if key else text

    def _delay(self, attempt: int, wait: float) -> float:
        grown = min(self.settings.longest_wait, self.settings.first_wait * 2 ** (attempt - 1))
        return max(grown * self._random.uniform(0.5, 1.0), min(wait, self.settings.longest_wait))

    def _given_up(self, request: ChatRequest, error: _Transient, attempts: int) -> RemoteError:
        reason = self._without_key(str(error))
        return error.kind(
            f"{request.name}: no usable answer of {self.settings.endpoint} after {attempts} attempts, the "
            f"last one failed with {reason}; check that the server runs and is not overloaded, or raise "
            f"retries, timeout or longest_wait"
        )


def ask(settings: ChatSettings, requests: Sequence[ChatRequest]) -> list[Outcome]:
    """Every request's outcome, in order, from code that is not asynchronous (notebooks included)."""

    async def work() -> list[Outcome]:
        async with RemoteChat(settings) as chat:
            return await chat.outcomes(requests)

    return run_async(work())


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, in a thread of its own where this one already has an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


async def for_each(items: Iterable[T], work: Callable[[T], Awaitable[None]], count: int) -> None:
    """Do `work` on every item, `count` at a time, taking items as they are needed.

    The first error stops everything else and is raised.
    """
    source = iter(items)

    async def worker() -> None:
        for item in source:
            await work(item)

    async with _plain_errors(), asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(worker())


@asynccontextmanager
async def _plain_errors() -> AsyncIterator[None]:
    """A task group's first error instead of the group."""
    try:
        yield
    except ExceptionGroup as group:
        raise group.exceptions[0] from group


def _library() -> Any:
    try:
        return import_module("httpx2")
    except ImportError as error:
        raise UsageError("a model behind an endpoint needs httpx2: pip install 'videoseg[remote]'") from error


def _read(content: bytes) -> Completion:
    """The completion in a body; `_Transient` where there is none, as gateways answer 200 with anything."""
    try:
        return Completion.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "body"
        said = _said(content)
        reason = f"the answer is no chat completion ({place}: {first['msg']}; it says {said or 'nothing'})"
        raise _Transient(RemoteReplyError, reason) from error


def _said(content: bytes) -> str:
    """What a body says of an error, in at most 200 characters."""
    text = content.decode("utf-8", "replace")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        data = None
    error = data.get("error", data) if isinstance(data, dict) else None
    if isinstance(error, dict):
        text = " ".join(str(error[name]) for name in ("code", "message", "detail") if error.get(name)) or text
    elif isinstance(error, str):
        text = error
    flat = " ".join(text.split())
    return flat if len(flat) <= 200 else flat[:199] + "…"


def _seconds(retry_after: str | None) -> float:
    """`Retry-After` in seconds from now, given as a number or as a date; 0 where it is neither."""
    if retry_after is None:
        return 0.0
    try:
        wait = float(retry_after)
        return wait if 0 <= wait < float("inf") else 0.0
    except ValueError:
        pass
    try:
        then = parsedate_to_datetime(retry_after)
    except ValueError:
        return 0.0
    aware = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.now(UTC)).total_seconds())
