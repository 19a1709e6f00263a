"""Tools: read from a file, checked, and as the line that a prompt shows of each."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema

from supertiny import calls
from supertiny.calls import Tool, render_value
from supertiny.errors import UserError
from supertiny.io import read_json

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


def load_tools(path: Path | str) -> dict[str, Tool]:
    """Tools by name from a JSON list of ``{name, alias, description, parameters}``.

    Raises:
        UserError: a tool is malformed, its schema invalid, or a name or alias taken twice.
    """
    tools: dict[str, Tool] = {}
    raw = read_json(path)
    for index, entry in enumerate(raw if isinstance(raw, list) else [raw]):
        where = f"{path}, tool {index}"
        if not isinstance(entry, dict) or set(entry) != {
            "name", "alias", "description", "parameters"
        }:  # fmt: skip
            raise UserError(f"{where}: expected name, alias, description and parameters")
        tool = Tool(**entry)
        check_tool(tool, f"{where} ({tool.name})")
        taken = {name for other in tools.values() for name in (other.name, other.alias)}
        if {tool.name, tool.alias} & (taken | {"no_call"}):
            raise UserError(f"{where}: name {tool.name!r} or alias {tool.alias!r} is taken")
        tools[tool.name] = tool
    return tools


def check_tool(tool: Tool, where: str) -> None:
    """Raises `UserError` for a tool that has no place in the student's text, or a broken schema."""
    try:
        jsonschema.Draft202012Validator.check_schema(tool.parameters)
    except jsonschema.SchemaError as error:
        raise UserError(f"{where}: not a valid JSON Schema: {error.message}") from None
    if tool.parameters.get("type") != "object":
        raise UserError(f"{where}: parameters must be a schema of type object")
    if tool.parameters.get("additionalProperties") is not False:
        raise UserError(f"{where}: parameters must set additionalProperties to false")
    if tool.alias.strip() != tool.alias or not tool.alias or "\n" in tool.alias:
        raise UserError(f"{where}: alias must be one line without outer blanks")
    for key, schema in tool.properties.items():
        if not _IDENTIFIER.fullmatch(key):
            raise UserError(f"{where}: argument name {key!r} must match {_IDENTIFIER.pattern}")
        if not isinstance(schema.get("x-quoted", False), bool):
            raise UserError(f"{where}, {key}: x-quoted: allowed are true and false")
        unknown = set(schema.get("x-fold", ())) - calls.FOLDS
        if unknown:
            raise UserError(f"{where}, {key}: unknown x-fold {sorted(unknown)}")
        if not _IDENTIFIER.fullmatch(tool.word(key)):
            raise UserError(f"{where}, {key}: x-alias {tool.word(key)!r} must be one word")
    words = [tool.word(key) for key in tool.properties]
    if len(set(words)) != len(words):
        raise UserError(f"{where}: two arguments have the same x-alias")


def signature(tool: Tool) -> str:
    """``alias(argument: type "example", optional?: type)  description``, on one line."""
    arguments = _arguments(tool.parameters, tool)
    return f"{tool.alias}({arguments})  {tool.description}".rstrip()


def _arguments(schema: dict[str, Any], tool: Tool | None = None) -> str:
    required = set(schema.get("required", ()))
    return ", ".join(
        f"{tool.word(key) if tool else key}{'' if key in required else '?'}: {_type(part)}"
        for key, part in schema.get("properties", {}).items()
    )


def _type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return "|".join(map(render_value, schema["enum"]))
    if "anyOf" in schema:
        return "|".join(_type(option) for option in schema["anyOf"])
    if "items" in schema:
        return f"[{_type(schema['items'])}]"
    if "properties" in schema:
        return f"{{{_arguments(schema)}}}"
    kinds = schema.get("type", "any")
    kind = kinds if isinstance(kinds, str) else "|".join(kinds)
    if "minimum" in schema and "maximum" in schema:
        kind += f" {schema['minimum']}..{schema['maximum']}"
    return f'{kind} "{schema["x-example"]}"' if "x-example" in schema else kind
