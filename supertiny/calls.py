"""Tool calls: the student's compact text form, legality, equivalence and the graded score.

The text form is one line for the tool and one for each argument, every line after one space::

     light
     area kitchen
     brightness 30

The space makes the first word of a value the same token as in the query it is copied from, and a
newline costs less than JSON's quotes, braces and commas (about half the tokens of compact JSON).
A string stands bare unless that would be ambiguous; every other value stands as JSON.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jsonschema

from supertiny.errors import CallError
from supertiny.numberwords import fold_number_words

ARTICLES = frozenset({"the", "a", "an", "my", "our", "some"})
FOLDS = frozenset({"case", "articles", "numbers"})


@dataclass(frozen=True)
class ToolCall:
    """A tool's name and its arguments, as JSON values."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The wire form ``{"name", "arguments"}``."""
        return {"name": self.name, "arguments": self.arguments}


NO_CALL = ToolCall("no_call")


@dataclass(frozen=True)
class Tool:
    """A tool: JSON Schema of its arguments and the words it is called in the student's text."""

    name: str
    alias: str
    description: str
    parameters: dict[str, Any]

    @property
    def properties(self) -> dict[str, dict[str, Any]]:
        """Argument name to its JSON Schema, in the order arguments are rendered."""
        return self.parameters.get("properties", {})

    def word(self, key: str) -> str:
        """What an argument is called in the student's text: its schema's ``x-alias``, or its name."""
        return self.properties.get(key, {}).get("x-alias", key)


def call_from_json(value: Any) -> ToolCall:
    """A `ToolCall` from its wire form.

    Raises:
        CallError: the value is not ``{"name": string, "arguments": object}``.
    """
    if not isinstance(value, dict) or set(value) != {"name", "arguments"}:
        raise CallError('expected an object with exactly "name" and "arguments"')
    if not isinstance(value["name"], str) or not isinstance(value["arguments"], dict):
        raise CallError("name must be a string and arguments an object")
    return ToolCall(value["name"], value["arguments"])


def validate_call(call: ToolCall, tools: Mapping[str, Tool]) -> None:
    """Check a call against the tools.

    Raises:
        CallError: unknown tool, or arguments that its JSON Schema does not allow.
    """
    if call == NO_CALL:
        return
    if call.name not in tools:
        raise CallError(f"unknown tool {call.name!r}")
    validator = jsonschema.Draft202012Validator(tools[call.name].parameters)
    error = jsonschema.exceptions.best_match(validator.iter_errors(call.arguments))
    if error is not None:
        raise CallError(f"{call.name}: {error.message}")


def render_call(call: ToolCall, tools: Mapping[str, Tool]) -> str:
    """The student's text for a legal call; arguments in the order of the tool's schema."""
    if call == NO_CALL:
        return " no_call"
    tool = tools[call.name]
    known = [key for key in tool.properties if key in call.arguments]
    extra = sorted(key for key in call.arguments if key not in tool.properties)
    lines = [tool.alias]
    lines += [f"{tool.word(key)} {render_value(call.arguments[key])}" for key in known + extra]
    return "\n".join(f" {line}" for line in lines)


def parse_call(text: str, tools: Mapping[str, Tool]) -> ToolCall:
    """The call that a text in the compact form stands for, checked against the tools.

    Raises:
        CallError: the text is no legal call; the message is the reason.
    """
    call = _read_lines(text, tools)
    validate_call(call, tools)
    return call


def may_become_call(text: str, tools: Mapping[str, Tool]) -> bool:
    """Whether an answer that begins with ``text`` can still turn out a legal call.

    False is certain: an unknown tool on the first line, or a later line that is no argument or
    repeats one, stays wrong whatever follows. Only whole lines are looked at, since the one being
    written may change its meaning with every token.
    """
    whole, newline, _ = text.rpartition("\n")
    if not newline:
        return True
    try:
        _read_lines(whole, tools)
    except CallError:
        return False
    return True


def _read_lines(text: str, tools: Mapping[str, Tool]) -> ToolCall:
    """The call that a text spells out, not checked against the schema of its tool."""
    first, *rest = (line.strip(" ") for line in text.rstrip("\n").split("\n"))
    if first == "no_call" and not rest:
        return NO_CALL
    by_alias = {tool.alias: tool for tool in tools.values()}
    if first not in by_alias:
        raise CallError(f"unknown tool {first[:80]!r}")
    tool = by_alias[first]
    keys = {tool.word(key): key for key in tool.properties}
    arguments: dict[str, Any] = {}
    for line in rest:
        word, space, value = line.partition(" ")
        if not space:
            raise CallError(f"argument without a value: {line[:80]!r}")
        key = keys.get(word, word)
        if key in arguments:
            raise CallError(f"argument {key[:80]!r} given twice")
        arguments[key] = _decode(value)
    return ToolCall(tool.name, arguments)


def render_value(value: Any) -> str:
    """An argument's value as it stands in the student's text: a bare string or JSON on one line."""
    if isinstance(value, str) and _stands_bare(value):
        return value
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _stands_bare(text: str) -> bool:
    return (
        text.strip(" ") == text != ""
        and "\n" not in text
        and not text.startswith('"')
        and _json_or_none(text) is None
        and text != "null"
    )


def _decode(text: str) -> Any:
    if text == "null":
        return None
    value = _json_or_none(text)
    if value is None and text.startswith('"'):
        raise CallError(f"broken quoted string: {text[:80]!r}")
    return text if value is None else value


def _json_or_none(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def canonical(call: ToolCall, tools: Mapping[str, Tool]) -> tuple[str, Any]:
    """A value that is equal for two calls exactly when they mean the same.

    Keys are unordered and 30 equals 30.0; a string is folded as its schema's ``x-fold`` says:
    ``case`` (Unicode NFKC case fold, blanks collapsed), ``articles`` (leading ones dropped),
    ``numbers`` (number words as digits).
    """
    schemas = tools[call.name].properties if call.name in tools else {}
    return call.name, {
        key: _canonical_value(value, schemas.get(key, {})) for key, value in call.arguments.items()
    }


def equivalent(left: ToolCall, right: ToolCall, tools: Mapping[str, Tool]) -> bool:
    """Whether two calls mean the same; see `canonical`."""
    return canonical(left, tools) == canonical(right, tools)


def _canonical_value(value: Any, schema: dict[str, Any]) -> Any:
    if isinstance(value, bool) or value is None:
        return ("literal", value)  # True == 1 in Python, not in JSON
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        return fold_text(value, schema.get("x-fold", ()))
    if isinstance(value, list):
        return [_canonical_value(item, schema.get("items", {})) for item in value]
    if isinstance(value, dict):
        inner = schema.get("properties", {})
        return {key: _canonical_value(item, inner.get(key, {})) for key, item in value.items()}
    return value


def one_line(text: str) -> str:
    """Unicode NFKC, with every run of blanks and line ends as one blank."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


def fold_text(text: str, folds: Any) -> str:
    """A string with the named differences removed; see `canonical`."""
    if "case" in folds:
        text = one_line(text).casefold()
    if "numbers" in folds:
        text = fold_number_words(text)
    if "articles" in folds:
        words = text.split()
        while len(words) > 1 and words[0] in ARTICLES:
            words.pop(0)
        text = " ".join(words)
    return text


def soft_score(predicted: ToolCall, gold: ToolCall, tools: Mapping[str, Tool]) -> float:
    """Graded agreement in [0, 1]: 0 for another tool, else intersection over union of arguments.

    An argument in both calls counts by its similarity: ROUGE-L F1 for free strings, equality for
    numbers, booleans and enumerated strings. Source: STAR, arXiv 2602.03022 (reward).
    """
    if predicted.name != gold.name:
        return 0.0
    keys = predicted.arguments.keys() | gold.arguments.keys()
    if not keys:
        return 1.0
    left, right = canonical(predicted, tools)[1], canonical(gold, tools)[1]
    schemas = tools[gold.name].properties if gold.name in tools else {}
    shared = left.keys() & right.keys()
    return sum(_similarity(left[k], right[k], schemas.get(k, {})) for k in shared) / len(keys)


def _similarity(left: Any, right: Any, schema: dict[str, Any]) -> float:
    if isinstance(left, str) and isinstance(right, str) and "enum" not in schema:
        return rouge_l(left.split(), right.split())
    return float(left == right)


def rouge_l(left: list[str], right: list[str]) -> float:
    """F1 of the longest common subsequence of two word lists (Lin 2004, ROUGE-L)."""
    if not left or not right:
        return float(left == right)
    row = [0] * (len(right) + 1)
    for word in left:
        diagonal = 0
        for column, other in enumerate(right, 1):
            longest = diagonal + 1 if word == other else max(row[column], row[column - 1])
            diagonal, row[column] = row[column], longest
    return 2 * row[-1] / (len(left) + len(right))
