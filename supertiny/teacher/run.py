"""A whole run of the teacher over a task's splits, live or replayed, and the recording of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supertiny.evaluate import read_queries
from supertiny.params.teacher import Teacher
from supertiny.stage import STATE_DIR
from supertiny.task import Task
from supertiny.teacher.asking import INTERRUPTED_CODE, Asker, Stopped
from supertiny.teacher.backends import make_backend
from supertiny.teacher.limits import Limits
from supertiny.teacher.messages import usage_of
from supertiny.teacher.pipeline import Pipeline, choose_rows
from supertiny.teacher.recipe import Recipe, load_recipe
from supertiny.teacher.store import RowStore, iter_live, iter_recording, write_recording

Row = dict[str, Any]
SPLITS = ("train", "dev", "test")
QUERIES = Path("data/queries")
RECORDINGS = Path("data/recordings")


@dataclass(frozen=True)
class Taught:
    """What a run gives: traces by split, and the teacher's blind answers to all inputs of test."""

    traces: dict[str, list[Row]]
    answers: list[Row]


def inputs(task: Task) -> tuple[dict[str, list[Row]], Path, Path]:
    """What a run of the project reads and writes: rows by split, the recording, the live file.

    Raises:
        UserError: the queries are missing or damaged.
    """
    queries = {split: read_queries(QUERIES / f"{split}.jsonl", task) for split in SPLITS}
    recording = RECORDINGS / task.name / "rows.jsonl.gz"
    return queries, recording, STATE_DIR / "teacher" / task.name / "rows.jsonl"


def teach(
    task: Task,
    params: Teacher,
    queries: Mapping[str, Sequence[Row]],
    recording: Path,
    live: Path | None = None,
) -> Taught:
    """Run the teacher over ``queries`` (rows by split).

    Args:
        recording: rows recorded before; need not exist for a live run.
        live: where new rows go; only read and written if the backend asks anybody.

    Raises:
        Stopped: at a limit, on SIGINT, or when calls got no answer; finished rows are kept.
        UserError: a recording that is missing or incomplete, or a mistake in the task's files.
    """
    return _run(task, params, load_recipe(task), queries, _open(params, recording, live))


def record(
    task: Task,
    params: Teacher,
    queries: Mapping[str, Sequence[Row]],
    recording: Path,
    live: Path,
) -> Row:
    """Run the teacher live, then write the rows it used to ``recording``; errors as in `teach`.

    Returns:
        What a reader of the recording wants to know of it: model, hash of the prompts, counts.
    """
    recipe = load_recipe(task)
    asker = _open(params, recording, live)
    _run(task, params, recipe, queries, asker)
    rows = [*iter_recording(recording)] if recording.exists() else []
    rows += iter_live(live, []) if live.exists() else []
    used = [row for row in rows if row["key"] in asker.used]
    write_recording(recording, used)
    return _card(task, params, recipe, list(iter_recording(recording)))


def _open(params: Teacher, recording: Path, live: Path | None) -> Asker:
    replay = params.backend == "replay"
    # Replay reads what is committed and nothing else, or it would pass here and fail elsewhere.
    recordings = [recording] if replay or recording.exists() else []
    store = RowStore(None if replay else live, recordings)
    for problem in store.problems:
        print(problem)
    return Asker(make_backend(params), store, Limits(params), replay=replay)


def _run(
    task: Task,
    params: Teacher,
    recipe: Recipe,
    queries: Mapping[str, Sequence[Row]],
    asker: Asker,
) -> Taught:
    try:
        return ask_all(Pipeline(task, recipe, params, asker, queries["train"]), queries)
    except KeyboardInterrupt:
        raise Stopped("interrupted", INTERRUPTED_CODE) from None
    finally:
        asker.close()


def ask_all(pipeline: Pipeline, queries: Mapping[str, Sequence[Row]]) -> Taught:
    """Put every question of a run through the pipeline's asker; errors as in `Asker.ask`."""
    params, recipe = pipeline.params, pipeline.recipe
    traces = {}
    for split in SPLITS:
        rows = choose_rows(queries[split], getattr(params, f"{split}_rows"), recipe.skip_slices)
        # Test is reviewed by a person: a grade could only tempt one to filter by it.
        traces[split] = pipeline.traces(rows, judged=split != "test", label=split)
    test = queries["test"]
    calls = pipeline.blind_calls([(row["query"], "") for row in test], "test answers")
    answers = [
        {"id": row["id"], "answer": found[0]} for row, found in zip(test, calls, strict=True)
    ]
    return Taught(traces, answers)


def _card(task: Task, params: Teacher, recipe: Recipe, rows: list[Row]) -> Row:
    usages = [usage_of(row["response"]) for row in rows if "response" in row]
    sampling = {
        name: {"temperature": s.temperature, "top_p": s.top_p, "max_tokens": s.max_tokens}
        for name, s in recipe.steps.items()
    }
    return {
        "task": task.name,
        "model": params.model,
        "prompts_sha256": recipe.sha256,
        "sampling": sampling,
        "answers": len(usages),
        "failures": len(rows) - len(usages),
        "prompt_tokens": sum(usage.prompt_tokens for usage in usages if usage),
        "completion_tokens": sum(usage.completion_tokens for usage in usages if usage),
    }
