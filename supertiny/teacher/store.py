"""The row store: every answer of a teacher LLM, kept under the hash of what was asked.

A store is one append-only JSONL file, and any number of read-only recordings (``.jsonl`` or
``.jsonl.gz``). A row holds the request, the sample index and the raw response; its key is the hash of
the first two and is checked when it is read. A truncated or filtered response is noted as a failure,
which says that the question was put but is no answer to it.

Several processes may append to one file: each row goes out under a lock, in one piece. A process that
is killed while it writes leaves a line without an end; the next writer cuts it off, a reader drops
and reports it, and its row is asked again. Rows survive kill -9; to survive a power cut they need
`RowStore.close`, which syncs.
"""

from __future__ import annotations

import fcntl
import gzip
import io
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from supertiny.errors import UserError
from supertiny.teacher.messages import (
    Ask,
    Response,
    ask_key,
    canonical_json,
    unusable_reason,
)

_BLOCK = 1 << 16


class RowStore:
    """Answers and noted failures by key, from recordings and from one live file.

    Args:
        live: the file that new rows are appended to; None for a store that is only read.
        recordings: files that are never written; where two hold the same key, the first counts.

    Raises:
        UserError: a recording is missing or damaged. A damaged line of the live file is no error:
            it is left out and described in `problems`.
    """

    def __init__(self, live: Path | None, recordings: Sequence[Path] = ()) -> None:
        self.live = live
        self.recordings = tuple(recordings)
        self.problems: list[str] = []
        self._answers: dict[str, Response] = {}
        self._failures: dict[str, str] = {}
        self._file: io.FileIO | None = None
        for path in self.recordings:
            for row in iter_recording(path):
                self._remember(row)
        if live is not None and live.exists():
            for row in iter_live(live, self.problems):
                self._remember(row)

    def __len__(self) -> int:
        return len(self._answers)

    def answer(self, key: str) -> Response | None:
        """The raw response to a question, if it was answered."""
        return self._answers.get(key)

    def failure(self, key: str) -> str | None:
        """Why a question that was put has no answer: ``truncated`` or ``filtered``."""
        return self._failures.get(key)

    def add(self, ask: Ask, response: Response) -> None:
        """Append an answer.

        Raises:
            ValueError: the response is truncated, filtered or no chat completion.
        """
        reason = unusable_reason(response)
        if reason is not None:
            raise ValueError(f"a {reason} response is no answer")
        self._append({**_question(ask), "response": response})

    def note_failure(self, ask: Ask, reason: str) -> None:
        """Append that the model gave no usable answer; a later live run asks again."""
        self._append({**_question(ask), "failure": reason})

    def close(self) -> None:
        """Bring every row to the disk and let go of the file."""
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None

    def _append(self, row: dict[str, Any]) -> None:
        if self.live is None:
            raise ValueError("this store has no live file")
        if self._file is None:
            self.live.parent.mkdir(parents=True, exist_ok=True)
            self._file = io.FileIO(self.live, "a+")
        line = canonical_json(row) + b"\n"
        descriptor = self._file.fileno()
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            self._cut_torn_line(descriptor)
            while line:  # a short write leaves a rest, for example on a full disk
                line = line[os.write(descriptor, line) :]
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        self._remember(row)

    def _cut_torn_line(self, descriptor: int) -> None:
        """Called under the lock, when no other writer can be in the middle of a line."""
        size = os.fstat(descriptor).st_size
        if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
            return
        end = size
        while end > 0:
            start = max(0, end - _BLOCK)
            newline = os.pread(descriptor, end - start, start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        os.ftruncate(descriptor, end)
        self.problems.append(f"{self.live}: cut off a torn last line of {size - end} bytes")

    def _remember(self, row: dict[str, Any]) -> None:
        key = row["key"]
        if "failure" in row:
            self._failures.setdefault(key, row["failure"])
        else:
            self._answers.setdefault(key, row["response"])


def iter_recording(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a recording, each checked.

    Raises:
        UserError: the file is missing, or one of its rows is damaged (line named).
    """
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            for number, line in enumerate(file, 1):
                row, problem = _read_row(line)
                if row is None:
                    raise UserError(
                        f"{path}, line {number}: {problem}; a recording is never edited: "
                        "bring it back with git checkout"
                    )
                yield row
    except FileNotFoundError:
        raise UserError(f"{path}: recording not found; `git pull`, or record it anew") from None
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(
            f"{path}: damaged recording ({error}); bring it back with git checkout"
        ) from None


def iter_live(path: Path, problems: list[str]) -> Iterator[dict[str, Any]]:
    """The rows of a live file; what is wrong with a line that is left out goes to ``problems``."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                problems.append(
                    f"{path}, line {number}: torn last line dropped; its row will be asked again"
                )
                continue
            row, problem = _read_row(line)
            if row is None:
                problems.append(f"{path}, line {number}: {problem}; dropped, will be asked again")
            else:
                yield row


def write_recording(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write rows as a gzip'd recording, sorted by key, the same bytes for the same rows; their count.

    An answer stands before a failure of the same key, and each key once.
    """
    chosen: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["key"] not in chosen or ("failure" in chosen[row["key"]] and "response" in row):
            chosen[row["key"]] = row
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with (
        partial.open("wb") as raw,
        # No name and no time in the header: they would change the bytes.
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as file,
    ):
        for key in sorted(chosen):
            file.write(canonical_json(chosen[key]) + b"\n")
    partial.replace(path)
    return len(chosen)


def _question(ask: Ask) -> dict[str, Any]:
    return {"key": ask.key, "request": ask.request, "sample": ask.sample}


def _read_row(line: bytes) -> tuple[dict[str, Any] | None, str]:
    """A checked row, or None and what is wrong with the line."""
    try:
        row = orjson.loads(line)
        if row["key"] != ask_key(row["request"], row["sample"]):
            return None, "the key is not the hash of the request"
        if not isinstance(row.get("failure"), str) and unusable_reason(row["response"]) is not None:
            return None, "holds a response that is no answer"
    except (ValueError, KeyError, TypeError) as error:
        return None, f"no row of a store ({type(error).__name__}: {error})"
    return row, ""
