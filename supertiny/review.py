"""What a person decided after reading rewrites; it lies in the task's folder, since nobody can make it
again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from supertiny.io import read_jsonl
from supertiny.task import Task

Row = dict[str, Any]
# Decisions on the rewrites of test; which rewrites of train are right: of some that were drawn at random,
# and of those that verifiers doubted.
REVIEW, READ, DOUBTED = "review.jsonl", "read.jsonl", "doubted.jsonl"


def decisions(task: Task, name: str) -> list[Row]:
    """The rows of one of these files; none where nobody has read anything yet.

    Raises:
        UserError: the file is damaged.
    """
    path = task.folder / name
    return read_jsonl(path) if path.is_file() else []


def kept_texts(review: Iterable[Row]) -> dict[tuple[str, str], str]:
    """What each rewrite that was kept became, by its `read_key`."""
    return {read_key(d): d["query"] if "query" in d else d["text"] for d in review if d["keep"]}


def read_key(row: Row) -> tuple[str, str]:
    """The id and text of a rewrite: one that was made anew under the same id has not been read."""
    return row["id"], row["text"]


def undecided(candidates: Sequence[Row], review: Sequence[Row]) -> list[str]:
    """Ids of candidates that nobody has decided on."""
    decided = {read_key(decision) for decision in review}
    return [row["id"] for row in candidates if read_key(row) not in decided]
