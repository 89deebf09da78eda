"""A chat endpoint on 127.0.0.1 for tests, which can also misbehave in every way a real one does."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Say:
    """What to answer. `drip` sends a byte at a time, `reset` drops the connection, `cut` ends it early."""

    text: str = ""
    status: int = 200
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    drip: float = 0.0
    reset: bool = False
    cut: bool = False
    finish: str = "stop"

    def content(self) -> bytes:
        if self.body is not None:
            return self.body
        return json.dumps(completion(self.text, self.finish)).encode()


def completion(text: Any, finish: str = "stop") -> dict[str, Any]:
    """A chat completion as vLLM and others send it."""
    return {
        "id": "x",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }


PASSING = {
    "500": Say(status=500, body=b"oops"),
    "503 page": Say(status=503, body=b"<html>busy</html>"),
    "429": Say(status=429, body=b'{"error": {"message": "slow down"}}'),
    "reset": Say(reset=True),
    "cut": Say("good", cut=True),
    "truncated json": Say(body=b'{"choices": [{"mess'),
    "empty body": Say(body=b""),
    "wrong schema": Say(body=b'{"answer": 42}'),
    "no choice": Say(body=b'{"choices": []}'),
    "null text": Say(body=json.dumps(completion(None)).encode()),
    "filtered": Say("", finish="content_filter"),
    "error with 200": Say(body=b'{"error": {"message": "worker died"}}'),
    "deep nesting": Say(body=b"[" * 100_000),
    "not utf-8": Say(body=b"\xff\xfe\x00"),
    "bad gzip": Say(body=b"not gzip", headers={"Content-Encoding": "gzip"}),
}
"""Failures that may pass when the request is made again."""


@dataclass(frozen=True)
class Asked:
    """A request as it came in; `attempt` counts from 1 per idempotency key."""

    body: dict[str, Any]
    headers: dict[str, str]
    path: str
    key: str
    attempt: int

    @property
    def messages(self) -> list[dict[str, Any]]:
        return self.body["messages"]

    def text(self, number: int = -1) -> str:
        """All text of one message."""
        content = self.messages[number]["content"]
        if isinstance(content, str):
            return content
        return "".join(part.get("text", "") for part in content)


class Stub(ThreadingHTTPServer):
    """Answers by `behave`; remembers what it was asked and how many requests it held at once."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, behave: Callable[[Asked], Say]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behave = behave
        self.asked: list[Asked] = []
        self.attempts: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.held = 0
        self.most_held = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that went away are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    server: Stub
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        stub = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = self.headers.get("Idempotency-Key", "")
        with stub.lock:
            stub.attempts[key] += 1
            asked = Asked(body, dict(self.headers), self.path, key, stub.attempts[key])
            stub.asked.append(asked)
            stub.held += 1
            stub.most_held = max(stub.most_held, stub.held)
        try:
            self._say(stub.behave(asked))
        finally:
            with stub.lock:
                stub.held -= 1

    def _say(self, say: Say) -> None:
        time.sleep(say.delay)
        if say.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            return
        content = say.content()
        self.send_response(say.status)
        for name, value in {"Content-Type": "application/json", **say.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if say.cut:
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        elif say.drip:
            for byte in content:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(say.drip)
        else:
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Silence."""


@contextmanager
def serve(behave: Callable[[Asked], Say]) -> Iterator[Stub]:
    """A running stub."""
    with Stub(behave) as stub:
        thread = threading.Thread(target=stub.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield stub
        finally:
            stub.shutdown()
            thread.join()
