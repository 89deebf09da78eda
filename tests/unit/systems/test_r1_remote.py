"""R1 whole, its reasoner behind an endpoint that misbehaves: nothing asked is lost, doubled or hidden."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import pytest

from builders import moving_square
from chat_stub import PASSING, Asked, Say, serve
from r1_builders import INTERVAL, random_r1
from videoseg.errors import RemoteError, RemoteRefusedError, RemoteUnavailableError
from videoseg.models.remote_types import ChatSettings
from videoseg.systems.reasoner import RemoteReasoner
from videoseg.types import StopReason

FRAMES = moving_square(12)
FPS = 24.0
ANSWER = '<think>It.</think><answer>[{"bbox_2d": [100, 250, 350, 600], "point_2d": [200, 400]}]</answer>'
RETRIES = 4
SMALL = {"side": 56, "space": 840, "context_least": 28, "context_most": 28, "sampler_frames": 4, "rounds": 1}


@pytest.fixture(autouse=True)
def _direct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def what(asked: Asked) -> tuple[int, str, int]:
    """Which query, which of R1's questions, and which reply; 10 is the second try of an answer."""
    text, found = asked.text(), re.search(r"thing (\d+)", asked.text())
    assert found
    kind = "when" if "Watch the video" in text else "share" if "percentage" in text else "where"
    again = kind == "where" and asked.body["temperature"] > 0
    return int(found[1]), kind, 10 if again else asked.body["seed"]


def hopeless(query: int, kind: str, reply: int) -> Say | None:
    """Some replies to the sampler never come; of 4 queries 1 has no answer, 2 is refused one."""
    if kind == "where":
        return {1: Say(status=503), 2: Say(status=400)}.get(query % 4)
    return {8: Say(status=500), 9: Say(status=400)}.get((query + reply) % 10)


def misbehave(asked: Asked) -> Say:
    query, kind, reply = what(asked)
    if never := hopeless(query, kind, reply):
        return never
    number = 31 * query + 7 * reply + len(kind)
    if asked.attempt <= number % 3:
        slow = query >= 8 and number % 40 == 1  # which takes too long for the everyday tests
        return Say("late", delay=5.0) if slow else list(PASSING.values())[number % len(PASSING)]
    if kind == "when":
        return Say(INTERVAL.format(*(f"{(frame + 0.5) / FPS:.3f}" for frame in (reply, 11))))
    if kind == "share":
        return Say(f"{10 * reply}%")
    return Say("the red one") if query % 4 == 3 and reply != 10 else Say(ANSWER)


def check_turn(turn: Any, query: int, kind: str, expected: Any) -> None:
    """Every reply counts once, or is named with its query."""
    lost = {n: never for n in range(10) if (never := hopeless(query, kind, n))}
    assert turn.reply.asked == 10
    assert turn.reply.values == tuple(expected(reply) for reply in range(10) if reply not in lost)
    told = turn.error.splitlines()
    assert len(told) == len(lost)
    for line, (reply, never) in zip(told, lost.items(), strict=True):
        assert f"thing {query}" in line
        assert f"(reply {reply})" in line
        assert ("refuses" if never.status == 400 else f"after {RETRIES + 1} attempts") in line


def check_result(result: Any, query: int) -> None:
    when, share, *where = result.trace.turns
    check_turn(when, query, "when", lambda reply: (float(reply), 11.0))
    check_turn(share, query, "share", lambda reply: (reply / 10,))
    assert [turn.reply is not None for turn in where] == ([False, True] if query % 4 == 3 else [True])
    assert result.trace.stop is StopReason.ANSWER
    assert len(result.masklets) == 1


def ask_all(queries: int) -> tuple[list[Asked], Counter[str]]:
    """Ask about so many things; what the stub was asked, and how often each request came."""
    system = random_r1([], **SMALL)
    with serve(misbehave) as stub:
        system.reasoner = RemoteReasoner(
            ChatSettings(
                base_url=stub.url,
                model="m",
                timeout=3.0,
                retries=RETRIES,
                first_wait=0.002,
                longest_wait=0.02,
                concurrency=10,
            )
        )
        for query in range(queries):
            if query % 4 in (1, 2):
                kind = RemoteUnavailableError if query % 4 == 1 else RemoteRefusedError
                with pytest.raises(RemoteError, match=f"thing {query}\\b") as caught:
                    system.segment(FRAMES, f"thing {query}")
                assert type(caught.value) is kind
            else:
                check_result(system.segment(FRAMES, f"thing {query}"), query)
        return stub.asked, stub.attempts


def check_requests(asked: list[Asked], attempts: Counter[str], queries: int) -> None:
    made = {one.key: what(one) for one in asked}
    bodies = {one.key: json.dumps(one.body) for one in asked}
    assert all(json.dumps(one.body) == bodies[one.key] for one in asked), "a request stays the same"
    assert len(set(made.values())) == len(made), "none is made twice"
    assert len(made) == 21 * queries + queries // 4
    for key, request in made.items():
        never = hopeless(*request)
        # On a busy machine an attempt can time out before the stub has noted it.
        if never and never.status == 400:
            assert attempts[key] <= 2
        assert attempts[key] <= RETRIES + 1


def test_every_request_ends_once_in_a_vote_a_mask_or_an_error_with_its_query() -> None:
    check_requests(*ask_all(4), 4)


@pytest.mark.slow
def test_a_thousand_requests_of_the_whole_system() -> None:
    asked, attempts = ask_all(48)
    assert len(attempts) > 1000
    check_requests(asked, attempts, 48)
