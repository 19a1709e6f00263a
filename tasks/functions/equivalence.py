"""Which calls are right: the rules of the Berkeley Function Calling Leaderboard for one Python call.

A row's ``accepted`` gives for each argument the values that are right, "" among them where it may be
left out; those of an object are again given key by key. A test asks the leaderboard's own checker
about every row and thousands of wrong answers, so what looks odd here is odd there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from supertiny.calls import ToolCall

_KINDS: dict[str, type] = {
    "string": str, "integer": int, "number": float, "boolean": bool, "array": list, "object": dict,
}  # fmt: skip
_IGNORED = re.compile(r"[ ,./\-_*^]")


def equivalent(call: ToolCall, gold: ToolCall, row: Mapping[str, Any]) -> bool:
    """Whether a call is right for a row; what no tool fits is answered by no call, as ever."""
    if call.name != gold.name:
        return False
    if "accepted" not in row:
        return call == gold
    tool = next(tool for tool in row["tools"] if tool["name"] == gold.name)
    return accepts(call.arguments, row["accepted"], tool["parameters"])


def accepts(
    arguments: Mapping[str, Any], accepted: Mapping[str, Sequence[Any]], schema: Mapping[str, Any]
) -> bool:
    """Whether arguments for a tool with this schema are all there and all right."""
    if not set(schema["required"]) <= arguments.keys():
        return False
    if any(key not in arguments and "" not in values for key, values in accepted.items()):
        return False
    properties = schema["properties"]
    return all(
        key in properties and key in accepted and _is_right(value, accepted[key], properties[key])
        for key, value in arguments.items()
    )


def _is_right(value: Any, options: Sequence[Any], schema: Mapping[str, Any]) -> bool:
    kind: Any = _KINDS[schema["type"]]
    items = _KINDS[schema["items"]["type"]] if kind is list else None
    if kind is float and type(value) is int:
        value = float(value)
    meant = _kind_of(options)
    if type(value) not in (kind, meant):
        return False
    if type(value) is list and items is not None and not _items_fit(value, options, items):
        return False
    # An answer of another type than the schema's stands for a variable, and is compared as it is.
    literal = type(value) is kind and meant in (None, kind)
    if literal and kind is dict:
        return any(_object_is_right(value, option) for option in options)
    if literal and items is dict:
        return any(_objects_are_right(value, option) for option in options)
    if literal and kind is str:
        return _plain(value) in [_plain(option) for option in options if isinstance(option, str)]
    if literal and kind is list:
        return [_plain(item) for item in value] in [[_plain(i) for i in o] for o in options]
    return value in options


def _kind_of(options: Sequence[Any]) -> type | None:
    return next((type(option) for option in options if option != ""), None)


def _items_fit(value: Sequence[Any], options: Sequence[Any], items: type) -> bool:
    """Whether every item has the type of items of one option at least; "" takes any."""
    return any(
        not isinstance(option, list)
        or all(type(item) in (items, _kind_of(option)) for item in value)
        for option in options
    )


def _object_is_right(value: Mapping[str, Any], option: Any) -> bool:
    if option == "":
        return False
    if any(key not in value and "" not in values for key, values in option.items()):
        return False
    return all(
        key in option and _plain(item) in [_plain(one) for one in option[key]]
        for key, item in value.items()
    )


def _objects_are_right(value: Sequence[Any], option: Any) -> bool:
    return len(value) == len(option) and all(map(_object_is_right, value, option))


def _plain(value: Any) -> Any:
    """A string without case, blanks and punctuation that people set differently; else as it is."""
    if not isinstance(value, str):
        return value
    return _IGNORED.sub("", value).lower().replace("'", '"')
