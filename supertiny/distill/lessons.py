"""Gold answers and captured ones in the student's vocabulary, which may be a cut one of the teacher's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from supertiny.distill.logits import OWN, Row, capture_of, read
from supertiny.distill.loss import DROPPED, map_teacher
from supertiny.errors import UserError
from supertiny.io import read_json
from supertiny.packing import IGNORED
from supertiny.prune.vocabulary import id_map
from supertiny.sft import encode_row
from supertiny.task import Task

KEPT_FILE = "kept_tokens.json"  # in a pruned model's folder: old ids, in the order of the new ones
_SAFE: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


@dataclass(frozen=True)
class Lesson:
    """One answer to learn, all in the student's ids.

    ``labels`` ignore the prompt. ``teacher_ids`` (`DROPPED` where the student has no such token)
    and ``teacher_log_probs`` have the shape (answer tokens, k); all are `DROPPED` in a row that was
    not captured. ``gold`` is False for an answer of the teacher's own that is not the gold one.
    """

    input_ids: list[int]
    labels: list[int]
    gold: bool
    teacher_ids: torch.Tensor
    teacher_log_probs: torch.Tensor

    @property
    def captured(self) -> bool:
        """Whether the teacher's log-probabilities are known."""
        return bool((self.teacher_ids != DROPPED).any())


@dataclass(frozen=True)
class Lessons:
    """All that can be learned, and the number of rows that hold a token the student has not."""

    lessons: list[Lesson]
    left_out: int


def load_lessons(
    student: Path,
    teacher: Path,
    logits: Path,
    k: int,
    rows: Iterable[dict[str, Any]],
    task: Task,
) -> Lessons:
    """The rows for the student in its folder, with the log-probabilities of the file ``logits``.

    Args:
        teacher: folder of the model that must have been captured, with ``k`` tokens a position.
        rows: train rows, among which are those captured; the others have their gold answer alone.

    Raises:
        UserError: captured from another teacher, prompt or data; or the student's tokenizer is not
            the teacher's cut down to the tokens of `KEPT_FILE`.
    """
    for folder, stage in ((student, "prune"), (teacher, "rl")):
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder}: no model there; run `dvc repro {stage}` or `dvc pull`")
    tokenizer = AutoTokenizer.from_pretrained(teacher, **_SAFE)
    captured = {row.id: row for row in read(logits, capture_of(teacher, tokenizer, task, k))}
    reader = _Reader(
        task,
        tokenizer,
        AutoTokenizer.from_pretrained(student, **_SAFE),
        _new_ids(student, len(tokenizer)),
        captured,
        k,
        f"{student / KEPT_FILE}",
        f"{logits}",
    )
    found = [lesson for row in rows for lesson in reader.lessons(row)]
    if captured:
        raise reader.other_rows(next(iter(captured)))
    lessons = [lesson for lesson in found if lesson is not None]
    return Lessons(lessons, len(found) - len(lessons))


def _new_ids(student: Path, vocabulary: int) -> torch.Tensor:
    """New id of each of the teacher's tokens or `DROPPED`; the same ids without a file of kept ones."""
    path = student / KEPT_FILE
    if not path.is_file():
        return torch.arange(vocabulary)
    kept = read_json(path)
    if kept != sorted(set(kept)) or not 0 <= kept[0] <= kept[-1] < vocabulary:
        raise UserError(
            f"{path}: expected ascending ids below {vocabulary}, the teacher's vocabulary; "
            "run `dvc repro prune` with the same teacher"
        )
    return id_map(kept, vocabulary)


@dataclass(frozen=True)
class _Reader:
    task: Task
    teacher: PreTrainedTokenizerBase
    student: PreTrainedTokenizerBase
    new_ids: torch.Tensor
    captured: dict[str, Row]  # emptied row by row
    k: int
    kept_file: str
    logits_file: str

    def lessons(self, row: dict[str, Any]) -> Iterator[Lesson | None]:
        """The row's gold answer, then the teacher's own if captured; None for each with a token that
        the student has not.
        """
        encoded = encode_row(row, self.task, self.teacher)
        start = encoded["labels"].count(IGNORED)
        prompt, answer = encoded["input_ids"][:start], encoded["input_ids"][start:]
        gold = self.captured.pop(row["id"], None)
        if gold is not None and gold.tokens.tolist() != answer:
            raise self.other_rows(row["id"])
        yield self._lesson(row, prompt, answer, gold)
        own = self.captured.pop(row["id"] + OWN, None)
        if own is not None:
            yield self._lesson(row, prompt, own.tokens.tolist(), own, gold=False)

    def _lesson(
        self,
        row: dict[str, Any],
        prompt: list[int],
        answer: list[int],
        captured: Row | None,
        gold: bool = True,
    ) -> Lesson | None:
        tokens = self.new_ids[prompt + answer].tolist()
        if DROPPED in tokens:
            return None
        start = len(prompt)
        self._check_student(row, tokens, len(tokens) if gold else start)
        labels = [IGNORED] * start + tokens[start:]
        return Lesson(tokens, labels, gold, *self._teacher(len(answer), captured))

    def _teacher(self, length: int, captured: Row | None) -> tuple[torch.Tensor, torch.Tensor]:
        if captured is None:  # one row in memory, seen ``length`` times
            shape = (length, self.k)
            return torch.tensor(DROPPED).expand(shape), torch.tensor(-torch.inf).expand(shape)
        ids, log_probs = map(torch.from_numpy, (captured.ids, captured.log_probs))
        return map_teacher(ids, log_probs, self.new_ids)

    def _check_student(self, row: dict[str, Any], tokens: list[int], length: int) -> None:
        # Its vocabulary is closed under merges: texts without dropped tokens fall apart the same way.
        if encode_row(row, self.task, self.student)["input_ids"][:length] != tokens[:length]:
            raise UserError(
                f"{self.kept_file}: the student's tokenizer does not split row {row['id']} as the "
                "teacher's, cut to the tokens kept; prune the model that was captured"
            )

    def other_rows(self, name: str) -> UserError:
        """Captured from rows that are not these."""
        return UserError(
            f"{self.logits_file}, row {name}: not in the train rows of this run with this answer; "
            "capture anew with `dvc repro logits`"
        )
