"""How a sentence is said and written: punctuation, casing, politeness, typing slips."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.home.languages.agreement import Noun

_POLITE_FRONT = (
    "please", "can you", "could you", "would you", "hey", "ok", "could you please", "i want you to",
    "i'd like you to",
)  # fmt: skip
_POLITE_BACK = ("please", "for me", "thanks", "thank you", "now")
# Around any sentence, a question too: wake words, hesitation, what people put before and after.
_OPENERS = (
    "um", "uh", "er", "so", "hey", "hi", "okay", "ok so", "alright", "right", "well", "oh", "oh and",
    "also", "and", "yo", "hey there", "hello", "um hey", "hmm", "hey google", "ok google", "alexa",
    "siri", "hey siri", "computer", "hey jarvis", "ok nabu", "hey nabu", "assistant", "quick one",
    "listen", "actually", "one more thing", "sorry", "just",
)  # fmt: skip
_CLOSERS = (
    "please", "pls", "thanks", "thx", "thank you", "cheers", "would you", "will you", "if you can",
    "if possible", "when you get a chance", "real quick", "right now", "asap", "ok", "okay",
    "for me please", "thank you very much", "mate", "buddy",
)  # fmt: skip
_VALUE = "\0"  # marks where a value begins, while a sentence is put together
_QUESTION = re.compile(r"(what|how|is|are|who|where|which|do|tell|whats|hows)\b")
_NEIGHBOURS = {
    "a": "sq", "b": "vn", "c": "xv", "d": "sf", "e": "wr", "f": "dg", "g": "fh", "h": "gj", "i": "uo",
    "j": "hk", "k": "jl", "l": "k", "m": "n", "n": "bm", "o": "ip", "p": "o", "q": "w", "r": "et",
    "s": "ad", "t": "ry", "u": "yi", "v": "cb", "w": "qe", "x": "zc", "y": "tu", "z": "x",
}  # fmt: skip


@dataclass(frozen=True)
class Manner:
    """How a language is spoken to a home: what is polite, what stands around a sentence, how a
    question begins, and the word for %."""

    polite_front: tuple[str, ...]
    polite_back: tuple[str, ...]
    openers: tuple[str, ...]
    closers: tuple[str, ...]
    question: re.Pattern[str]
    percent: str


ENGLISH = Manner(_POLITE_FRONT, _POLITE_BACK, _OPENERS, _CLOSERS, _QUESTION, "percent")


@dataclass(frozen=True)
class Piece:
    """Text of a sentence; a value is what a slot takes and is not misspelt, since a misspelt name has
    no answer that could be checked, unless it is a word for which everybody knows the spelling."""

    text: str
    value: bool = False
    familiar: bool = False
    noun: Noun | None = None  # of a value whose articles depend on it


def join(pieces: list[Piece], percent: str = "percent") -> str:
    """The pieces as one clean line."""
    text = "".join(_VALUE + piece.text if piece.value else piece.text for piece in pieces)
    text = " ".join(text.split())
    text = re.sub(r"(?<=[a-z]) ?%", f" {percent}", text)
    # "the emma's lamp" is not English; a possessive is its own determiner.
    text = re.sub(rf"\b(?:the|my|our) {_VALUE}(?=[a-z]+'s )", "", text)
    return text.replace(_VALUE, "")


def speak(
    pieces: list[Piece],
    rng: random.Random,
    *,
    noisy: bool,
    polite: bool,
    chatty: bool,
    manner: Manner = ENGLISH,
) -> str:
    """The sentence as somebody says or types it.

    Args:
        noisy: with typing slips and odd casing.
        polite: sometimes with a "please" or "could you".
        chatty: sometimes with a wake word, a filler or a farewell around it.
    """
    first, last = _outer_values(pieces)
    if noisy:
        pieces = _misspell(pieces, rng)
    text = join(pieces, manner.percent)
    question = manner.question.match(text) is not None
    if polite and rng.random() < 0.15 and not first and not question:
        text = f"{rng.choice(manner.polite_front)} {text}"
    if polite and rng.random() < 0.1 and not last:
        text = f"{text} {rng.choice(manner.polite_back)}"
    if chatty and rng.random() < 0.1 and not first:
        text = f"{rng.choice(manner.openers)}{rng.choice(('', ','))} {text}"
    if chatty and rng.random() < 0.08 and not last:
        text = f"{text} {rng.choice(manner.closers)}"
    if rng.random() < 0.2:
        text += "?" if question else rng.choice(".!.")
    return _case(text, rng, noisy)


def _outer_values(pieces: list[Piece]) -> tuple[bool, bool]:
    # Words added next to a free value would become part of it ("announce dinner is ready please").
    solid = [piece for piece in pieces if piece.text.strip()]
    return (solid[0].value, solid[-1].value) if solid else (True, True)


def _case(text: str, rng: random.Random, noisy: bool) -> str:
    draw = rng.random()
    if noisy and draw < 0.3:
        # "ß" has no capital: what is copied from "FUSSBODEN" is another name.
        return text.upper() if draw < 0.15 and "ß" not in text else text.title()
    return text[:1].upper() + text[1:] if draw < 0.5 else text


def _misspell(pieces: list[Piece], rng: random.Random) -> list[Piece]:
    places = [
        (index, match.start(), match.end())
        for index, piece in enumerate(pieces)
        if piece.familiar or not piece.value
        for match in re.finditer(r"[a-zß-öø-ÿœ]{4,}", piece.text)
    ]
    out = list(pieces)
    # One slip in a short sentence, sometimes two in a longer one: what stays can still be read.
    slips = 2 if len(places) >= 4 and rng.random() < 0.3 else 1
    for index, start, end in rng.sample(places, min(len(places), slips)):
        text = out[index].text
        # An earlier slip in the same piece may have moved the word by one letter; that is a slip too.
        slip = _slip(text[start:end], rng)
        out[index] = replace(out[index], text=text[:start] + slip + text[end:])
    return out


def _slip(word: str, rng: random.Random) -> str:
    at = rng.randrange(1, max(2, len(word) - 1))
    kind = rng.randrange(4)
    if kind == 0:
        return word[:at] + word[at + 1 :]
    if kind == 1:
        return word[:at] + word[at : at + 1] * 2 + word[at + 1 :]
    if kind == 2:
        return word[:at] + word[at + 1 : at + 2] + word[at : at + 1] + word[at + 2 :]
    wrong = rng.choice(_NEIGHBOURS.get(word[at : at + 1], "e"))
    return word[:at] + wrong + word[at + 1 :]
