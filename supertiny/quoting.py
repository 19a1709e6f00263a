"""Values that a query says in so many words, spelt as it does.

A small student copies a name it has never seen one token at a time and sometimes slips: of "sky q
box" it makes "sky box". What an argument quotes can be looked up; and where nothing of the query is
like it, the student made it up.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher

# Less alike than this, a value was not copied from there.
MIN_RATIO = 0.6
_WORD = re.compile(r"\w(?:\S*\w)?")
_MORE_WORDS = 2  # than the value has, that the place it was copied from may have
_MOST_WORDS = 200  # of a query that are looked at: every place in it is compared


def as_said(value: str, query: str, lexicon: frozenset[str] = frozenset()) -> str | None:
    """The words of ``query`` that ``value`` was copied from; None where nothing in it is like it.

    It stays where the query has it, be it in front of a compound (the "nudel" of "nudeltimer"), and
    where all that the query has not are words of ``lexicon`` (a misspelt "kichen" that the student
    corrected).

    Args:
        value: an argument; both texts normalised alike.
        lexicon: words whose spelling is known.
    """
    # A letter or two that follow are an ending that the student dropped, more are another word.
    if re.search(rf"(?<!\w){re.escape(value)}(?!\w\w?(?!\w))", query):
        return value
    place = _nearest(value, query)
    missing = [word for word in _WORD.findall(value) if not _says(query, word)]
    corrected = bool(missing) and lexicon.issuperset(missing)
    return value if place is not None and corrected else place


def places(query: str, longest: int = _MOST_WORDS) -> list[str]:
    """Every run of at most ``longest`` words of a query."""
    spans = [match.span() for match in _WORD.finditer(query)][:_MOST_WORDS]
    return [
        query[start:end]
        for first, (start, _) in enumerate(spans)
        for _, end in spans[first : first + longest]
    ]


def _nearest(value: str, query: str) -> str | None:
    matcher = SequenceMatcher(None, b=value, autojunk=False)  # caches what it knows of b
    best, most = None, MIN_RATIO
    for place in places(query, len(value.split()) + _MORE_WORDS):
        matcher.set_seq1(place)
        # Two upper bounds that cost less rule out nearly all places.
        if matcher.real_quick_ratio() > most and matcher.quick_ratio() > most:
            ratio = matcher.ratio()
            if ratio > most:
                best, most = place, ratio
    return best


def _says(query: str, words: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", query) is not None
