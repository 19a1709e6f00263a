"""What is asked of a teacher LLM and what comes back: canonical requests, keys, raw responses.

A response is kept as the server sent it, in the shape of the OpenAI chat completions API; every
backend gives that shape. What an answer means is worked out from it afterwards, at no cost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

Message = dict[str, str]
Response = dict[str, Any]

# Reasons for which a model's answer is no answer; the words of the API's `finish_reason`.
UNUSABLE = {"length": "truncated", "content_filter": "filtered"}
_FINISHED = frozenset({"stop", "tool_calls", "function_call"})


class MalformedResponse(ValueError):
    """A body that is no chat completion; the message says what is wrong with it."""


@dataclass(frozen=True)
class Function:
    """The one function that an answer must call, with the JSON Schema of its arguments."""

    name: str
    description: str
    parameters: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The form in which the function stands in a request."""
        return {
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
        }


@dataclass(frozen=True)
class Ask:
    """One sample of one request; ``key`` is its content address.

    How a backend puts a request on the wire is no part of it, so the same recording serves a server
    that knows tools and one that only knows JSON schemas.
    """

    request: dict[str, Any]
    sample: int
    key: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", ask_key(self.request, self.sample))

    @property
    def messages(self) -> list[Message]:
        """The conversation to be answered."""
        return self.request["messages"]

    @property
    def seed(self) -> int:
        """Seed for the sampler, so that samples differ and one sample can be had again."""
        return int(self.key[:8], 16) & 0x7FFFFFFF


def make_request(
    model: str,
    messages: Sequence[Message],
    function: Function,
    *,
    temperature: float,
    top_p: float,
    max_tokens: int,
) -> dict[str, Any]:
    """A request in its canonical form: JSON values only, nothing that is not part of its meaning."""
    return {
        "model": model,
        "messages": list(messages),
        "function": function.to_json(),
        # 1 and 1.0 are the same temperature and must be the same key.
        "temperature": float(temperature),
        "top_p": float(top_p),
        "max_tokens": max_tokens,
    }


def canonical_json(value: Any) -> bytes:
    """The one UTF-8 text for a JSON value: sorted keys, no blanks, no escapes that are not needed.

    Raises:
        TypeError: the value is no JSON, holds half a surrogate pair, or an integer over 64 bits.
    """
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def ask_key(request: dict[str, Any], sample: int) -> str:
    """Hex SHA-256 of a request's canonical JSON and the index of the sample."""
    return hashlib.sha256(b"%d\n%b" % (sample, canonical_json(request))).hexdigest()


def unusable_reason(response: Response) -> str | None:
    """Why a response is no answer: ``truncated`` or ``filtered``; None if it is one.

    Raises:
        MalformedResponse: it is no chat completion at all.
    """
    finish = _choice(response).get("finish_reason")
    if finish in UNUSABLE:
        return UNUSABLE[finish]
    if finish not in _FINISHED:
        raise MalformedResponse(f"finish_reason: found {finish!r}, expected stop or tool_calls")
    return None


def answer_message(response: Response) -> dict[str, Any]:
    """The assistant's message of a response; errors as in `unusable_reason`."""
    return _choice(response)["message"]


def _choice(response: Response) -> dict[str, Any]:
    choices = response.get("choices") if isinstance(response, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise MalformedResponse("no choices: expected a chat completion")
    if not isinstance(choices[0].get("message"), dict):
        raise MalformedResponse("choices[0] has no message: expected a chat completion")
    return choices[0]


@dataclass(frozen=True)
class Usage:
    """Tokens of a call, as the server counted them."""

    prompt_tokens: int
    completion_tokens: int


def usage_of(response: Response) -> Usage | None:
    """The tokens a response reports, None where the server does not count them."""
    found = response.get("usage")
    if not isinstance(found, dict):
        return None
    counts = [found.get("prompt_tokens"), found.get("completion_tokens")]
    if not all(isinstance(count, int) and count >= 0 for count in counts):
        return None
    return Usage(*counts)  # type: ignore[arg-type]
