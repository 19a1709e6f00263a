"""The grammars of `home-assistant-intents`, read as data and parsed with hassil."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from hassil.expression import (
    Alternative,
    Expression,
    Group,
    ListReference,
    Permutation,
    RuleReference,
    Sentence,
)
from hassil.intents import Intents

FOLDER = Path(__file__).parent
LANGUAGE = "en"


@cache
def package_grammar(language: str = LANGUAGE) -> dict[str, Any]:
    """Sentences, lists and expansion rules of the package, as its own JSON has them."""
    return _package_json(f"data/{language}.json")


@cache
def intent_definitions() -> dict[str, Any]:
    """Intent name to its description, slots and slot combinations."""
    return _package_json("intents.json")


@cache
def own_grammar(pattern: str = "*.yaml", folder: Path = FOLDER / "sentences") -> dict[str, Any]:
    """Our own sentences, in the shape of the package's, of the files in ``folder``."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast where it is built
    intents: dict[str, Any] = {}
    for path in sorted(folder.glob(pattern)):
        for name, intent in yaml.load(path.read_text(encoding="utf-8"), loader)["intents"].items():
            intents.setdefault(name, {"data": []})["data"] += intent["data"]
    return {"intents": intents}


def _package_json(name: str) -> dict[str, Any]:
    return json.loads((files("home_assistant_intents") / name).read_text(encoding="utf-8"))


def parse(grammar: dict[str, Any], base: dict[str, Any] | None = None) -> Intents:
    """hassil's parsed form of the intents in ``grammar``, with lists and rules of ``base``, which is
    the package's English grammar where none is given."""
    base = base or package_grammar()
    return Intents.from_dict(
        {
            "language": base["language"],
            "intents": grammar["intents"],
            "lists": base["lists"],
            "expansion_rules": base["expansion_rules"],
            "skip_words": base["skip_words"],
        }
    )


def list_references(expression: Expression, rules: dict[str, Sentence]) -> list[ListReference]:
    """Every ``{list:slot}`` a template can reach, expansion rules included."""
    if isinstance(expression, ListReference):
        return [expression]
    if isinstance(expression, RuleReference):
        return list_references(rules[expression.rule_name].expression, rules)
    if isinstance(expression, Group):
        return [ref for item in expression.items for ref in list_references(item, rules)]
    return []


__all__ = [
    "Alternative", "Expression", "Group", "Intents", "ListReference", "Permutation",
    "RuleReference", "Sentence", "intent_definitions", "list_references", "own_grammar",
    "package_grammar", "parse",
]  # fmt: skip
