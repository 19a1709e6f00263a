"""What sentiment work reports, for each source of texts: correlation with people, and F1.

Beside each score of the answers stands that of one person: one rating of the row, drawn by its id,
against the mean of the others' ratings. A person knows no row's mean; to be above them is possible.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from supertiny.calls import call_from_json
from tasks.feedback import ratings

CLASSES = ("negative", "neutral", "positive")


def extra_metrics(
    rows: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """``<source>_correlation`` and ``<source>_f1``, and both as ``<source>_rater_...``.

    Correlation is Pearson's with the mean rating, 0 where all answers are equal; F1 is the mean of
    the three classes' (macro). An answer that is no legal call counts as the rating 0, neutral.
    """
    groups: dict[str, list[tuple[Any, Any]]] = defaultdict(list)
    for row, prediction in zip(rows, predictions, strict=True):
        groups[row["source"]].append((row, prediction))
    values: dict[str, float] = {}
    for source, pairs in sorted(groups.items()):
        answers = [_rating(prediction) for _, prediction in pairs]
        means = [ratings.mean(row["ratings"]) for row, _ in pairs]
        persons, others = zip(*(one_rater(row) for row, _ in pairs), strict=True)
        values |= {
            f"{source}_correlation": correlation(answers, means),
            f"{source}_f1": macro_f1(answers, means),
            f"{source}_rater_correlation": correlation(persons, others),
            f"{source}_rater_f1": macro_f1(persons, others),
        }
    return values


def one_rater(row: Mapping[str, Any]) -> tuple[float, float]:
    """One person's rating of a row, and the mean rating of the others."""
    counts = list(row["ratings"])
    rating = random.Random(row["id"]).choices(ratings.VALUES, counts)[0]
    counts[rating - ratings.VALUES.start] -= 1
    return float(rating), ratings.mean(counts)


def correlation(left: Sequence[float], right: Sequence[float]) -> float:
    """Pearson's r; 0 where one side does not vary."""
    if len(set(left)) < 2 or len(set(right)) < 2:
        return 0.0
    return float(np.corrcoef(left, right)[0, 1])


def macro_f1(found: Sequence[float], meant: Sequence[float]) -> float:
    """The mean F1 of the classes that ratings fall into; a class neither found nor meant is left out."""
    pairs = [
        (ratings.sentiment(f), ratings.sentiment(m)) for f, m in zip(found, meant, strict=True)
    ]
    scores = []
    for label in CLASSES:
        hits = sum(pair == (label, label) for pair in pairs)
        named = sum((f == label) + (m == label) for f, m in pairs)
        if named:
            scores.append(2 * hits / named)
    return sum(scores) / len(scores)


def _rating(prediction: Mapping[str, Any]) -> float:
    found = prediction["predicted"]
    if found is None or found["name"] != "rate":
        return 0.0
    return ratings.rating_of(call_from_json(found))
