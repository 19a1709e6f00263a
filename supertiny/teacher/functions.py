"""The answer of a model, read as a call of the one function it had to answer through."""

from __future__ import annotations

from typing import Any

import jsonschema
import orjson

from supertiny.errors import CallError
from supertiny.teacher.messages import Function, Response, answer_message


def read_arguments(response: Response, function: Function) -> dict[str, Any]:
    """The arguments a response calls the function with, checked against its JSON Schema.

    A tool call counts first; else the first JSON object in the text, which may be the arguments
    themselves or ``{"name": ..., "arguments": ...}``.

    Raises:
        CallError: there is no such call; the message is meant for the model to read.
    """
    arguments = _from_tool_call(response, function)
    if arguments is None:
        arguments = _from_text(answer_text(response), function)
    validator = jsonschema.Draft202012Validator(function.parameters)
    error = jsonschema.exceptions.best_match(validator.iter_errors(arguments))
    if error is not None:
        where = "".join(f"{part}: " for part in error.absolute_path)
        raise CallError(f"{where}{error.message}")
    return arguments


def answer_text(response: Response) -> str:
    """What the model said, for quoting it back: its text, or the arguments of its tool call."""
    message = answer_message(response)
    if isinstance(message.get("content"), str) and message["content"].strip():
        return message["content"]
    try:
        return str(message["tool_calls"][0]["function"]["arguments"])
    except (KeyError, IndexError, TypeError):
        return ""


def _from_tool_call(response: Response, function: Function) -> dict[str, Any] | None:
    calls = answer_message(response).get("tool_calls")
    if not isinstance(calls, list) or not calls:
        return None
    try:
        name, text = calls[0]["function"]["name"], calls[0]["function"]["arguments"]
    except (KeyError, TypeError):
        raise CallError("the tool call has no function") from None
    if name != function.name:
        raise CallError(f"called {name!r}, expected {function.name!r}")
    value = text if isinstance(text, dict) else _json(str(text))
    if not isinstance(value, dict):
        raise CallError("the arguments are no JSON object")
    return value


def _from_text(text: str, function: Function) -> dict[str, Any]:
    value = _json(balanced_object(text) or "")
    if not isinstance(value, dict):
        raise CallError("no JSON object in the answer")
    if set(value) == {"name", "arguments"} and "name" not in function.parameters.get(
        "properties", {}
    ):
        if value["name"] != function.name or not isinstance(value["arguments"], dict):
            raise CallError(f"called {value['name']!r}, expected {function.name!r} with an object")
        return value["arguments"]
    return value


def _json(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def balanced_object(text: str) -> str | None:
    """The first JSON object of a text, from its brace to the one that balances it; None if none ends."""
    start = text.find("{")
    if start < 0:
        return None
    depth, inside, escaped = 0, False, False
    for position in range(start, len(text)):
        letter = text[position]
        if inside:  # braces within a string do not count
            if escaped:
                escaped = False
            elif letter == "\\":
                escaped = True
            elif letter == '"':
                inside = False
        elif letter == '"':
            inside = True
        elif letter == "{":
            depth += 1
        elif letter == "}":
            depth -= 1
            if depth == 0:
                return text[start : position + 1]
    return None
