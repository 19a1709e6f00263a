"""Values that a query says in so many words, spelt as it does.

A small student copies a name it has never seen one token at a time and sometimes slips: of "sky q
box" it makes "sky box". What an argument quotes can be looked up.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher

# Less alike than this, the student meant something else, and is left alone.
MIN_RATIO = 0.6
_WORD = re.compile(r"\w(?:\S*\w)?")
_MORE_WORDS = 2  # than the value has, that the place it was copied from may have
_MOST_WORDS = 200  # of a query that are looked at: every place in it is compared


def as_said(value: str, query: str, lexicon: frozenset[str] = frozenset()) -> str:
    """The words of ``query`` that ``value`` was copied from, or ``value`` itself.

    It stays where the query has it, be it in front of a compound (the "nudel" of "nudeltimer"),
    where all that the query has not are words of ``lexicon`` (a misspelt "kichen" that the student
    corrected), and where nothing is like it.

    Args:
        value: an argument; both texts normalised alike.
        lexicon: words whose spelling is known.
    """
    if re.search(rf"(?<!\w){re.escape(value)}", query):
        return value
    missing = [word for word in _WORD.findall(value) if not _says(query, word)]
    if missing and lexicon.issuperset(missing):
        return value
    spans = [match.span() for match in _WORD.finditer(query)][:_MOST_WORDS]
    longest = len(value.split()) + _MORE_WORDS
    places = [
        query[start:end]
        for first, (start, _) in enumerate(spans)
        for _, end in spans[first : first + longest]
    ]
    matcher = SequenceMatcher(None, b=value, autojunk=False)  # caches what it knows of b
    best, most = value, MIN_RATIO
    for place in places:
        matcher.set_seq1(place)
        # Two upper bounds that cost less rule out nearly all places.
        if matcher.real_quick_ratio() > most and matcher.quick_ratio() > most:
            ratio = matcher.ratio()
            if ratio > most:
                best, most = place, ratio
    return best


def _says(query: str, words: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", query) is not None
