"""Rows as token ids of the student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from supertiny.calls import call_from_json
from supertiny.io import read_json
from supertiny.task import Task

Encoded = tuple[list[int], list[int]]  # of a prompt and of its answer, start and end token included


def encode(source: Path, rows: Sequence[Mapping[str, Any]], task: Task) -> list[Encoded]:
    """Prompt and gold answer of each row as the student reads and writes them."""
    config = read_json(source / "config.json")
    end = config["eos_token_id"]
    end = min(end) if isinstance(end, list) else end
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))

    def ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    return [
        (
            [config["bos_token_id"], *ids(posed.render_prompt(row["query"]))],
            [*ids(posed.render_call(call_from_json(row["call"]))), end],
        )
        for row, posed in zip(rows, map(task.of, rows), strict=True)
    ]
