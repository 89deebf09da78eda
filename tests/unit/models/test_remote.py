"""The endpoint client against a stub that misbehaves: every request ends once, in bounded time."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chat_stub import PASSING, Asked, Say, completion, serve
from videoseg.errors import (
    RemoteError,
    RemoteRefusedError,
    RemoteReplyError,
    RemoteUnavailableError,
    UsageError,
)
from videoseg.models import remote
from videoseg.models.remote import ask, for_each, run_async
from videoseg.models.remote_types import ChatReply, ChatRequest, ChatSettings, Message, picture


@pytest.fixture(autouse=True)
def _direct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def settings(url: str, **more: Any) -> ChatSettings:
    fast = {"timeout": 5.0, "retries": 3, "first_wait": 0.002, "longest_wait": 0.05} | more
    return ChatSettings(base_url=url, model="m", **fast)


def request(name: str = "the red disc", **more: Any) -> ChatRequest:
    return ChatRequest(name, (Message("user", (name,)),), **more)


def one(behave: Callable[[Asked], Say], **more: Any) -> tuple[ChatReply | RemoteError, list[Asked]]:
    with serve(behave) as stub:
        outcome = ask(settings(stub.url, **more), [request()])[0]
        return outcome.reply or outcome.error or pytest.fail("no outcome"), stub.asked


def test_a_request_as_the_endpoint_sees_it() -> None:
    frame = np.full((20, 40, 3), 200, dtype=np.uint8)
    messages = (
        Message("system", ("be brief",)),
        Message("user", (picture(frame, (10, 20)), "what", " is it?", picture(frame, format="png"))),
        Message("assistant", ("a disc",)),
    )
    with serve(lambda asked: Say("red")) as stub:
        chat = settings(stub.url + "/", api_key="k1", extra={"top_p": 0.5, "max_tokens": None})
        reply = ask(chat, [ChatRequest("q", messages, 64, 0.3, 9)])[0].reply
        asked = stub.asked[0]
    assert reply is not None
    assert (reply.text, reply.truncated, reply.prompt_tokens, reply.attempts) == ("red", False, 7, 1)
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["Authorization"] == "Bearer k1"
    fields = {name: value for name, value in asked.body.items() if name != "messages"}
    assert fields == {"model": "m", "temperature": 0.3, "seed": 9, "top_p": 0.5}
    system, user, assistant = asked.messages
    assert system == {"role": "system", "content": "be brief"}
    assert assistant == {"role": "assistant", "content": "a disc"}
    assert [part["type"] for part in user["content"]] == ["image_url", "text", "text", "image_url"]
    media, _, data = user["content"][0]["image_url"]["url"].partition(";base64,")
    assert media == "data:image/jpeg"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (20, 10)
    png = base64.b64decode(user["content"][3]["image_url"]["url"].partition(",")[2])
    assert (np.array(Image.open(io.BytesIO(png))) == frame).all()


def test_a_reply_cut_by_the_token_limit_says_so() -> None:
    reply, _ = one(lambda asked: Say("half a thou", finish="length"))
    assert isinstance(reply, ChatReply)
    assert reply.truncated


def test_content_in_parts_and_reasoning_apart() -> None:
    data = completion([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])
    data["choices"][0]["message"]["reasoning_content"] = "because"
    reply, _ = one(lambda asked: Say(body=json.dumps(data).encode()))
    assert isinstance(reply, ChatReply)
    assert (reply.text, reply.reasoning) == ("ab", "because")


@pytest.mark.parametrize("kind", PASSING)
def test_a_failure_that_passes_is_tried_again(kind: str) -> None:
    reply, asked = one(lambda asked: PASSING[kind] if asked.attempt == 1 else Say("good"))
    assert isinstance(reply, ChatReply), reply
    assert (reply.text, reply.attempts) == ("good", 2)
    assert len(asked) == 2
    assert asked[0].key == asked[1].key != ""
    assert asked[0].body == asked[1].body


@pytest.mark.parametrize("kind", PASSING)
def test_a_failure_that_stays_is_reported_after_a_bounded_number_of_attempts(kind: str) -> None:
    error, asked = one(lambda asked: PASSING[kind], retries=2)
    assert isinstance(error, RemoteReplyError | RemoteUnavailableError)
    assert len(asked) == 3
    assert "the red disc" in str(error)
    assert "after 3 attempts" in str(error)


def test_what_the_endpoint_said_is_in_the_message() -> None:
    error, _ = one(lambda asked: PASSING["429"], retries=0)
    assert "HTTP 429: slow down" in str(error)
    error, _ = one(lambda asked: PASSING["error with 200"], retries=0)
    assert "worker died" in str(error)


@pytest.mark.parametrize(
    ("status", "words"),
    [(400, "does not accept"), (401, "key"), (404, "/v1"), (413, "smaller images"), (307, "does not accept")],
)
def test_a_refusal_is_not_repeated(status: int, words: str) -> None:
    error, asked = one(
        lambda asked: Say(status=status, body=b'{"error": {"message": "no such k1"}}'), api_key="k1"
    )
    assert isinstance(error, RemoteRefusedError)
    assert error.status == status
    assert len(asked) == 1
    assert words in str(error)
    assert "the red disc" in str(error)
    assert "k1" not in str(error)
    assert "no such ***" in str(error)


def test_a_quota_that_is_used_up_is_a_refusal() -> None:
    body = b'{"error": {"code": "insufficient_quota", "message": "pay"}}'
    error, asked = one(lambda asked: Say(status=429, body=body))
    assert isinstance(error, RemoteRefusedError)
    assert len(asked) == 1


def test_retry_after_is_kept_to_but_not_for_ever() -> None:
    def behave(asked: Asked) -> Say:
        return Say(status=429, headers={"Retry-After": "3600"}) if asked.attempt == 1 else Say("good")

    started = time.perf_counter()
    reply, _ = one(behave, longest_wait=0.3)
    assert isinstance(reply, ChatReply)
    assert 0.3 <= time.perf_counter() - started < 5


def test_retry_after_as_number_date_and_nonsense() -> None:
    assert remote._seconds("1.5") == 1.5
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 25 < remote._seconds(soon) <= 30
    past = format_datetime(datetime.now(UTC) - timedelta(seconds=30), usegmt=True)
    for text in (None, "soon", "-3", "nan", "inf", past):
        assert remote._seconds(text) == 0.0


@pytest.mark.parametrize("say", [Say("late", delay=3), Say("late", drip=0.1)], ids=["silent", "dripping"])
def test_slowness_ends_with_the_timeout(say: Say) -> None:
    started = time.perf_counter()
    error, asked = one(lambda asked: say, timeout=0.4, retries=1)
    assert isinstance(error, RemoteUnavailableError)
    assert "within 0.4 s" in str(error)
    # On a busy machine an attempt can end before the stub has noted it.
    assert len(asked) <= 2
    assert time.perf_counter() - started < 2.5


def test_nobody_there() -> None:
    with serve(lambda asked: Say()) as stub:
        url = stub.url
    outcome = ask(settings(url, retries=1), [request()])[0]
    assert isinstance(outcome.error, RemoteUnavailableError)
    assert "ConnectError" in str(outcome.error)


def test_an_endless_answer_is_not_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "MAX_BYTES", 1000)
    error, _ = one(lambda asked: Say("x" * 5000), retries=0)
    assert isinstance(error, RemoteReplyError)
    assert "more than 1000 bytes" in str(error)


def misbehave(asked: Asked) -> Say:
    """By the number in the request: some are hopeless, most others fail once or twice first."""
    number = int(asked.text())
    if number % 50 == 7:
        return Say(status=500)
    if number % 50 == 8:
        return Say(status=400)
    kinds = [Say("late", delay=3.0)] if number % 40 == 1 else list(PASSING.values())
    fails = number % 3
    return kinds[number % len(kinds)] if asked.attempt <= fails else Say(f"reply to {number}")


def test_a_thousand_requests_none_lost_none_doubled() -> None:
    with serve(misbehave) as stub:
        chat = settings(stub.url, timeout=1.5, retries=5, concurrency=16)
        outcomes = ask(chat, [request(str(number)) for number in range(1000)])
        attempts, most, asked = stub.attempts, stub.most_held, stub.asked
    assert [outcome.request.name for outcome in outcomes] == [str(number) for number in range(1000)]
    for number, outcome in enumerate(outcomes):
        if number % 50 in (7, 8):
            kind = RemoteUnavailableError if number % 50 == 7 else RemoteRefusedError
            assert isinstance(outcome.error, kind)
            assert str(outcome.error).startswith(f"{number}: ")
            assert outcome.reply is None
        else:
            assert outcome.reply is not None, outcome.error
            assert outcome.reply.text == f"reply to {number}"
    assert len(attempts) == 1000, "every request has a key of its own"
    assert max(attempts.values()) <= 6
    by_number = {int(one.text()): attempts[one.key] for one in asked}
    assert all(by_number[n] == 6 for n in range(7, 1000, 50))
    assert all(by_number[n] == 1 for n in range(8, 1000, 50))
    assert any(outcome.reply and outcome.reply.seconds > 1.5 for outcome in outcomes), "some were slow"
    # A request that timed out may still be held by the server while its next attempt comes in.
    assert most <= 32


def test_no_more_requests_at_a_time_than_allowed() -> None:
    with serve(lambda asked: Say("x", delay=0.1)) as stub:
        ask(settings(stub.url, concurrency=3), [request(str(number)) for number in range(20)])
        assert stub.most_held == 3


def test_waiting_for_a_free_slot_is_no_slowness_of_the_endpoint() -> None:
    async def all_at_once(url: str) -> list[ChatReply]:
        async with remote.RemoteChat(settings(url, concurrency=1, timeout=0.8)) as chat:
            return await asyncio.gather(*(chat.complete(request(str(number))) for number in range(12)))

    with serve(lambda asked: Say(asked.text(), delay=0.1)) as stub:
        replies = asyncio.run(all_at_once(stub.url))
    assert [reply.text for reply in replies] == [str(number) for number in range(12)]
    assert {reply.attempts for reply in replies} == {1}


def test_requests_are_taken_as_they_are_needed() -> None:
    taken: list[int] = []
    finished: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(50):
            taken.append(number)
            assert len(taken) - len(finished) <= 4
            yield number

    async def work(number: int) -> None:
        await asyncio.sleep(0)
        finished.append(number)

    asyncio.run(for_each(numbers(), work, 4))
    assert sorted(finished) == list(range(50))


def test_the_first_error_stops_the_rest() -> None:
    done: list[int] = []

    async def work(number: int) -> None:
        await asyncio.sleep(0.001 * number)
        if number == 2:
            raise ValueError("two")
        done.append(number)

    with pytest.raises(ValueError, match="two"):
        asyncio.run(for_each(range(100), work, 4))
    assert len(done) < 10


def test_it_can_be_called_where_a_loop_runs_already() -> None:
    async def notebook() -> str:
        with serve(lambda asked: Say("good")) as stub:
            reply = ask(settings(stub.url), [request()])[0].reply
            return reply.text if reply else ""

    assert run_async(notebook()) == "good"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"base_url": "localhost:8000"}, "base_url is"),
        ({"base_url": "http://[::1"}, "base_url is"),
        ({"base_url": "http://h:99999/v1"}, "base_url is"),
        ({"base_url": "http://me:secret@h/v1"}, "password"),
        ({"model": " "}, "model"),
        ({"api_key": "a\nb"}, "api_key"),
        ({"timeout": 0.0}, "timeout"),
        ({"longest_wait": float("inf")}, "longest_wait"),
        ({"retries": -1}, "retries"),
        ({"concurrency": 0}, "concurrency"),
    ],
)
def test_bad_settings_are_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        ChatSettings(**({"base_url": "http://h/v1", "model": "m"} | change))
    assert "secret" not in str(caught.value)


def test_settings_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("URL", "MODEL", "KEY"):
        monkeypatch.delenv(f"VIDEOSEG_REMOTE_{name}", raising=False)
    with pytest.raises(UsageError, match="VIDEOSEG_REMOTE_URL"):
        ChatSettings.from_environment(model="m")
    monkeypatch.setenv("VIDEOSEG_REMOTE_URL", "http://a/v1")
    monkeypatch.setenv("VIDEOSEG_REMOTE_MODEL", "big")
    monkeypatch.setenv("VIDEOSEG_REMOTE_KEY", "hidden")
    found = ChatSettings.from_environment(base_url="http://b/v1/chat/completions", timeout=3)
    assert (found.endpoint, found.model, found.api_key) == ("http://b/v1/chat/completions", "big", "hidden")
    assert "hidden" not in repr(found)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(remote, "import_module", missing)
    with pytest.raises(UsageError, match=r"videoseg\[remote\]"):
        ask(settings("http://127.0.0.1:9/v1"), [request()])
