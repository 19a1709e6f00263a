"""Queries with their tools and one right call each, split so that no tool called in test is in train's.

Rows hang together where they have the same tools or nearly so, or one of them is called in both.
Whoever reads a tool in train may meet it again in test as one of several on offer; to keep those apart
too would put half of all rows in one cluster.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from supertiny.calls import NO_CALL, ToolCall
from supertiny.errors import CallError
from supertiny.params.prepare import Prepare
from supertiny.prepare import Row
from supertiny.seeds import Rows
from tasks.functions.renaming import renamed
from tasks.functions.variants import varied

ROWS = Path(__file__).parent / "data" / "rows.jsonl.gz"
WRITTEN = "written"  # the source of rows that the leaderboard's makers wrote
SAME_TOOLS = 0.67  # Jaccard similarity of two sets of tool names from which rows hang together


def load(params: Prepare) -> Rows:
    """The task's source of rows; they carry ``accepted``, what the leaderboard takes for right.

    Rows that nobody sent in belong to train alone, as far as they are about no tool called elsewhere and
    show not nearly the tools of a row there; so do variants of train's rows.
    """
    rows = read_rows()
    live = [row for row in rows if row["source"] != WRITTEN]
    clusters = cluster_names(live)
    for row, cluster in zip(live, clusters, strict=True):
        row["template"] = cluster
    found = Rows(live, clusters, [row["source"] for row in live], params)

    held_out = found.rows["test"] + found.rows["dev"]
    held_out_sets = {_names(row) for row in held_out}
    held_out_calls = {name for row in held_out for name in row["names"]}

    def may_be_train(row: Row) -> bool:
        names = _names(row)
        apart = not any(_nearly_same(names, other) for other in held_out_sets)
        return apart and not held_out_calls.intersection(row["names"])

    train = found.rows["train"]
    train += filter(may_be_train, (row for row in rows if row["source"] == WRITTEN))
    drafts = [variant(train[index], changes) for index, changes in varied(train, params.seed)]
    rng = random.Random(f"{params.seed}:renaming")
    for row in filter(may_be_train, drafts):
        other = renamed(row, rng)
        train.append(other if may_be_train(other) else row)
    return found


def read_rows() -> list[dict[str, Any]]:
    """Every row, in the order of the leaderboard."""
    with gzip.open(ROWS, "rt", encoding="utf-8") as file:
        return [_row(json.loads(line)) for line in file]


def _row(raw: dict[str, Any]) -> dict[str, Any]:
    call = gold_call(raw)
    called = called_tool(raw)
    answer = {"accepted": raw["accepted"]} if "accepted" in raw else {}
    return {
        "query": raw["query"],
        "tools": raw["tools"],
        "call": call.to_json(),
        "source": raw["source"],
        "template": " ".join(sorted(tool["name"] for tool in raw["tools"])),
        "names": [called] if called else [],
        "slices": [raw["source"], _tools_slice(len(raw["tools"]))],
        **answer,
    }


def variant(row: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A row with other tools and perhaps another call; of its own source, so that its share is counted."""
    slices = ["variants", _tools_slice(len(changes["tools"]))]
    changed = {**row, **changes, "source": "variants", "slices": slices}
    if changed["call"] == NO_CALL.to_json():
        del changed["accepted"]
        changed["names"] = []
    return changed


def _tools_slice(count: int) -> str:
    return "tools_1" if count == 1 else "tools_2_to_4" if count <= 4 else "tools_5_or_more"


def gold_call(raw: Mapping[str, Any]) -> ToolCall:
    """The right call to learn: what may be left out is, and of several values the one in the query.

    Raises:
        CallError: what the row accepts is not of the form that the leaderboard's rules can read.
    """
    if "accepted" not in raw:
        return NO_CALL
    schema = next(t for t in raw["tools"] if t["name"] == raw["called"])["parameters"]
    arguments = {
        key: _value(_best(options, raw["query"]), raw["query"])
        for key, options in raw["accepted"].items()
        if key in schema["required"] or "" not in options
    }
    return ToolCall(raw["called"], arguments)


def _best(options: Sequence[Any], query: str) -> Any:
    said = [option for option in options if isinstance(option, str) and option and option in query]
    if said:
        return max(said, key=len)
    return next((option for option in options if option != ""), options[0])


def _value(option: Any, query: str) -> Any:
    """An option as a value: the keys of an object, or of each in a list, have options of their own."""
    if isinstance(option, list):
        return [_object(item, query) if isinstance(item, dict) else item for item in option]
    return _object(option, query) if isinstance(option, dict) else option


def _object(option: Mapping[str, Any], query: str) -> dict[str, Any]:
    if not all(isinstance(options, list) for options in option.values()):
        raise CallError("an object whose keys have no lists of options")
    return {key: _best(options, query) for key, options in option.items() if "" not in options}


def called_tool(raw: Mapping[str, Any]) -> str | None:
    """The tool that a row is about: the one called, or the only one that is not."""
    if "called" in raw:
        return str(raw["called"])
    return raw["tools"][0]["name"] if len(raw["tools"]) == 1 else None


def cluster_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The cluster of each row, named by the first of its tools, sorted."""
    sets = [_names(row) for row in rows]
    parent: dict[Any, Any] = {}

    def root(node: Any) -> Any:
        while parent.setdefault(node, node) != node:
            node = parent[node]
        return node

    for one, other in _alike(sorted(set(sets), key=sorted)):
        parent[root(one)] = root(other)
    for row, tools in zip(rows, sets, strict=True):
        for name in row["names"]:
            parent[root(tools)] = root(name)
    found: dict[Any, str] = {}
    for tools in sorted(set(sets), key=sorted):
        found.setdefault(root(tools), " ".join(sorted(tools)))
    return [found[root(tools)] for tools in sets]


def _alike(sets: Sequence[frozenset[str]]) -> Iterator[tuple[frozenset[str], frozenset[str]]]:
    for at, one in enumerate(sets):
        for other in sets[:at]:
            if _nearly_same(one, other):
                yield one, other


def _names(row: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(tool["name"] for tool in row["tools"])


def _nearly_same(one: frozenset[str], other: frozenset[str]) -> bool:
    return len(one & other) >= SAME_TOOLS * len(one | other)
