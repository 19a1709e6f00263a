"""Articles, prepositions and endings that agree with the noun they stand at.

The package's grammars are made for listening: where people say "im Keller", they accept any article
and any preposition. A sentence drawn from them is put right before it is a command, with what the
name lists know about their nouns.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tasks.home.noise import Piece

_FIRST = 0xE000  # private use: one letter for each value, while the words around it are put right
VALUE = "[\ue000-\uf8ff]"
_GENDERS = {
    "der": "m", "die": "f", "das": "n", "die+": "p",
    "le": "m", "la": "f", "les": "p", "les-f": "q",
    "el": "m", "los": "p", "las": "q",
}  # fmt: skip
ONE = ("1", "ein", "eine", "un", "une", "una", "uno", "1,5", "0,5")
PLURALS = ("p", "q")  # Spanish and French tell a feminine plural, "q", from a masculine one


@dataclass(frozen=True)
class Noun:
    """Gender (m, f, n; plurals p and q; "" for a proper name, which takes no article; # for a
    number), the text itself, its plural where it is known, the preposition one is there with where
    that is unusual, and whether it is a room, a floor or a place people are at."""

    gender: str
    text: str
    plural: str = ""
    at: str = ""
    place: bool = False


class Refused(Exception):
    """A sentence that cannot be put right."""


Correct = Callable[[str, "Nouns", random.Random], str]


@dataclass(frozen=True)
class Nouns:
    """What a sentence is about: nouns of the templates by their text, values by their letter."""

    common: Mapping[str, Noun]
    values: Mapping[str, Noun]
    pattern: str

    def units(self, text: str, units: Mapping[str, str]) -> str:
        """Units in the form their number takes, "1 Stunde" and "2 Stunden": plural by singular."""
        words = "|".join(sorted({*units, *units.values()}, key=len, reverse=True))

        def put(match: re.Match[str]) -> str:
            number = self.values.get(match[1])
            if number is None or number.gender != "#":
                return match[0]
            one = units.get(match[3], match[3])
            many = next(plural for plural, single in units.items() if single == one)
            return match[1] + match[2] + (one if number.text in ONE else many)

        return re.sub(rf"({VALUE})( ?)({words})\b", put, text)

    @staticmethod
    def is_late(match: re.Match[str]) -> bool:
        """Whether a place stands after more than a verb: "nettoie la cuisine" acts on the place,
        "éteins la lumière cuisine" lacks the preposition."""
        return len(match.string[: match.start()].split()) > 1

    @staticmethod
    def wants_article(match: re.Match[str], rng: random.Random) -> bool:
        """Whether a name gets an article where the grammar has none; people leave some out, at the
        beginning of a sentence more often."""
        return rng.random() > (0.1 if match.start() else 0.5)

    def __getitem__(self, text: str) -> Noun:
        return self.values.get(text) or self.common[text.lower()]


def read_noun(entry: str) -> Noun:
    """A noun as the lists have it, such as ``auf:die Terrasse``: preposition, article, name."""
    at, colon, rest = entry.partition(":")
    if not colon:
        at, rest = "", entry
    article, space, text = rest.partition(" ")
    if not space or article not in _GENDERS:
        return Noun("", rest, at=at)
    return Noun(_GENDERS[article], text, at=at)


def common_nouns(entries: list[str]) -> tuple[dict[str, Noun], str]:
    """Nouns by their lower-case text, and the pattern of all; ``das Licht = Lichter`` is two."""
    found: dict[str, Noun] = {}
    for entry in entries:
        one, _, plural = entry.partition(" = ")
        noun = read_noun(one)
        gender = "q" if noun.gender == "f" else "p"
        found[noun.text.lower()] = Noun(noun.gender, noun.text, plural)
        found.setdefault(plural.lower(), Noun(gender, plural, plural))
    words = sorted((re.escape(word) for word in found), key=len, reverse=True)
    return found, rf"{VALUE}|\b(?:{'|'.join(words)})\b"


def agree(
    pieces: list[Piece], correct: Correct, common: tuple[dict[str, Noun], str], rng: random.Random
) -> list[Piece] | None:
    """The pieces with the words between the values put right, or None where that cannot be."""
    letters = {chr(_FIRST + index): piece for index, piece in enumerate(pieces) if piece.value}
    text = "".join(
        chr(_FIRST + index) if piece.value else piece.text for index, piece in enumerate(pieces)
    )
    values = {letter: piece.noun for letter, piece in letters.items() if piece.noun is not None}
    try:
        text = correct(" ".join(text.split()), Nouns(common[0], values, common[1]), rng)
    except Refused:
        return None
    parts = re.split(f"({VALUE})", text)
    return [letters[part] if part in letters else Piece(part) for part in parts if part]
