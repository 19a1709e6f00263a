"""Reading query files: rows of an input, its gold call, and where it is from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from supertiny.calls import call_from_json
from supertiny.errors import CallError, UserError
from supertiny.io import iter_jsonl
from supertiny.task import Task

_KEYS = {"id": str, "query": str, "call": dict, "source": str, "slices": list}


def read_queries(path: Path | str, task: Task) -> list[dict[str, Any]]:
    """Rows of a query file, each with a legal gold call.

    Raises:
        UserError: the file is missing or empty; a row lacks a key, has one of the wrong type, an id
            used before, or a gold call that the task's tools do not allow (line named).
    """
    rows, ids = [], set()
    for number, row in iter_jsonl(path):
        problem = _row_problem(row, task)
        if problem is None and row["id"] in ids:
            problem = f"id {row['id']!r} is used twice"
        if problem is not None:
            raise UserError(f"{path}, line {number}: {problem}; run `dvc repro prepare`")
        ids.add(row["id"])
        rows.append(row)
    if not rows:
        raise UserError(f"{path}: no rows; expected at least one query, run `dvc repro prepare`")
    return rows


def _row_problem(row: dict[str, Any], task: Task) -> str | None:
    for key, kind in _KEYS.items():
        if not isinstance(row.get(key), kind):
            return f"{key}: found {row.get(key)!r}, expected {kind.__name__}"
    try:
        posed = task.of(row)
    except CallError as error:
        return str(error)
    try:
        posed.validate(call_from_json(row["call"]))
    except CallError as error:
        return f"gold call: {error}"
    return None
