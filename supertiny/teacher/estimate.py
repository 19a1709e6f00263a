"""What a run of the teacher would still ask: questions, tokens and money, before anything is asked.

The pipeline is walked with the answers that are recorded. Where one is missing, the questions that
would follow from it are counted too, as if it were a candidate: that is the most there can be, but for
repairs of answers still to come. Tokens are counted by length, at four bytes a token; money follows
from the prices in params.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from supertiny.params.teacher import Teacher
from supertiny.task import Task
from supertiny.teacher.asking import Answer
from supertiny.teacher.limits import price
from supertiny.teacher.messages import Ask, Usage, canonical_json
from supertiny.teacher.pipeline import Pipeline, choose_rows
from supertiny.teacher.recipe import load_recipe
from supertiny.teacher.run import Row, ask_all
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
    ask_all(pipeline, queries)
    shown = choose_rows(queries["train"], _SAMPLE, recipe.skip_slices)
    like = {"call": pipeline.call_asks([(row["query"], row["id"]) for row in shown])}
    if "judge" in recipe.steps:
        like["judge"] = pipeline.judge_asks(
            [{"command": row["query"], "text": row["query"], "gold": row["call"]} for row in shown]
        )
    return [
        _of_step(label, walk, params, like.get(label.split()[-1], []), _behind(label, walk, params))
        for label in walk.missing
    ]


def _behind(label: str, walk: _Walk, params: Teacher) -> int:
    """The questions of a step that follow from answers still missing, at most."""
    split, _, step = label.partition(" ")
    rewrites = len(walk.missing.get(f"{split} rewrite", ()))
    if params.verify == "read":  # what a person read is there already
        return 0
    if step == "call":
        return rewrites * params.call_samples
    if step == "judge":
        unsure = walk.missing[f"{split} call"] if params.judge == "agreed" else []
        return rewrites + len(unsure) // max(1, params.call_samples)
    return 0


def _of_step(
    label: str, walk: _Walk, params: Teacher, like: Sequence[Ask], behind: int
) -> Estimate:
    """The estimate of one step; ``like`` are questions of the length of those that are behind."""
    missing = walk.missing[label]
    each = [*missing, *like]
    mean = sum(map(_prompt_tokens, each)) / len(each) if each else 0
    longest = max((ask.request["max_tokens"] for ask in each), default=0)
    tokens = Usage(
        round(sum(map(_prompt_tokens, missing)) + behind * mean), (len(missing) + behind) * longest
    )
    return Estimate(
        step=label,
        recorded=walk.recorded[label],
        missing=len(missing),
        behind=behind,
        prompt_tokens=tokens.prompt_tokens,
        answer_tokens=tokens.completion_tokens,
        usd=price(tokens, params),
    )


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
    return "\n".join([*lines, "", summary(estimates, params)])


def summary(estimates: Sequence[Estimate], params: Teacher) -> str:
    """The sum of an estimate in a sentence."""
    asked = sum(row.missing + row.behind for row in estimates)
    if not asked:
        return "Every answer of the teacher is recorded."
    usd = sum(row.usd for row in estimates)
    priced = params.usd_per_million_prompt_tokens or params.usd_per_million_answer_tokens
    money = f"{usd:.2f} USD" if priced else "no price is set in section teacher"
    tokens = sum(row.prompt_tokens + row.answer_tokens for row in estimates) / 1e6
    return (
        f"Teacher, not recorded yet: {asked} questions at most, but for repairs, {tokens:.1f} million "
        f"tokens; {money}. `supertiny record` asks them."
    )
