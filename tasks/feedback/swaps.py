"""What VADER knows, as train rows: its rated words, and tweets in which such words are exchanged.

On tweets VADER's score agrees with the mean rating better than one of the people does, and what the
few thousand rated tweets cannot teach is its vocabulary. A tweet with other words has the rating that
people gave it, moved by as much as VADER's score moved: what VADER does not see in it stays right.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

# The slope of the mean rating over VADER's score in [-1, 1], by least squares on the train tweets.
RATING_PER_SCORE = 2.35
# A word goes where one with its ending was, which keeps most sentences grammatical.
_ENDINGS = ("ing", "ed", "ly", "s")
_WORD = re.compile(r"[A-Za-z]+")


def rated_words() -> dict[str, float]:
    """The mean rating in [-4, 4] of each word of VADER's lexicon; smileys and abbreviations in signs
    are left out."""
    lexicon: dict[str, float] = SentimentIntensityAnalyzer().lexicon
    return {word: rating for word, rating in lexicon.items() if _WORD.fullmatch(word)}


def words_in(texts: Iterable[str]) -> list[str]:
    """Those of VADER's words that occur in the texts, sorted; over half of its lexicon is in none here."""
    found = {match[0].lower() for text in texts for match in _WORD.finditer(text)}
    return sorted(found & rated_words().keys())


def swapped(
    texts: Sequence[tuple[str, float]], words: Sequence[str], each: int, seed: int
) -> Iterator[tuple[str, float]]:
    """Up to ``each`` variants of every text and mean rating, with theirs.

    A variant has between one and all of the text's rated words exchanged for some of ``words``; a
    text without any has no variant.
    """
    vader = SentimentIntensityAnalyzer()
    alike = defaultdict(list)
    for word in words:
        alike[_ending(word)].append(word)
    rng = random.Random(f"{seed}:swaps")
    for text, rating in texts:
        found = [match for match in _WORD.finditer(text) if match[0].lower() in vader.lexicon]
        score = _score(vader, text)
        for _ in range(each if found else 0):
            variant = text
            picked = rng.sample(found, rng.randint(1, len(found)))
            # From the end, so that the places of those before it still hold.
            for match in sorted(picked, key=re.Match.start, reverse=True):
                word = _cased(rng.choice(alike[_ending(match[0].lower())]), match[0])
                variant = variant[: match.start()] + word + variant[match.end() :]
            moved = RATING_PER_SCORE * (_score(vader, variant) - score)
            yield variant, max(-4.0, min(4.0, rating + moved))


def _score(vader: SentimentIntensityAnalyzer, text: str) -> float:
    return float(vader.polarity_scores(text)["compound"])


def _ending(word: str) -> str:
    return next((ending for ending in _ENDINGS if word.endswith(ending)), "")


def _cased(word: str, like: str) -> str:
    if len(like) > 1 and like.isupper():
        return word.upper()
    return word.capitalize() if like[0].isupper() else word
