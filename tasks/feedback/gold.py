"""Texts with what people on average felt about them, split by the document they are from.

Tweets and film snippets come without a document: each is one of its own, and near-duplicates across
splits are refused as everywhere. To train alone belong VADER's rated words, and tweets of train with
such words exchanged.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from supertiny.params.prepare import Prepare
from supertiny.prepare import Row
from supertiny.seeds import Rows
from tasks.feedback import ratings
from tasks.feedback.swaps import rated_words, swapped, words_in

TEXTS = Path(__file__).parent / "data" / "texts.jsonl.gz"
VARIANTS = 4  # of a tweet


def load(params: Prepare) -> Rows:
    """The task's source of rows; those of texts carry the ``ratings`` too, for the task's own metrics."""
    texts = read_texts()
    rows = [
        {
            **_row(text["text"], ratings.mean(text["ratings"]), text["source"]),
            "template": text["document"],
            "ratings": text["ratings"],
        }
        for text in texts
    ]
    clusters = [text["document"] or text["text"] for text in texts]
    found = Rows(rows, clusters, [text["source"] for text in texts], params)

    train = found.rows["train"]
    tweets = [
        (row["query"], ratings.mean(row["ratings"])) for row in train if row["source"] == "tweets"
    ]
    words = words_in(row["query"] for row in train)
    made = [
        _row(variant, rating, "swaps")
        for variant, rating in swapped(tweets, words, VARIANTS, params.seed)
    ]
    train += made + [_row(word, rating, "words") for word, rating in rated_words().items()]
    return found


def _row(query: str, rating: float, source: str) -> Row:
    call = ratings.call_of(rating).to_json()
    return {
        "query": query,
        "call": call,
        "source": source,
        "template": "",
        "names": [],
        "slices": [source],
    }


def read_texts() -> list[dict[str, Any]]:
    """``{source, document, text, ratings}`` of every text, in the order of the package."""
    with gzip.open(TEXTS, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]
