"""What a run of the teacher would still ask: questions, tokens and money, before anything is asked.

The pipeline is walked with the answers that are recorded. Where one is missing, the questions that
would follow from it are counted too, as if it were a candidate: that is the most there can be, but for
repairs. Tokens are counted by length, at four bytes a token; money follows from the prices in params.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from supertiny.params.teacher import Teacher
from supertiny.task import Task
from supertiny.teacher.asking import Answer
from supertiny.teacher.messages import Ask, canonical_json
from supertiny.teacher.pipeline import Pipeline, choose_rows
from supertiny.teacher.recipe import load_recipe
from supertiny.teacher.run import SPLITS, Row
from supertiny.teacher.store import RowStore

_BYTES_PER_TOKEN = 4  # of English text and JSON, in the tokenizers of today's LLMs
_SAMPLE = 50  # prompts whose mean length stands for those that cannot be written yet


@dataclass(frozen=True)
class Estimate:
    """One step on one split.

    Attributes:
        recorded: questions whose answer is there.
        missing: questions that can be put now.
        behind: questions that follow from answers still missing, at most.
        prompt_tokens, answer_tokens: of ``missing`` and ``behind``, the answers at their full length.
        usd: what these cost at most.
    """

    step: str
    recorded: int
    missing: int
    behind: int
    prompt_tokens: int
    answer_tokens: int
    usd: float


class _Walk:
    """Stands where the pipeline has its `Asker`, and counts instead of asking."""

    def __init__(self, store: RowStore) -> None:
        self.store = store
        self.recorded: dict[str, int] = {}
        self.missing: dict[str, list[Ask]] = {}

    def ask(self, asks: Sequence[Ask], label: str) -> dict[str, Answer]:
        """What is recorded; the rest has no answer yet."""
        answers = {ask.key: Answer(self.store.answer(ask.key), "not asked yet") for ask in asks}
        lacking = {ask.key: ask for ask in asks if answers[ask.key].response is None}
        self.recorded[label] = len(answers) - len(lacking)
        self.missing[label] = list(lacking.values())
        return answers


def estimate(
    task: Task,
    params: Teacher,
    queries: Mapping[str, Sequence[Row]],
    recording: Path,
    live: Path | None = None,
) -> list[Estimate]:
    """The steps in the order they are asked, from what ``recording`` and ``live`` hold, if they exist.

    Raises:
        UserError: a damaged recording, or a mistake in the task's files.
    """
    recipe = load_recipe(task)
    recordings = [path for path in (recording,) if path.exists()]
    walk = _Walk(RowStore(live if live and live.exists() else None, recordings))
    pipeline = Pipeline(task, recipe, params, cast(Any, walk), queries["train"])
    found: list[Estimate] = []
    for split in SPLITS:
        rows = choose_rows(queries[split], getattr(params, f"{split}_rows"), recipe.skip_slices)
        judged = split != "test" and "judge" in recipe.steps
        pipeline.traces(rows, judged=judged, label=split)
        found += _of_split(pipeline, walk, split, rows, judged)
    label, test = "test answers", [(row["query"], "") for row in queries["test"]]
    behind = 0
    if len(walk.store):
        pipeline.blind_calls(test, label)
    else:  # none of them can be recorded, and to write them all takes half a minute
        behind = len(test) * params.call_samples
    return [*found, _of_step(walk, params, label, pipeline.call_asks(test[:_SAMPLE]), behind)]


def _of_split(
    pipeline: Pipeline, walk: _Walk, split: str, rows: Sequence[Row], judged: bool
) -> Iterator[Estimate]:
    params = pipeline.params
    rewrites = len(walk.missing[f"{split} rewrite"])
    yield _of_step(walk, params, f"{split} rewrite", (), 0)
    shown = rows[:_SAMPLE]
    calls = pipeline.call_asks([(row["query"], row["id"]) for row in shown])
    yield _of_step(walk, params, f"{split} call", calls, rewrites * params.call_samples)
    if judged:
        unsure = walk.missing.get(f"{split} call", []) if params.judge == "agreed" else []
        grades = pipeline.judge_asks(
            [{"command": row["query"], "text": row["query"], "gold": row["call"]} for row in shown]
        )
        behind = rewrites + len(unsure) // params.call_samples
        yield _of_step(walk, params, f"{split} judge", grades, behind)


def _of_step(
    walk: _Walk, params: Teacher, label: str, like: Sequence[Ask], behind: int
) -> Estimate:
    """The estimate of one step; ``like`` are questions of the length of those that are behind."""
    missing = walk.missing.get(label, [])
    each = [*missing, *like]
    mean = sum(map(_prompt_tokens, each)) / len(each) if each else 0
    longest = max((ask.request["max_tokens"] for ask in each), default=0)
    prompt = round(sum(map(_prompt_tokens, missing)) + behind * mean)
    answer = (len(missing) + behind) * longest
    price = prompt * params.usd_per_million_prompt_tokens
    price += answer * params.usd_per_million_answer_tokens
    recorded = walk.recorded.get(label, 0)
    return Estimate(label, recorded, len(missing), behind, prompt, answer, price / 1e6)


def _prompt_tokens(ask: Ask) -> float:
    text = canonical_json([ask.messages, ask.request["function"]])
    return len(text) / _BYTES_PER_TOKEN


def render(estimates: Sequence[Estimate], params: Teacher) -> str:
    """The estimate as a table, and its sum in words."""
    width = max(len(row.step) for row in estimates)
    lines = [f"{'teacher':{width}}  recorded  to ask  behind them  M tokens in  M tokens out"]
    for row in estimates:
        lines.append(
            f"{row.step:{width}}  {row.recorded:>8}  {row.missing:>6}  {row.behind:>11}"
            f"  {row.prompt_tokens / 1e6:>11.2f}  {row.answer_tokens / 1e6:>12.2f}"
        )
    asked = sum(row.missing + row.behind for row in estimates)
    if not asked:
        return "\n".join([*lines, "", "Every answer of the teacher is recorded."])
    usd = sum(row.usd for row in estimates)
    priced = params.usd_per_million_prompt_tokens or params.usd_per_million_answer_tokens
    money = f"{usd:.2f} USD" if priced else "no price is set in section teacher"
    return "\n".join([*lines, "", f"To ask: {asked} at most, but for repairs; {money}."])
