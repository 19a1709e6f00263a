"""Texts with what people on average felt about them, split by the document they are from.

Tweets and film snippets come without a document: each is one of its own, and near-duplicates across
splits are refused as everywhere.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from supertiny.params.prepare import Prepare
from supertiny.seeds import Rows
from tasks.feedback import ratings

TEXTS = Path(__file__).parent / "data" / "texts.jsonl.gz"


def load(params: Prepare) -> Rows:
    """The task's source of rows; they carry the ``ratings`` too, for the task's own metrics."""
    texts = read_texts()
    rows = [
        {
            "query": text["text"],
            "call": ratings.call_of(ratings.mean(text["ratings"])).to_json(),
            "source": text["source"],
            "template": text["document"],
            "names": [],
            "slices": [text["source"]],
            "ratings": text["ratings"],
        }
        for text in texts
    ]
    clusters = [text["document"] or text["text"] for text in texts]
    return Rows(rows, clusters, [text["source"] for text in texts], params)


def read_texts() -> list[dict[str, Any]]:
    """``{source, document, text, ratings}`` of every text, in the order of the package."""
    with gzip.open(TEXTS, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]
