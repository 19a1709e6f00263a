"""Other names for tools and arguments, so that a student must read and copy them.

Train calls some hundreds of tools. Learned by heart, their names are what a student writes when it is shown
a tool it has never seen.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence

from supertiny.prepare import Row

SHARE = 0.7  # of rows
_MEANINGLESS_SHARE = 0.1  # of those: the description alone says what a tool does
_OTHER_WORD_SHARE = 0.5  # of names that have a word with others like it
_ADDED_WORD_SHARE = 0.3  # of tools
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+")
_ADDED = ("api", "app", "client", "core", "main", "my", "service", "tool", "util", "v2")
_VERBS = (
    ("add", "create", "insert", "make", "new"),
    ("begin", "start"),
    ("book", "reserve"),
    ("buy", "order", "purchase"),
    ("calc", "calculate", "compute"),
    ("change", "edit", "set", "update"),
    ("check", "validate", "verify"),
    ("delete", "erase", "remove"),
    ("fetch", "get", "retrieve"),
    ("find", "lookup", "search"),
    ("post", "send", "submit"),
)
_NOUNS = (
    ("amount", "count", "number", "quantity"),
    ("category", "kind", "type"),
    ("city", "town"),
    ("data", "details", "info"),
    ("document", "file"),
    ("end", "finish"),
    ("id", "identifier", "key"),
    ("location", "place"),
    ("name", "title"),
    ("query", "text"),
)
_Style = Callable[[Sequence[str]], str]


def _camel(words: Sequence[str]) -> str:
    return words[0] + _pascal(words[1:])


def _pascal(words: Sequence[str]) -> str:
    return "".join(word.capitalize() for word in words)


def _dotted(words: Sequence[str]) -> str:
    return ".".join(part for part in (words[0], "_".join(words[1:])) if part)


_ARGUMENT_STYLES: tuple[_Style, ...] = ("_".join, _camel)
_TOOL_STYLES: tuple[_Style, ...] = ("_".join, _camel, _pascal, _dotted)


def renamed(row: Row, rng: random.Random) -> Row:
    """The row with its tools and their arguments under other names, call and answers with them.

    Only a part of rows, `SHARE`; the others come back as they are. Names of one row are in one style.
    Keys inside an argument that is an object stay.
    """
    if rng.random() >= SHARE:
        return row
    tools = row["tools"]
    names = _tool_names(tools, rng)
    style = rng.choice(_ARGUMENT_STYLES)
    keys = {
        tool["name"]: _distinct(
            {key: _other(key, _NOUNS, style, rng) for key in tool["parameters"]["properties"]}
        )
        for tool in tools
    }
    changed = {
        **row,
        "tools": [_tool(tool, names[tool["name"]], keys[tool["name"]]) for tool in tools],
    }
    called = row["call"]["name"]
    if called in names:
        arguments = _with_keys(row["call"]["arguments"], keys[called])
        changed["call"] = {"name": names[called], "arguments": arguments}
        changed["accepted"] = _with_keys(row["accepted"], keys[called])
        changed["names"] = [names[called]]
    return changed


def _tool_names(tools: Sequence[Row], rng: random.Random) -> dict[str, str]:
    names = [tool["name"] for tool in tools]
    if all(tool.get("description") for tool in tools) and rng.random() < _MEANINGLESS_SHARE:
        word = rng.choice(("action", "f", "fn", "func", "tool"))
        numbers = rng.sample(range(1, 100), len(names))
        return {name: f"{word}_{number}" for name, number in zip(names, numbers, strict=True)}
    style = rng.choice(_TOOL_STYLES)
    return _distinct({
        name: _other(name, _NOUNS + _VERBS, style, rng, _ADDED_WORD_SHARE) for name in names
    })  # fmt: skip


def _other(
    name: str,
    alike: Sequence[Sequence[str]],
    style: _Style,
    rng: random.Random,
    added_word_share: float = 0.0,
) -> str:
    words = [word.lower() for word in _WORD.findall(name)]
    known = [(at, group) for at, word in enumerate(words) for group in alike if word in group]
    if known and rng.random() < _OTHER_WORD_SHARE:
        at, group = rng.choice(known)
        words[at] = rng.choice([word for word in group if word != words[at]])
    if rng.random() < added_word_share:
        words.insert(rng.choice((0, len(words))), rng.choice(_ADDED))
    return style(words) if words and words[0].isalpha() else name


def _distinct(names: dict[str, str]) -> dict[str, str]:
    """New names by old ones; all stay the old ones where two would be the same."""
    return names if len(set(names.values())) == len(names) else {name: name for name in names}


def _tool(tool: Row, name: str, keys: Mapping[str, str]) -> Row:
    schema = tool["parameters"]
    parameters = {
        **schema,
        "properties": _with_keys(schema["properties"], keys),
        "required": [keys[key] for key in schema["required"]],
    }
    return {**tool, "name": name, "parameters": parameters}


def _with_keys(values: Mapping[str, Row], keys: Mapping[str, str]) -> Row:
    return {keys[key]: value for key, value in values.items()}
