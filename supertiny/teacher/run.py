"""A whole run of the teacher over a task's splits, live or replayed, and the recording of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supertiny.curate import kept_rewrites
from supertiny.errors import UserError
from supertiny.io import read_json, read_jsonl, write_jsonl
from supertiny.metrics import latency
from supertiny.modelfolder import size_mb
from supertiny.params.teacher import Teacher
from supertiny.queries import read_queries
from supertiny.review import READ, REVIEW, decisions
from supertiny.stage import STATE_DIR
from supertiny.task import Task
from supertiny.teacher import RECORDINGS
from supertiny.teacher.asking import INTERRUPTED_CODE, Asker, Stopped
from supertiny.teacher.backends import make_backend
from supertiny.teacher.limits import Limits
from supertiny.teacher.messages import usage_of
from supertiny.teacher.pipeline import Pipeline, choose_rows, in_turn
from supertiny.teacher.recipe import Recipe, load_recipe
from supertiny.teacher.store import RowStore, iter_live, iter_recording, write_recording

Row = dict[str, Any]
SPLITS = ("train", "dev", "test")
QUERIES = Path("data/queries")
# Beside a recording: the rows of train that the LLM is shown, and what there is to know of it.
COMMANDS, CARD = "commands.jsonl", "card.json"
_MOST_COMMANDS = 8000
_KEPT = ("id", "query", "call", "source", "slices")


@dataclass(frozen=True)
class Taught:
    """What a run gives: traces by split, and the teacher's blind answers to all inputs of test,
    its reviewed rewrites among them."""

    traces: dict[str, list[Row]]
    answers: list[Row]


def inputs(task: Task, checked: bool = True) -> tuple[dict[str, list[Row]], Path, Path]:
    """What a run of the project reads and writes: rows by split, the recording, the live file.

    Rows of train are those of the recording's own ``commands.jsonl`` if it has one: a recording holds
    what its questions are made of, so train can be drawn anew and no answer is lost.

    Args:
        checked: False where nothing is asked or learned: to check ten thousand calls takes time.

    Raises:
        UserError: the queries are missing or damaged.
    """
    folder = RECORDINGS / task.name

    def read(path: Path) -> list[Row]:
        return read_queries(path, task) if checked else read_jsonl(path)

    queries = {split: read(QUERIES / f"{split}.jsonl") for split in SPLITS[1:]}
    if (folder / COMMANDS).is_file():
        queries["train"] = read(folder / COMMANDS)
    else:
        queries["train"] = in_turn(read(QUERIES / "train.jsonl"), _MOST_COMMANDS)
    return queries, folder / "rows.jsonl.gz", STATE_DIR / "teacher" / task.name / "rows.jsonl"


def teach(
    task: Task,
    params: Teacher,
    queries: Mapping[str, Sequence[Row]],
    recording: Path,
    live: Path | None = None,
) -> Taught:
    """Run the teacher over ``queries`` (rows by split).

    Args:
        recording: rows recorded before; need not exist for a live run. With the backend ``none``
            nothing is asked and nothing comes of it.
        live: where new rows go; only read and written if the backend asks anybody.

    Raises:
        Stopped: at a limit, on SIGINT, or when calls got no answer; finished rows are kept.
        UserError: a recording that is missing or incomplete, or a mistake in the task's files.
    """
    if params.backend == "none":
        return Taught({split: [] for split in SPLITS}, [])
    _check_tools(queries)
    with _asking(params, recording, live) as asker:
        pipeline = Pipeline(task, load_recipe(task), params, asker, queries["train"])
        return ask_all(pipeline, queries)


def record(
    task: Task,
    params: Teacher,
    queries: Mapping[str, Sequence[Row]],
    recording: Path,
    live: Path,
    timed: int = 0,
) -> Row:
    """Run the teacher live and write the rows it used to ``recording``; errors as in `teach`.

    The rows of train are written beside it before anything is asked, see `inputs`. A run that is
    stopped adds what it has, so that it can be gone on with elsewhere; one that comes to its end
    leaves nothing in the recording but what it used.

    Args:
        timed: blind calls of dev that are asked one at a time, and again, for their latency.

    Returns:
        What a reader of the recording wants to know of it: model, hash of the prompts, counts, and
        ``latency_ms`` of the timed calls; of a model that runs here also the megabytes of its file or
        folder and the CPU threads.
    """
    _check_tools(queries)
    recipe = load_recipe(task)
    commands = [{key: row[key] for key in _KEPT} for row in queries["train"]]
    write_jsonl(recording.with_name(COMMANDS), commands)
    with _asking(params, recording, live) as asker:
        pipeline = Pipeline(task, recipe, params, asker, queries["train"])
        before = list(iter_recording(recording)) if recording.exists() else []
        unused = before
        try:
            ask_all(pipeline, queries)
            asks = pipeline.call_asks([(row["query"], "") for row in queries["dev"][:timed]])
            latency_ms = [round(1000 * seconds) for seconds in asker.time(asks)]
            unused = []
        finally:
            rows = [*before, *iter_live(live, [])] if live.exists() else before
            used = [row for row in rows if row["key"] in asker.used]
            write_recording(recording, [*unused, *used])
    card = _card(task, params, recipe, list(iter_recording(recording)))
    if params.backend == "local":
        card |= {"size_mb": size_mb(Path(params.path)), "threads": params.threads}
    return {**card, "latency_ms": latency_ms}


def speed(params: Teacher, recording: Path, usd_per_hour: float) -> dict[str, float]:
    """What a call took while it was recorded: `supertiny.metrics.latency`, size and threads.

    Nothing where nobody measured it, and without a recording of this very model.
    """
    path = recording.with_name(CARD)
    card = read_json(path) if params.backend == "replay" and path.is_file() else {}
    if card.get("model") != params.model or not card.get("latency_ms"):
        return {}
    about = {key: card[key] for key in ("size_mb", "threads") if key in card}
    return {**latency([ms / 1000 for ms in card["latency_ms"]], usd_per_hour), **about}


def _check_tools(queries: Mapping[str, Sequence[Row]]) -> None:
    if any("tools" in row for rows in queries.values() for row in rows):
        raise UserError(
            "teacher.backend: the rows bring tools of their own, which a teacher is not shown; set it "
            "to none"
        )


@contextmanager
def _asking(params: Teacher, recording: Path, live: Path | None) -> Iterator[Asker]:
    """An asker that is closed at the end; Ctrl-C is a way to be stopped."""
    replay = params.backend == "replay"
    # Replay reads what is committed and nothing else, or it would pass here and fail elsewhere.
    recordings = [recording] if replay or recording.exists() else []
    store = RowStore(None if replay else live, recordings)
    for problem in store.problems:
        print(problem)
    asker = Asker(make_backend(params), store, Limits(params), replay=replay)
    try:
        yield asker
    except KeyboardInterrupt:
        raise Stopped("interrupted", INTERRUPTED_CODE) from None
    finally:
        asker.close()


def ask_all(pipeline: Pipeline, queries: Mapping[str, Sequence[Row]]) -> Taught:
    """Put every question of a run through the pipeline's asker; errors as in `Asker.ask`."""
    params, recipe = pipeline.params, pipeline.recipe
    review, read = (decisions(pipeline.task, name) for name in (REVIEW, READ))
    chosen = {
        split: choose_rows(queries[split], getattr(params, f"{split}_rows"), recipe.skip_slices)
        for split in SPLITS
    }
    traces = {split: pipeline.traces(chosen[split], split, read) for split in ("train", "dev")}
    # No model may judge test rewrites, a person does: what they keep are inputs like the others.
    traces["test"] = pipeline.rewrites(chosen["test"], "test")
    asked = [*queries["test"], *kept_rewrites(traces["test"], review)]
    calls = pipeline.blind_calls([(row["query"], "") for row in asked], 1, "test answers")
    answers = [
        {"id": row["id"], "query": row["query"], "answer": found[0]}
        for row, found in zip(asked, calls, strict=True)
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
