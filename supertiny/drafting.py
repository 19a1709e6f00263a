"""Drafts of the next tokens of an answer, which the student checks all in one forward pass.

A pass over five tokens takes little longer than one over one token, and most of a call is easily
guessed: how a tool's alias goes on, what argument follows, the words of a name that the query has.
A draft changes no answer, only the number of passes (speculative decoding, arXiv 2211.17192, with
counts in the place of a draft model, and prompt lookup).
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from supertiny.encoding import Encoded, encode
from supertiny.io import read_json, write_text
from supertiny.task import Task

DRAFT_ROWS = 20_000  # of train: more say the same
ORDER = 3  # tokens of an answer that the next one is guessed by, at most
LONGEST = 12  # tokens of a draft
# A token drafted in vain costs a quarter of the pass that a right one saves (docs/experiments.md).
MIN_CHANCE = 0.3
_MIN_SEEN = 20
_OPENING = 2  # tokens of an answer that are guessed at once by its prompt
_MIN_OPENING = 0.5
_COPIES = 0.6  # of the places where a token of the query goes on as the query does
_SAME = 0.15  # chances that differ by less are not worth a longer context

Ids = tuple[int, ...]


def learn_drafts(source: Path, rows: Sequence[Mapping[str, Any]], task: Task) -> Drafts | None:
    """The drafts of a student in ``source``; none where prompts are long.

    Checks of drafts need the logits of every position: 4 kB a token for each thousand of a
    vocabulary, which is nothing for a command and 150 MB for tools and a query of SmolLM2's.
    """
    if task.prompt != "query":
        return None
    return Drafts.learn(encode(source, rows, task))


class Drafts:
    """What answers of a task are like.

    Args:
        openings: how an answer begins whose prompt has these one or two tokens, and the share of
            such answers that do.
        following: the token after the last ones of an answer, and the share in which it is that one.
        end: ids that end an answer; they are never drafted.
    """

    def __init__(
        self,
        openings: Mapping[Ids, tuple[Ids, float]],
        following: Mapping[Ids, tuple[int, float]],
        end: Iterable[int],
    ) -> None:
        self._openings, self._following, self._end = openings, following, frozenset(end)

    @classmethod
    def learn(cls, rows: Iterable[Encoded]) -> Drafts:
        """Count what the answers of some rows are like."""
        openings: dict[Ids, Counter[Ids]] = defaultdict(Counter)
        following: dict[Ids, Counter[int]] = defaultdict(Counter)
        ends = set()
        for prompt, answer in rows:
            ends.add(answer[-1])
            for key in set(_keys(prompt)):
                openings[key][tuple(answer[:-1][:_OPENING])] += 1
            for at, token in enumerate(answer):
                for context in _contexts(answer[:at]):
                    following[context][token] += 1
        return cls(
            {key: found for key, found in _commonest(openings) if found[1] >= _MIN_OPENING},
            _without_repetition(dict(_commonest(following))),
            sorted(ends),
        )

    def draft(self, prompt: Sequence[int], answer: Sequence[int]) -> list[int]:
        """What may come after the tokens of an answer so far; nothing where nobody can tell."""
        draft: list[int] = []
        chance = 1.0
        if not answer:
            found = [self._openings[key] for key in _keys(prompt) if key in self._openings]
            if found:
                opening, chance = max(found, key=lambda pair: pair[1])
                draft = list(opening)
        after = dict(pairwise(prompt))  # of a token that the prompt repeats, the last place
        while len(draft) < LONGEST:
            token, likely = self._next([*answer, *draft], after)
            chance *= likely
            if chance < MIN_CHANCE or token in self._end:
                break
            draft.append(token)
        return draft

    def _next(self, answer: list[int], after: Mapping[int, int]) -> tuple[int, float]:
        known = (self._following.get(context) for context in _contexts(answer))
        token, chance = next((found for found in known if found), (0, 0.0))
        if answer and chance < _COPIES and answer[-1] in after:
            return after[answer[-1]], _COPIES
        return token, chance

    def write(self, path: Path) -> None:
        """One JSON file; equal drafts give equal bytes."""
        tables = {
            "openings": {_text(key): value for key, value in sorted(self._openings.items())},
            "following": {_text(key): value for key, value in sorted(self._following.items())},
            "end": sorted(self._end),
        }
        write_text(path, json.dumps(tables, separators=(",", ":")) + "\n")

    @classmethod
    def read(cls, path: Path) -> Drafts:
        """What `write` wrote."""
        data = read_json(path)
        return cls(
            {_ids(text): (tuple(ids), chance) for text, (ids, chance) in data["openings"].items()},
            {_ids(text): (token, chance) for text, (token, chance) in data["following"].items()},
            data["end"],
        )


def _keys(prompt: Sequence[int]) -> Iterator[Ids]:
    """What a prompt's answer may be guessed by."""
    yield from zip(prompt)
    yield from pairwise(prompt)


def _contexts(answer: Sequence[int]) -> Iterator[Ids]:
    """The last tokens of an answer so far, the longest context first, then shorter ones."""
    for length in range(min(ORDER, len(answer)), 0, -1):
        yield tuple(answer[-length:])


def _commonest(counts: Mapping[Ids, Counter[Any]]) -> Iterator[tuple[Ids, tuple[Any, float]]]:
    """What is commonest after each key that was seen often enough, and its share."""
    for key, counter in counts.items():
        total = counter.total()
        if total >= _MIN_SEEN:
            # Of equally common ones the smallest, whatever order the rows came in.
            found, count = min(counter.items(), key=lambda item: (-item[1], item[0]))
            yield key, (found, round(count / total, 2))


def _without_repetition(following: Mapping[Ids, tuple[int, float]]) -> dict[Ids, tuple[int, float]]:
    """What is left without the contexts that say what a shorter one says."""
    kept: dict[Ids, tuple[int, float]] = {}
    for context in sorted(following, key=len):
        token, chance = following[context]
        shorter = next((kept[c] for c in _contexts(context[1:]) if c in kept), None)
        if shorter is None or shorter[0] != token or abs(shorter[1] - chance) >= _SAME:
            kept[context] = (token, chance)
    return kept


def _text(key: Ids) -> str:
    return " ".join(map(str, key))


def _ids(text: str) -> Ids:
    return tuple(map(int, text.split()))
