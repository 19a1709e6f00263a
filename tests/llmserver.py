"""A chat-completions server on 127.0.0.1 that answers as its script says, politely or not.

Every request is kept, so a test can count what was asked.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """One HTTP answer; ``cut`` bytes of the body are sent and then the connection is closed."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    delay: float = 0.0


def completion(arguments: Any, *, finish: str = "tool_calls", tokens: int = 10) -> dict[str, Any]:
    """A chat completion that calls the function with ``arguments`` (a JSON value, or raw text)."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    call = {"id": "1", "type": "function", "function": {"name": "", "arguments": text}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    return {
        "choices": [{"index": 0, "finish_reason": finish, "message": message}],
        "usage": {"prompt_tokens": 100, "completion_tokens": tokens},
    }


def said(text: str, *, finish: str = "stop") -> dict[str, Any]:
    """A chat completion that is plain text."""
    message = {"role": "assistant", "content": text}
    return {"choices": [{"index": 0, "finish_reason": finish, "message": message}]}


def ok(value: dict[str, Any], delay: float = 0.0) -> Reply:
    """Status 200 with a completion; the name of its tool call is the function that was asked for."""
    return Reply(json.dumps(value).encode(), delay=delay)


class LLMServer(ThreadingHTTPServer):
    """``script`` gets the posted JSON and how often this very body has come, from 1."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, script: Callable[[dict[str, Any], int], Reply]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script = script
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.busiest = 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        self.lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        self.busy = 0

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    server: LLMServer

    def do_POST(self) -> None:
        server = self.server
        posted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            key = json.dumps(posted, sort_keys=True)
            server.counts[key] += 1
            count = server.counts[key]
            server.requests.append(posted)
            server.headers.append(dict(self.headers))
            server.times.append(time.monotonic())
            server.busy += 1
            server.busiest = max(server.busiest, server.busy)
        try:
            self._answer(server.script(posted, count), posted)
        finally:
            with server.lock:
                server.busy -= 1

    def _answer(self, reply: Reply, posted: dict[str, Any]) -> None:
        time.sleep(reply.delay)
        body = reply.body
        if b'"name": ""' in body:
            tools = posted.get("tools")
            name = tools[0]["function"]["name"] if tools else ""
            body = body.replace(b'"name": ""', json.dumps({"name": name}).encode()[1:-1])
        self.send_response(reply.status)
        for key, value in reply.headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if reply.cut is None else body[: reply.cut])

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serve(script: Callable[[dict[str, Any], int], Reply]) -> Iterator[LLMServer]:
    """A running server on a free port."""
    server = LLMServer(script)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.daemon = True
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
