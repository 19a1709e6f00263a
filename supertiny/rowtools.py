"""Tools that come with one query instead of with the task: checked, and made short.

Whoever writes a tool says in a paragraph what a small student must read in a line. Kept is what it
needs to choose and to fill in: names, types, the first sentence of the description, and of each
argument's description the quoted example, which says better than words how a value is written. The
order of keys means nothing in JSON, so that of arguments is one and the same: required ones first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import jsonschema

from supertiny.calls import Tool
from supertiny.errors import CallError, UserError
from supertiny.tools import check_tool

MAX_CHARACTERS = 65_536  # of a tool list as JSON; more are refused before any work is done on them
MAX_DEPTH = 6  # of objects and lists inside an argument
_LONGEST_DESCRIPTION, _LONGEST_EXAMPLE = 100, 40  # characters shown
_KEPT = frozenset({
    "type", "enum", "const", "anyOf", "items", "properties", "required", "additionalProperties",
    "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems",
})  # fmt: skip
_PROSE = frozenset({"description", "title", "default", "examples", "format"})  # allow no value less
# An apostrophe inside a word opens and closes nothing.
_QUOTED = re.compile(r"""(?<![\w'"])(['"])([^'"]{2,}?)\1(?!\w)""")
_SENTENCE_END = re.compile(r"(?<=[^.\s]{2})\.(?=\s|$)")


def as_text(tools: Any) -> str:
    """A tool list as JSON, by which what is made of it can be remembered.

    Raises:
        CallError: no list, too long, or nothing that JSON can hold.
    """
    if not isinstance(tools, list | tuple):
        raise CallError(f"tools: found {type(tools).__name__}, expected a list")
    try:
        text = json.dumps(tools, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise CallError(f"tools: not valid JSON: {error}") from None
    if len(text) > MAX_CHARACTERS:
        raise CallError(f"tools: {len(text)} characters of JSON, at most {MAX_CHARACTERS} allowed")
    return text


@lru_cache(maxsize=256)
def read_tools(text: str) -> Mapping[str, Tool]:
    """Tools by name from the JSON of a list of ``{"name", "description", "parameters"}``.

    ``parameters`` is a JSON Schema of type object; a property that it does not name is refused
    whether it says so or not. Keys that only explain are dropped.

    Raises:
        CallError: a tool is malformed, a name is taken twice, or a schema uses a key that is not
            known here: what a call must keep to would not be checked.
    """
    tools: dict[str, Tool] = {}
    for number, entry in enumerate(json.loads(text), 1):
        tool = _tool(entry, f"tools, number {number}")
        if tool.name in tools or tool.name == "no_call":
            raise CallError(f"tools, number {number}: name {tool.name!r} is taken")
        tools[tool.name] = tool
    return MappingProxyType(tools)


def _tool(entry: Any, where: str) -> Tool:
    if not isinstance(entry, dict) or not {"name", "parameters"} <= entry.keys() <= {
        "name", "description", "parameters"
    }:  # fmt: skip
        raise CallError(f"{where}: expected name, description and parameters")
    name, description, schema = entry["name"], entry.get("description", ""), entry["parameters"]
    if not isinstance(name, str) or not isinstance(description, str):
        raise CallError(f"{where}: name and description must be strings")
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
        kept = {**_schema(schema, where, 0), "additionalProperties": False}
        kept.setdefault("properties", {})
        for key, argument in kept["properties"].items():
            found = example(schema["properties"][key].get("description", ""))
            if found and "enum" not in argument:
                argument["x-example"] = found
        tool = Tool(name, name, brief(description), kept)
        check_tool(tool, where)
    except jsonschema.SchemaError as error:
        raise CallError(f"{where}: not a valid JSON Schema: {error.message[:200]}") from None
    except RecursionError:
        raise CallError(f"{where}: schemas more than {MAX_DEPTH} deep") from None
    except UserError as error:
        raise CallError(str(error)) from None
    return tool


def _schema(raw: Any, where: str, depth: int) -> dict[str, Any]:
    """A schema without prose, its properties in order."""
    if not isinstance(raw, dict):
        raise CallError(f"{where}: expected a schema, found {type(raw).__name__}")
    if depth > MAX_DEPTH:
        raise CallError(f"{where}: schemas more than {MAX_DEPTH} deep")
    if unknown := sorted(raw.keys() - _KEPT - _PROSE):
        raise CallError(f"{where}: {unknown}: unknown here; allowed: {', '.join(sorted(_KEPT))}")
    kept = {key: raw[key] for key in sorted(raw.keys() & _KEPT)}
    if "items" in kept:
        kept["items"] = _schema(kept["items"], f"{where}, items", depth + 1)
    if not isinstance(rest := kept.get("additionalProperties", False), bool):
        kept["additionalProperties"] = _schema(rest, f"{where}, other properties", depth + 1)
    if "anyOf" in kept:
        kept["anyOf"] = [_schema(part, f"{where}, anyOf", depth + 1) for part in kept["anyOf"]]
    if "properties" in kept:
        required, properties = kept.setdefault("required", []), kept["properties"]
        if not set(required) <= properties.keys():
            raise CallError(f"{where}: required names what is no property")
        if not all(key.isprintable() for key in properties):
            raise CallError(f"{where}: names of properties must be printable, on one line")
        kept["properties"] = {
            key: _schema(properties[key], f"{where}, {key}", depth + 1)
            for key in sorted(properties, key=lambda key: (key not in required, key))
        }
        kept.setdefault("additionalProperties", False)
    return kept


def brief(description: str) -> str:
    """The first sentence of a description, without its full stop and on one line."""
    text = _SENTENCE_END.split(" ".join(description.split()), maxsplit=1)[0]
    if len(text) <= _LONGEST_DESCRIPTION:
        return text
    return text[:_LONGEST_DESCRIPTION].rsplit(" ", 1)[0]


def example(description: str) -> str:
    """The first quoted text of an argument's description that is short, or nothing."""
    quoted = (" ".join(match[2].split()) for match in _QUOTED.finditer(description))
    return next((text for text in quoted if len(text) <= _LONGEST_EXAMPLE), "")
