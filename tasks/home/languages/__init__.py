"""The languages besides English: their grammar, names and ways of speaking, a folder each.

`grammar.yaml` holds what stands in place of the package's own rules, `names.yaml` the names,
`speech.yaml` how people speak, `out_of_scope.yaml` and `.txt` what is no command.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from hassil.expression import Alternative, Expression, Group
from hassil.intents import Intents
from hassil.numbers import get_rbnf_engine
from hassil.parse_expression import parse_sentence

from tasks.home import noise
from tasks.home.languages import french, german, spanish
from tasks.home.languages.agreement import Correct, Noun, agree, common_nouns, read_noun

FOLDER = Path(__file__).parent
_CORRECT: Mapping[str, Correct] = {
    "de": german.correct, "fr": french.correct, "es": spanish.correct,
}  # fmt: skip
CODES = ("en", *_CORRECT)
_PLACES = ("area", "floor", "zone")
# What is copied word by word, an article at its beginning among the words.
_TEXTS = ("message", "todo_item", "shopping_item", "timer_name", "timer_command", "scene", "script",
          "todo", "weather", "person")  # fmt: skip
_FROM_PACKAGES = ("person", "weather", "shopping_item")  # lists that go on in files of their own

# Which form of a number word a list's unit asks for; "hour" is feminine in all three.
_RULESETS = {
    "de": {"timer_": "spellout-cardinal-feminine", "": "spellout-cardinal-neuter"},
    "fr": {"timer_": "spellout-cardinal-feminine", "": "spellout-cardinal-masculine"},
    "es": {
        "timer_hours": "spellout-cardinal-feminine",
        "timer_": "spellout-cardinal-masculine",
        "temperature": "spellout-cardinal-masculine",
        "": "spellout-numbering",
    },
}


@dataclass(frozen=True, eq=False)
class Language:
    """What `gold` needs to know of a language other than English; made by `load`."""

    code: str
    manner: noise.Manner
    nonsense: re.Pattern[str]
    unsaid: frozenset[str]
    grammar: dict[str, Any]  # expansion_rules, lists, rewrite, skip
    common: tuple[dict[str, Noun], str]

    def agree(self, pieces: list[noise.Piece], rng: random.Random) -> list[noise.Piece] | None:
        """The pieces as the language has them, or None where that cannot be."""
        return agree(pieces, _CORRECT[self.code], self.common, rng)

    def names(self) -> dict[str, list[Noun]]:
        """Names by list, those of a template expanded, in the order of the files."""
        return _names(self.code)

    def everyday(self) -> dict[str, list[str]]:
        """Names that most homes have, by list."""
        return _yaml(self.code, "names")["everyday"]

    def digits(self, number: float) -> str:
        """A number in digits, with a decimal comma."""
        return f"{number:g}".replace(".", ",")

    def words(self, number: float, list_name: str) -> str:
        """A number in words, in the form that what a list counts asks for."""
        texts = get_rbnf_engine(self.code).format_number(number)
        rules = _RULESETS[self.code]
        ruleset = next(name for start, name in rules.items() if list_name.startswith(start))
        return str(texts.text_by_ruleset.get(ruleset, texts.text)).replace("\xad", "")

    def out_of_scope(self) -> tuple[list[str], Intents, dict[str, str]]:
        """Queries of the corpus; hassil intents with one sentence template a block; and which of
        the templates' lists are lists of names."""
        raw = _yaml(self.code, "out_of_scope")
        data = [{"sentences": [sentence]} for sentence in raw["sentences"]]
        parsed = Intents.from_dict(
            {
                "language": self.code,
                "intents": {"no_call": {"data": data}},
                "lists": {name: {"values": values} for name, values in raw["lists"].items()},
                "expansion_rules": {},
            }
        )
        return _lines(self.code, "out_of_scope"), parsed, raw["names"]


@cache
def load(code: str) -> Language:
    """A language by its code, one of `CODES` other than ``en``."""
    speech = _yaml(code, "speech")
    return Language(
        code=code,
        manner=noise.Manner(
            tuple(speech["polite_front"]), tuple(speech["polite_back"]),
            tuple(speech["openers"]), tuple(speech["closers"]),
            re.compile(speech["question"], re.I), speech["percent"],
        ),
        nonsense=re.compile("|".join(speech["nonsense"]), re.I),
        unsaid=frozenset(speech["unsaid"]),
        grammar=_yaml(code, "grammar"),
        common=common_nouns(speech["nouns"]),
    )  # fmt: skip


def overridden(raw: dict[str, Any], language: Language) -> dict[str, Any]:
    """The package's grammar with our rules and lists in place of its own and what is skipped left
    out; blocks that lose all their sentences stay, without any."""
    text = json.dumps(raw, ensure_ascii=False)
    for pattern, replacement in language.grammar["rewrite"].items():
        text = re.sub(pattern, replacement, text)
    grammar = json.loads(text)
    skip = [re.compile(pattern) for pattern in language.grammar["skip"]]
    for intent in grammar["intents"].values():
        for block in intent["data"]:
            block["sentences"] = [
                sentence
                for sentence in block["sentences"]
                if not any(pattern.search(sentence) for pattern in skip)
            ]
    for part in ("expansion_rules", "lists"):
        grammar[part] = {**grammar[part], **language.grammar[part]}
    return grammar


@cache
def _names(code: str) -> dict[str, list[Noun]]:
    lists = {name: entries for name, entries in _yaml(code, "names").items() if name != "everyday"}
    found = {
        name: [_noun(name, text) for entry in entries for text in expand(entry)]
        for name, entries in lists.items()
    }
    for name in _FROM_PACKAGES:
        found.setdefault(name, []).extend(Noun("", line) for line in _lines(code, name))
    return found


def _noun(list_name: str, text: str) -> Noun:
    if list_name in _TEXTS or list_name.startswith("media_") and list_name != "media_player":
        return Noun("", text)
    noun = read_noun(text)
    return replace(noun, place=True) if list_name in _PLACES else noun


def expand(template: str) -> list[str]:
    """Every text that a hassil template without lists and rules stands for."""
    return [" ".join(text.split()) for text in _texts(parse_sentence(template).expression)]


def _texts(expression: Expression) -> list[str]:
    if isinstance(expression, Alternative):
        return [text for item in expression.items for text in _texts(item)]
    if isinstance(expression, Group):
        return ["".join(parts) for parts in product(*map(_texts, expression.items))]
    return [expression.original_text]  # type: ignore[attr-defined]


@cache
def _yaml(code: str, name: str) -> dict[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load((FOLDER / code / f"{name}.yaml").read_text(encoding="utf-8"), loader)


def _lines(code: str, name: str) -> list[str]:
    path = FOLDER / code / f"{name}.txt"
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
