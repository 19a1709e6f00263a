"""Queries with their gold calls in, scored answers out.

How a variant answers is loaded only when it is asked for, so that the rule baseline needs no
torch and a change of the ONNX runtime leaves the PyTorch variants' results standing.
"""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from supertiny import metrics
from supertiny.calls import call_from_json
from supertiny.conversation import Said, question
from supertiny.errors import CallError, UserError
from supertiny.io import read_jsonl, write_json, write_jsonl, write_text, write_tsv
from supertiny.params.evaluate import Evaluate
from supertiny.task import Task

Answers = Sequence[metrics.Answer]


@dataclass(frozen=True)
class Outputs:
    """The files that one variant's evaluation writes."""

    metrics: Path
    predictions: Path
    errors: Path
    tools: Path
    confusion: Path

    @staticmethod
    def of(variant: str, folder: Path, plots: Path) -> Outputs:
        """Names from the variant's; ``folder`` holds all but the confusion plot."""
        return Outputs(
            metrics=folder / f"{variant}.json",
            predictions=folder / f"{variant}.predictions.jsonl",
            errors=folder / f"{variant}.errors.jsonl",
            tools=folder / f"{variant}.tools.tsv",
            confusion=plots / f"{variant}.confusion.csv",
        )


def rule_answers(task: Task, queries_dir: Path, rows: Sequence[dict[str, Any]]) -> Answers:
    """What the task's own rule baseline answers: ``load(folder, queries_dir).answer(query)``, and
    ``answer(query, language)`` for a row that carries its language.

    A query is a text, or with tools of its own ``{"query", "tools"}``.
    """
    rules = task.module("rules").load(task.folder, queries_dir)
    progress = tqdm(rows, unit="query", mininterval=1.0, disable=None)
    return [
        rules.answer(question(row), row["language"]) if "language" in row
        else rules.answer(question(row))
        for row in progress
    ]  # fmt: skip


def recorded_answers(path: Path, rows: Sequence[dict[str, Any]]) -> Answers:
    """What the teacher LLM answered to the rows, from the stage `teacher`.

    Raises:
        UserError: the file is missing, or a row has no answer to its very query in it.
    """
    found = {(row["id"], row["query"]): row["answer"] for row in read_jsonl(path)}
    missing = [row["id"] for row in rows if (row["id"], row["query"]) not in found]
    if missing:
        raise UserError(
            f"{path}: no answer of the teacher to {len(missing)} of {len(rows)} rows (first: "
            f"{', '.join(missing[:3])}); record them with `supertiny record --backend local` or "
            "another backend, then run `dvc repro teacher`"
        )
    answers = [found[row["id"], row["query"]] for row in rows]
    return [
        CallError(answer["reason"]) if answer["call"] is None else call_from_json(answer["call"])
        for answer in answers
    ]


def torch_answers(task: Task, model: Path, queries: Sequence[Said], params: Evaluate) -> Answers:
    """What a trained PyTorch student answers."""
    from supertiny.student import TorchStudent

    student = TorchStudent(model, task, threads=params.threads, precision=params.precision)
    return student.answers(queries, params.max_new_tokens, params.batch_size)


def few_shot_answers(
    task: Task,
    model: Path,
    train: Sequence[dict[str, Any]],
    queries: Sequence[Said],
    params: Evaluate,
) -> Answers:
    """What an untrained model answers that is shown the tools and examples from ``train``."""
    from supertiny.student import TorchStudent, choose_examples

    examples = choose_examples(train, params.few_shot)
    student = TorchStudent(model, task, params.threads, examples, params.precision)
    return student.answers(queries, params.few_shot_max_new_tokens, params.batch_size)


def onnx_answers(task: Task, model: Path, queries: Sequence[Said], params: Evaluate) -> Answers:
    """What an exported student answers in ONNX Runtime."""
    from supertiny.runtime import OnnxStudent

    del task  # the model folder carries its own
    student = OnnxStudent(model, threads=params.threads)
    return student.answers(queries, params.max_new_tokens, params.batch_size)


def write_results(
    task: Task, rows: Sequence[dict[str, Any]], answers: Answers, outputs: Outputs
) -> dict[str, float]:
    """Score the answers, write every file of ``outputs``, and return the metrics.

    A query that was not answered at all is scored as unparsable; a warning counts such queries and
    names the first. The task's own metrics, if it has any, stand among the others; see `task_metrics`.

    Raises:
        UserError: the task's own metrics are not as `task_metrics` wants them.
    """
    values, predictions = metrics.score(task, rows, answers)
    values |= task_metrics(task, rows, predictions, taken=values.keys())
    unread = [(r["id"], a) for r, a in zip(rows, answers, strict=True) if isinstance(a, CallError)]
    if unread:
        first = "row {}: {}".format(*unread[0])
        print(f"warning: {len(unread)} of {len(rows)} count as wrong; {first}", file=sys.stderr)
    wrong = [row for row in predictions if not row["exact"]]
    write_json(outputs.metrics, values)
    write_jsonl(outputs.predictions, predictions)
    write_jsonl(outputs.errors, sorted(wrong, key=lambda row: (row["gold"]["name"], row["id"])))
    write_tsv(outputs.tools, metrics.TOOL_COLUMNS, metrics.per_tool(predictions))
    write_text(outputs.confusion, _csv(["gold", "predicted"], metrics.confusion(predictions)))
    return values


def write_absent(outputs: Outputs) -> None:
    """Every file of ``outputs`` for a variant that a task does not have: nothing asked, ``n`` 0."""
    write_json(outputs.metrics, {"n": 0})
    write_jsonl(outputs.predictions, [])
    write_jsonl(outputs.errors, [])
    write_tsv(outputs.tools, metrics.TOOL_COLUMNS, [])
    write_text(outputs.confusion, _csv(["gold", "predicted"], []))


def task_metrics(
    task: Task,
    rows: Sequence[dict[str, Any]],
    predictions: Sequence[dict[str, Any]],
    taken: Set[str] = frozenset(),
) -> dict[str, float]:
    """What ``extra_metrics(rows, predictions)`` of the task's ``metrics.py`` gives, to six digits.

    Rows are those of the test set with all their keys, predictions those of `metrics.score`, both
    in one order. A task without the file has no metrics of its own.

    Raises:
        UserError: no mapping of names to finite numbers, or a name that is ``taken``.
    """
    if not (task.folder / "metrics.py").is_file():
        return {}
    found = task.module("metrics").extra_metrics(rows, predictions)
    where = f"{task.folder}/metrics.py: extra_metrics"
    if not isinstance(found, dict):
        raise UserError(f"{where}: gave {type(found).__name__}, expected a dict")
    bad = [name for name, value in found.items() if not _is_finite(value)]
    if bad:
        raise UserError(f"{where}: {bad}: expected finite numbers")
    if found.keys() & taken:
        raise UserError(f"{where}: {sorted(found.keys() & taken)}: names every task has already")
    return {name: round(float(value), 6) for name, value in sorted(found.items())}


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _csv(header: list[str], rows: Sequence[Sequence[str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([header, *rows])
    return buffer.getvalue()
