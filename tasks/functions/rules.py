"""The rule baseline: the tool that shares most words with the query, its arguments found by their type.

No model and no training: what a few lines of string matching reach when they meet a tool for the first
time, which is what the student is asked too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from supertiny.calls import NO_CALL, Tool, ToolCall
from supertiny.conversation import Said
from supertiny.errors import CallError
from supertiny.task import Task, load_task_folder

MIN_SHARED = 2  # words of a tool that a query has; with fewer, no tool is called
_STOP = {
    "a", "an", "and", "are", "can", "for", "i", "in", "is", "it", "me", "my", "of", "on", "or", "the",
    "to", "what", "with", "you",
}  # fmt: skip
_WORD = re.compile(r"[a-z0-9]+")
_QUOTED = re.compile(r"[\"'“‘]([^\"'”’]+)[\"'”’]")
_PROPER = re.compile(r"(?<=[a-z,] )[A-Z][\w.]*(?:,? [A-Z][\w.]*)*")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


class Rules:
    """Answers from the signatures and the query alone."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def answer(self, asked: Said) -> ToolCall:
        """The call of the likeliest tool; none where no tool is likely or one cannot be filled in."""
        task, query = self._task.of(asked), self._task.as_query(asked)
        words = _words(query)
        shared = {name: len(words & _tool_words(tool)) for name, tool in task.tools.items()}
        name = max(shared, key=lambda name: shared[name])
        if shared[name] < MIN_SHARED:
            return NO_CALL
        call = ToolCall(name, _arguments(task.tools[name], query))
        try:
            task.validate(call)
        except CallError:
            return NO_CALL
        return call


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower())) - _STOP


def _tool_words(tool: Tool) -> set[str]:
    text = " ".join([tool.name, tool.description, *tool.properties])
    return _words(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text))


def _arguments(tool: Tool, query: str) -> dict[str, Any]:
    """A value for each argument of which the query holds one; each piece of it is used once."""
    pieces = [*_QUOTED.findall(query), *_PROPER.findall(query)]
    numbers = _NUMBER.findall(query)
    found: dict[str, Any] = {}
    for key, schema in tool.properties.items():
        required = key in tool.parameters["required"]
        said = _said(schema, query)
        if said is not None:
            found[key] = said
        elif schema.get("type") in ("integer", "number") and numbers and required:
            text = numbers.pop(0)
            found[key] = float(text) if "." in text else int(text)
        elif schema.get("type") == "string" and "enum" not in schema and pieces and required:
            found[key] = pieces.pop(0)
    return found


def _said(schema: Mapping[str, Any], query: str) -> Any:
    """The value of an enumeration that the query names; the longest, if several."""
    named = [
        value
        for value in schema.get("enum", ())
        if isinstance(value, str) and re.search(rf"\b{re.escape(value)}\b", query, re.IGNORECASE)
    ]
    return max(named, key=len) if named else None


def load(folder: Path, queries_dir: Path) -> Rules:
    """The baseline for the stage `evaluate`; it learns nothing, so it reads no rows."""
    del queries_dir
    return Rules(load_task_folder(folder))
