"""The grammar of a task's legal answers, in the Lark dialect of llguidance.

A model decoded under it can only write calls that `supertiny.calls.parse_call` accepts: a tool of
the task, each argument at most once and in the schema's order, required ones present, every value
legal for its own JSON Schema. What JSON Schema says across arguments (``dependentRequired`` and
the like) is not in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from supertiny.calls import NO_CALL, Tool, _encode, render_call

# Bare text that would read as JSON stands in quotes in the student's form, so it is no bare string.
_JSON = r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?|true|false|null"
_BARE = r"BARE: /[^\x00-\x20\"\[{\x7f]([^\x00-\x1f\x7f]*[^\x00-\x20\x7f])?/ & ~/" + f"({_JSON})/"


def lark_grammar(tools: Mapping[str, Tool]) -> str:
    """The grammar whose start rule gives exactly the answers that are legal calls.

    Args:
        tools: a task's tools by name.
    """
    names = [f"tool_{number}" for number in range(len(tools))]
    rules = [f"start: {' | '.join([_literal(render_call(NO_CALL, tools)), *names])}"]
    rules += [_tool_rule(*pair) for pair in zip(names, tools.values(), strict=True)]
    return "\n".join([*rules, _BARE, ""])


def _tool_rule(name: str, tool: Tool) -> str:
    required = tool.parameters.get("required", [])
    parts = [_literal(f" {tool.alias}")]
    for key, schema in tool.properties.items():
        word = _literal(f"\n {tool.word(key)} ")
        line = f"{word} ({_value(schema)})"
        parts.append(line if key in required else f"({line})?")
    return f"{name}: {' '.join(parts)}"


def _value(schema: Mapping[str, Any]) -> str:
    """The values of one argument: alternatives of a rule."""
    if "anyOf" in schema:
        rest = {key: value for key, value in schema.items() if key != "anyOf"}
        return " | ".join(_value({**rest, **part}) for part in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(_literal(_encode(value)) for value in schema["enum"])
    if schema.get("type") == "string":
        return f"BARE | %json {json.dumps(_plain(schema))}"
    return f"%json {json.dumps(_plain(schema))}"


def _plain(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema without our own keys and prose, which llguidance refuses or ignores."""
    return {
        key: value
        for key, value in schema.items()
        if not key.startswith("x-") and key != "description"
    }


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
