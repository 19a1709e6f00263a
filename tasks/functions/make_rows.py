"""Write data/rows.jsonl.gz: queries, tools and right answers out of the wheel `bfcl-eval`.

Live data, queries that users of the leaderboard sent with the tools they sent them with; and those its
makers wrote, `written`, which train alone gets for their many tools. The package is downloaded and read
as data, never imported: its pins would break ours. Left out and counted: conversations, rows without
a tool, and those whose answer no call with legal arguments gives. Not taken at all: parallel calls,
since a row is answered by one call; and `live_relevance`, where any call counts as right.

    python -m tasks.functions.make_rows
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from supertiny.errors import CallError
from supertiny.io import sha256_file
from supertiny.task import Task, load_task_folder
from tasks.functions.gold import ROWS, WRITTEN, gold_call

PACKAGE = "bfcl-eval==2026.3.23"
SHA256 = "3bb6dfa5f0c68ad403c9ec50b00db2bb3b4cc9b38ab1ff33f48fe30d853d3a0a"
LIVE = ("simple", "multiple", "irrelevance")  # files live_<source>
FILES = {f"live_{source}": source for source in LIVE} | dict.fromkeys(
    ("simple_python", "multiple", "irrelevance"), WRITTEN
)  # their source, by the part of their name that differs
_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}
_FOLDER = "bfcl_eval/data"


def rows(wheel: Path, task: Task, left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    """``{id, source, query, tools}`` and, where a tool is to be called, ``called, accepted``.

    Args:
        left_out: counts the rows that are not given, by reason.
    """
    with zipfile.ZipFile(wheel) as archive:
        for file, source in FILES.items():
            answers = {}
            if not file.endswith("irrelevance"):
                found = lines(archive, f"possible_answer/BFCL_v4_{file}.json")
                answers = {row["id"]: row["ground_truth"] for row in found}
            for entry in lines(archive, f"BFCL_v4_{file}.json"):
                row = _row(entry, source, answers.get(entry["id"]))
                reason = _reason(entry, row, task)
                if reason:
                    left_out[reason] += 1
                else:
                    yield row


def lines(archive: zipfile.ZipFile, name: str) -> list[dict[str, Any]]:
    """The objects of a file of the wheel's data folder."""
    text = archive.read(f"{_FOLDER}/{name}").decode("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def _row(entry: dict[str, Any], source: str, answer: list[dict[str, Any]] | None) -> dict[str, Any]:
    # What stands before the user's own words belongs to what they ask.
    query = " ".join(" ".join(message["content"] for message in entry["question"][0]).split())
    row = {"id": entry["id"], "source": source, "query": query}
    row["tools"] = [
        {**tool, "parameters": schema(tool["parameters"])} for tool in entry["function"]
    ]
    if answer is not None:
        [(row["called"], row["accepted"])] = answer[0].items()
    return row


def tool(raw: dict[str, Any]) -> dict[str, Any]:
    """A tool of the leaderboard as a query brings it here."""
    return {**raw, "parameters": schema(raw["parameters"])}


def schema(raw: dict[str, Any]) -> dict[str, Any]:
    """JSON Schema for the leaderboard's way of writing one; its types are Python's."""
    made: dict[str, Any] = {
        key: raw[key] for key in ("description", "enum", "required", "default") if key in raw
    }
    made["type"] = _TYPES.get(raw["type"], raw["type"])
    if "items" in raw:
        made["items"] = schema(raw["items"])
        if "enum" in made:  # said of the list, meant of what is in it
            made["items"]["enum"] = made.pop("enum")
    if "properties" in raw:
        made["properties"] = {key: schema(part) for key, part in raw["properties"].items()}
    return made


def _reason(entry: dict[str, Any], row: dict[str, Any], task: Task) -> str | None:
    if [message["role"] for message in entry["question"][0]] not in (["user"], ["system", "user"]):
        return "a conversation"
    if not row["tools"]:
        return "no tool"
    try:
        posed = task.of(row)
    except CallError:
        return "a tool that cannot be written in the student's text"
    try:
        call = gold_call(row)
        posed.validate(call)
    except (CallError, IndexError):
        return "an answer that the tool's own schema refuses"
    return None if posed.equivalent(call, call) else "an answer that nothing satisfies"


def download(folder: Path) -> Path:
    """The wheel, in a folder, its hash checked."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(folder)]
    subprocess.run([*command, PACKAGE], check=True)
    wheel = next(folder.glob("*.whl"))
    if sha256_file(wheel) != SHA256:
        raise SystemExit(f"{wheel.name}: found sha256 {sha256_file(wheel)}, expected {SHA256}")
    return wheel


def main() -> None:
    """Download, read, write; no time goes into the file, so that it is the same each time."""
    left_out: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        found = list(
            rows(download(Path(folder)), load_task_folder(Path(__file__).parent), left_out)
        )
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
    ROWS.parent.mkdir(exist_ok=True)
    ROWS.write_bytes(gzip.compress(text.encode("utf-8"), compresslevel=9, mtime=0))
    print(f"{ROWS}: {len(found)} rows; left out: {dict(left_out)}")


if __name__ == "__main__":
    main()
