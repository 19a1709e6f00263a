"""Train queries with other tools on offer, since the rows show too few choices.

The leaderboard's rows teach a shortcut: most train queries with a single tool on offer are answered by
no call. Here a query's tool stands alone, among tools of its row or of other rows, and is taken away.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from supertiny.calls import NO_CALL
from supertiny.prepare import Row

CALLED = 2  # variants of a row with a call, its tool among those on offer; one more is without it
_MOST_OTHERS = 4
_NAME_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_COMMON = {"api", "by", "execute", "find", "for", "get", "id", "list", "search", "set", "the"}


def varied(rows: Sequence[Mapping[str, Any]], seed: int) -> Iterator[tuple[int, Row]]:
    """Variants of rows with a call: the row's index, and the variant's tools and call.

    Tools come from these rows alone.
    """
    offered = {tool["name"]: tool for row in rows for tool in row["tools"]}
    rng = random.Random(f"{seed}:variants")
    for index, row in enumerate(rows):
        called = row["call"]["name"]
        if called == NO_CALL.name:
            continue
        known = offered | {tool["name"]: tool for tool in row["tools"]}
        for _ in range(CALLED):
            names = [called, *_others(rng, row, known.keys() - {called})]
            yield index, {"tools": _shuffled(rng, known, names), "call": row["call"]}
        # A tool that shares a word of its name with the missing one may do its job.
        unlike = {name for name in known.keys() - {called} if not _words(name) & _words(called)}
        if names := _others(rng, row, unlike):
            yield index, {"tools": _shuffled(rng, known, names), "call": NO_CALL.to_json()}


def _others(rng: random.Random, row: Mapping[str, Any], allowed: set[str]) -> list[str]:
    """At most `_MOST_OTHERS` of the allowed names, rather few; each that the row offers by even odds."""
    own = [tool["name"] for tool in row["tools"] if tool["name"] in allowed]
    kept = [name for name in own if rng.random() < 0.5][:_MOST_OTHERS]
    strange = sorted(allowed - set(own))
    most = min(_MOST_OTHERS - len(kept), len(strange))
    return kept + rng.sample(strange, rng.randint(0, rng.randint(0, most)))


def _shuffled(rng: random.Random, known: Mapping[str, Row], names: list[str]) -> list[Row]:
    return [known[name] for name in rng.sample(names, len(names))]


@cache
def _words(name: str) -> frozenset[str]:
    return frozenset(word.lower() for word in _NAME_WORD.findall(name)) - _COMMON
