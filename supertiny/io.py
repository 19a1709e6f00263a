"""Canonical, atomic files: the same content always gives the same bytes.

A reader never sees a half-written file: content goes to a sibling first and is renamed into place.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from supertiny.errors import UserError


def write_text(path: Path | str, text: str) -> None:
    """Write ``text`` as UTF-8, atomically, with mode 0644."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.chmod(0o644)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """An empty sibling to fill, which takes the place of ``folder`` once the block ends well.

    Its files get mode 0644. A killed run leaves the old folder or none, never half of the new one.
    """
    partial, old = (folder.with_name(f".{folder.name}.{suffix}") for suffix in ("partial", "old"))
    for left in (partial, old):  # by a killed run
        shutil.rmtree(left, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    for file in partial.rglob("*"):
        if file.is_file():
            file.chmod(0o644)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def write_json(path: Path | str, value: Any) -> None:
    """Write JSON with sorted keys, two spaces of indent and a final newline."""
    text = json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True, allow_nan=False)
    write_text(path, text + "\n")


def write_jsonl(path: Path | str, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, keys sorted, rows in the order given."""
    dump = json.JSONEncoder(ensure_ascii=False, sort_keys=True, allow_nan=False).encode
    write_text(path, "".join(dump(row) + "\n" for row in rows))


def write_tsv(path: Path | str, header: list[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a tab-separated table; cells must hold no tab and no newline."""
    lines = ["\t".join(header)]
    lines += ["\t".join(str(cell) for cell in row) for row in rows]
    write_text(path, "\n".join(lines) + "\n")


def read_tsv(path: Path | str) -> list[dict[str, str]]:
    """Rows of a tab-separated table with a header line.

    Raises:
        UserError: the file is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: file not found; run `dvc repro` or `dvc pull` first")
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises:
        UserError: the file is missing or is no JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: file not found; run `dvc repro` or `dvc pull` first") from None
    except ValueError as error:
        raise UserError(
            f"{path}: not valid JSON ({error}); restore it with `dvc checkout`"
        ) from None


def iter_jsonl(path: Path | str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ``(line number from 1, object)`` of a JSONL file; blank lines are passed over.

    Raises:
        UserError: the file is missing, or a line is no JSON object (its number is named).
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: file not found; run `dvc repro` or `dvc pull` first")
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UserError(f"{path}, line {number}: not valid JSON ({error})") from None
            if not isinstance(row, dict):
                raise UserError(
                    f"{path}, line {number}: expected a JSON object, found {type(row).__name__}"
                )
            yield number, row


def read_jsonl(path: Path | str) -> list[dict[str, Any]]:
    """All objects of a JSONL file; see `iter_jsonl` for the errors."""
    return [row for _, row in iter_jsonl(path)]


def sha256_file(path: Path | str) -> str:
    """Hex SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
