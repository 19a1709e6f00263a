"""The grammar of a task's legal answers, in the Lark dialect of llguidance.

Decoded under it, a model writes a tool of the task, each argument at most once and in the schema's
order, required ones present, and each value of the form its own JSON Schema asks for. Left to
`supertiny.calls.validate_call` are patterns and formats of bare strings, and what a schema says
across arguments, such as ``dependentRequired``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from supertiny.calls import NO_CALL, Tool, render_call, render_value

# A string that would read as JSON stands in quotes in the student's form, so it is no bare one.
_JSON = r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?|true|false|null"
_FIRST, _INNER, _LAST = (
    rf"[^{left}\x7f]" for left in (r'\x00-\x20"\[{', r"\x00-\x1f", r"\x00-\x20")
)


def lark_grammar(tools: Mapping[str, Tool], said: Sequence[str] = ()) -> str:
    """The grammar whose start rule gives the answers that are legal calls of the tools.

    Args:
        said: what an argument that quotes the query (``x-quoted``) may be; any text if nothing here
            fits its schema.
    """
    names = [f"tool_{number}" for number in range(len(tools))]
    starts = [_literal(render_call(NO_CALL, tools)), *names]
    strings = _Strings(said)
    rules = [
        _tool_rule(name, tool, strings) for name, tool in zip(names, tools.values(), strict=True)
    ]
    return "\n".join([f"start: {' | '.join(starts)}", *rules, *strings.rules(), ""])


class _Strings:
    """Rules of strings, each written once for all the arguments that refer to it."""

    def __init__(self, said: Sequence[str]) -> None:
        self._said = {text: _literal(render_value(text)) for text in said}
        self._names: dict[str, str] = {}

    def rules(self) -> list[str]:
        """Those that were referred to."""
        return [f"{name}: {body}" for body, name in self._names.items()]

    def quotes(self, schema: Mapping[str, Any]) -> str:
        """The rule of an argument that quotes the query; nothing for any other argument."""
        if not schema.get("x-quoted"):
            return ""
        least, most = _lengths(schema)
        fitting = [literal for text, literal in self._said.items() if least <= len(text) <= most]
        return self._name("quote", " | ".join(fitting)) if fitting else ""

    def bare(self, schema: Mapping[str, Any]) -> str:
        """The terminal of strings that stand without quotes."""
        return self._name("BARE", _bare(*_lengths(schema)))

    def _name(self, kind: str, body: str) -> str:
        return self._names.setdefault(body, f"{kind}_{len(self._names)}")


def _lengths(schema: Mapping[str, Any]) -> tuple[int, float]:
    """The fewest and the most characters of a string."""
    return schema.get("minLength", 0), schema.get("maxLength", math.inf)


def _tool_rule(name: str, tool: Tool, strings: _Strings) -> str:
    required = tool.parameters.get("required", [])
    parts = [_literal(f" {tool.alias}")]
    for key, schema in tool.properties.items():
        word = _literal(f"\n {tool.word(key)} ")
        line = f"{word} ({strings.quotes(schema) or _value(schema, strings)})"
        parts.append(line if key in required else f"({line})?")
    return f"{name}: {' '.join(parts)}"


def _value(schema: Mapping[str, Any], strings: _Strings) -> str:
    """The values of one argument, as alternatives."""
    if "anyOf" in schema:
        rest = {key: value for key, value in schema.items() if key != "anyOf"}
        return " | ".join(_value({**rest, **part}, strings) for part in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " | ".join(_literal(render_value(value)) for value in values)
    quoted = f"%json {json.dumps(_plain(schema))}"
    types = schema.get("type", "string")
    if "string" not in ([types] if isinstance(types, str) else types):
        return quoted
    return f"{strings.bare(schema)} | {quoted}"


def _bare(shortest: int, longest: float) -> str:
    """A terminal: a string of so many characters that stands without quotes."""
    text = f"/{_FIRST}({_INNER}*{_LAST})?/ & ~/{_JSON}/"
    if shortest <= 1 and longest == math.inf:
        return text
    return f"{text} & /{_INNER}{{{shortest},{'' if longest == math.inf else longest}}}/"


def _plain(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema without our own keys and prose, for JSON as the student's text has it: on one line."""
    own = {key for key in schema if key.startswith("x-")} | {"description"}
    kept = {key: value for key, value in schema.items() if key not in own}
    separators = {"item_separator": ", ", "key_separator": ": "}
    return {**kept, "x-guidance": {"whitespace_flexible": False, **separators}}


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
