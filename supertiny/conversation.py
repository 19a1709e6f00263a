"""Several turns as one query: what was said and the calls that were made, oldest first, on one line.

The student reads the same text whether a query is one message or the last of several::

    where is order K-1 => track order K-1 => then refund it

An earlier call stands in the words that the student would answer with. Either may come with tools
of its own, as a mapping: ``{"query": text, "tools": [...]}``, or ``messages`` in place of ``query``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from supertiny.calls import Tool, call_from_json, render_call, validate_call
from supertiny.errors import CallError

ARROW = "=>"
Message = Mapping[str, Any]
# One message, or a conversation whose last message is to be answered, or either in a mapping.
Said = str | Sequence[Message] | Mapping[str, Any]


def as_query(said: Said, tools: Mapping[str, Tool]) -> str:
    """A query as one text.

    Args:
        said: the query itself, or messages: ``{"role": "user", "content": text}`` and
            ``{"role": "assistant", "call": {"name", "arguments"}}``, the last one the user's; or a
            mapping with one of these as ``query`` or ``messages``.

    Raises:
        CallError: no such messages, or an earlier call that the tools do not allow.
    """
    if isinstance(said, Mapping) and said.keys() & {"query", "messages"}:
        said = _inside(said)
    if isinstance(said, str):
        return said
    messages: Any = said  # whatever a caller read from somewhere
    if not isinstance(messages, list | tuple) or not messages:
        raise CallError(f"messages: found {messages!r}, expected a list with a message at least")
    turns = [_turn(number, message, tools) for number, message in enumerate(messages, 1)]
    if messages[-1]["role"] != "user":
        raise CallError("messages: the last one is not the user's; there is nothing to answer")
    return f" {ARROW} ".join(turns)


def _inside(asked: Mapping[str, Any]) -> Any:
    if "messages" in asked:
        if "query" in asked:
            raise CallError('expected one of the keys "query" and "messages", found both')
        return asked["messages"]
    if not isinstance(asked["query"], str):
        raise CallError(f"query: expected a string, found {type(asked['query']).__name__}")
    return asked["query"]


def question(row: Mapping[str, Any]) -> Said:
    """What a student is asked by a row: its query, with its tools if it brings some."""
    if "tools" not in row:
        return str(row["query"])
    return {"query": row["query"], "tools": row["tools"]}


def _turn(number: int, message: Message, tools: Mapping[str, Tool]) -> str:
    where = f"messages, number {number}"
    role = message.get("role") if isinstance(message, Mapping) else None
    expected = {"user": {"role", "content"}, "assistant": {"role", "call"}}.get(str(role))
    if expected is None or message.keys() != expected:
        raise CallError(
            f"{where}: found {message!r}, expected role `user` with content, or `assistant` with call"
        )
    if role == "user":
        if not isinstance(message["content"], str) or not message["content"].strip():
            raise CallError(f"{where}: content: found {message['content']!r}, expected a text")
        # Nobody can write a turn that was none into a message.
        return message["content"].replace(ARROW, "= >")
    try:
        call = call_from_json(message["call"])
        validate_call(call, tools)
    except CallError as error:
        raise CallError(f"{where}: {error}") from None
    return " ".join(render_call(call, tools).split())
