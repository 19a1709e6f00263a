"""Any OpenAI-compatible server: vLLM, llama.cpp, a vendor.

The answer is made to come through the function: as a tool call where the server knows tools, as a
JSON-schema response format otherwise. A key, if the server wants one, comes from the environment and
goes into the header of a request and nowhere else.
"""

from __future__ import annotations

import asyncio
import email.utils
import os
import time
from collections.abc import Sequence
from typing import Any

import httpx2
import orjson

from supertiny.errors import UserError
from supertiny.teacher.backends import CallFailed
from supertiny.teacher.messages import (
    Ask,
    MalformedResponse,
    Response,
    answer_message,
    unusable_reason,
)

KEY_VARIABLE = "SUPERTINY_TEACHER_KEY"
# Statuses with which servers refuse a request that holds tools; 500 is what llama.cpp says to a chat
# template without them.
_NO_TOOLS = frozenset({400, 404, 405, 415, 422, 500, 501})
_RETRIABLE = frozenset({408, 409, 425, 429})
_LONGEST_RETRY_AFTER = 3600.0


class OpenAIBackend:
    """One attempt is one POST to ``{base_url}/chat/completions``.

    Args:
        base_url: for example ``http://127.0.0.1:8080/v1``.
        answer_via: ``tools``, ``json_schema``, or ``auto``.
        timeout_s: for the whole of an attempt, from connecting to the last byte.
    """

    def __init__(self, base_url: str, answer_via: str, timeout_s: float) -> None:
        self.url = base_url.rstrip("/") + "/chat/completions"
        self.timeout_s = timeout_s
        # None: not known yet. The first answer or refusal settles it for the run.
        self.tools: bool | None = {"tools": True, "json_schema": False}.get(answer_via)
        self._client: httpx2.AsyncClient | None = None

    def check(self, missing: Sequence[Ask]) -> None:
        """Raises `UserError` if there is no URL to ask."""
        if missing and not self.url.startswith(("http://", "https://")):
            raise UserError(
                f"teacher.base_url: found {self.url.removesuffix('/chat/completions')!r}, expected "
                "the URL of an OpenAI-compatible server, such as http://127.0.0.1:8080/v1"
            )

    async def complete(self, ask: Ask) -> Response:
        """See `Backend.complete`."""
        if self.tools is not None:
            return await self._post(ask, self.tools)
        try:
            response = await self._post(ask, tools=True)
            works = unusable_reason(response) is not None or _has_tool_call(response)
        except _Refused as refused:
            if refused.status not in _NO_TOOLS:
                raise
            works = False
        if not works:  # refused, or passed over in silence
            response = await self._post(ask, tools=False)
            # Another call may have got its tools meanwhile: then this one was a hiccup.
            self.tools = bool(self.tools)
        elif _has_tool_call(response):
            self.tools = True
        return response

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def _post(self, ask: Ask, tools: bool) -> Response:
        content = orjson.dumps(body(ask, tools))
        try:
            async with asyncio.timeout(self.timeout_s):
                reply = await self._connection().post(self.url, content=content)
        except TimeoutError:
            raise CallFailed(
                f"no answer in {self.timeout_s:g} s", retry=True, billed=True
            ) from None
        except httpx2.ConnectError:
            raise CallFailed(f"cannot connect to {self.url}", retry=True) from None
        except httpx2.HTTPError as error:
            # The server may have done the work before the connection broke.
            raise CallFailed(
                f"broken reply ({type(error).__name__})", retry=True, billed=True
            ) from None
        if reply.status_code != 200:
            raise _Refused(reply)
        return _completion(reply.content)

    def _connection(self) -> httpx2.AsyncClient:
        if self._client is None:  # made here, inside the running event loop
            headers = {"Content-Type": "application/json"}
            if key := os.environ.get(KEY_VARIABLE):
                headers["Authorization"] = f"Bearer {key}"
            limits = httpx2.Limits(max_connections=None)
            self._client = httpx2.AsyncClient(headers=headers, timeout=None, limits=limits)
        return self._client


class _Refused(CallFailed):
    """An HTTP status other than 200."""

    def __init__(self, reply: httpx2.Response) -> None:
        self.status = reply.status_code
        said = " ".join(reply.text[:200].split())
        super().__init__(
            f"HTTP {self.status}: {said}",
            retry=self.status >= 500 or self.status in _RETRIABLE,
            retry_after=retry_after_seconds(reply.headers.get("retry-after")),
        )


def body(ask: Ask, tools: bool) -> dict[str, Any]:
    """The JSON that is posted for a question."""
    request = ask.request
    function = request["function"]
    sent = {
        key: request[key] for key in ("model", "messages", "temperature", "top_p", "max_tokens")
    }
    sent["seed"] = ask.seed
    if tools:
        sent["tools"] = [{"type": "function", "function": function}]
        # There is one tool, so this names it; llama.cpp takes a tool_choice by name as "auto".
        sent["tool_choice"] = "required"
        return sent
    schema = {"name": function["name"], "schema": function["parameters"], "strict": True}
    sent["response_format"] = {"type": "json_schema", "json_schema": schema}
    return sent


def retry_after_seconds(value: str | None) -> float | None:
    """Seconds of a ``Retry-After`` header, given as a number or as a date (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER) if seconds == seconds else None


def _has_tool_call(response: Response) -> bool:
    return bool(answer_message(response).get("tool_calls"))


def _completion(content: bytes) -> Response:
    try:
        response = orjson.loads(content)
        unusable_reason(response)  # only to see that it is a chat completion
    except (orjson.JSONDecodeError, MalformedResponse) as error:
        raise CallFailed(f"no chat completion: {error}", retry=True, billed=True) from None
    return response
