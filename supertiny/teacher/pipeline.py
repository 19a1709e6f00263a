"""The teacher at work: commands to rewrites, rewrites to blind calls, calls and grades to a trace.

A trace is everything one rewrite went through. It ends as ``failed`` (the model gave no usable answer),
``rejected`` (an answer, but one that breaks the schema after one repair, or a rule) or ``candidate``;
which candidates are learned from is decided in `supertiny.curate`, from the trace alone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import orjson

from supertiny.calls import NO_CALL, ToolCall, call_from_json
from supertiny.curate import agrees
from supertiny.errors import CallError, UserError
from supertiny.params.teacher import Teacher
from supertiny.prepare import row_id, token_set
from supertiny.review import read_key
from supertiny.task import Task
from supertiny.teacher.asking import Asker
from supertiny.teacher.functions import answer_text, read_arguments
from supertiny.teacher.messages import Ask
from supertiny.teacher.recipe import Recipe, Step
from supertiny.teacher.rules import copied_values, find_problem

Row = dict[str, Any]
_T = TypeVar("_T")
_MOST_PER_TOOL = 2  # of the retrieved examples, so that they show more than one reading


@dataclass(frozen=True)
class Outcome(Generic[_T]):
    """What a step gave for one item: a value, or ``failed`` or ``rejected`` with the reason."""

    value: _T | None
    status: str = "answered"
    reason: str = ""


@dataclass(frozen=True)
class Item:
    """One use of a step: the values of its placeholders and the index of the sample."""

    values: Mapping[str, str]
    sample: int


class Pipeline:
    """A task's steps, asked through one `Asker`.

    Args:
        train: rows with ``id``, ``query`` and ``call`` that blind calls are shown examples from.
    """

    def __init__(
        self, task: Task, recipe: Recipe, params: Teacher, asker: Asker, train: Sequence[Row]
    ) -> None:
        self.task = task
        self.recipe = recipe
        self.params = params
        self.asker = asker
        self.retriever = Retriever(train)
        self._signatures = task.signatures()
        self._by_alias = {tool.alias: tool.name for tool in task.tools.values()}
        self._by_alias |= {name: name for name in (*task.tools, NO_CALL.name)}

    def traces(self, rows: Sequence[Row], split: str, read: Sequence[Row]) -> list[Row]:
        """Traces of the rewrites of ``rows`` with their blind calls and grades, sorted by id.

        Args:
            read: rewrites that a person read; see the param ``verify``.

        Raises:
            Stopped, UserError: not all could be asked, see `Asker.ask`.
        """
        traces = self.rewrites(rows, split)
        candidates = [trace for trace in traces if trace["status"] == "candidate"]
        if self.params.verify == "read":
            known = {read_key(row) for row in read}
            candidates = [trace for trace in candidates if read_key(trace) in known]
        texts = [(trace["text"], trace["source_id"]) for trace in candidates]
        calls = self.blind_calls(texts, self.params.call_samples, f"{split} call")
        for trace, found in zip(candidates, calls, strict=True):
            trace["calls"] = found
        if "judge" in self.recipe.steps and self.params.judge != "none":
            self._grade(candidates, f"{split} judge")
        return traces

    def blind_calls(
        self, queries: Sequence[tuple[str, str]], count: int, label: str
    ) -> list[list[Row]]:
        """``count`` answers to each ``(query, id of the train row it must not be shown)``.

        An answer is ``{"call": ...}``, or ``{"call": None, "reason": ...}`` where there is no legal one.
        """
        if not count:
            return [[] for _ in queries]
        items = self._call_items(queries, count)
        outcomes = self._run("call", items, lambda _, found: self.read_call(found), label)
        answers = [
            {"call": outcome.value.to_json()}
            if outcome.value is not None
            else {"call": None, "reason": f"{outcome.status}: {outcome.reason}"}
            for outcome in outcomes
        ]
        return [answers[at : at + count] for at in range(0, len(answers), count)]

    def call_asks(self, queries: Sequence[tuple[str, str]]) -> list[Ask]:
        """What `blind_calls` asks first for one answer each, before any repair."""
        return self._asks(self.recipe.steps["call"], self._call_items(queries, 1))

    def _asks(self, step: Step, items: Sequence[Item]) -> list[Ask]:
        return [Ask(step.request(self.params.model, i.values), i.sample) for i in items]

    def _call_items(self, queries: Sequence[tuple[str, str]], count: int) -> list[Item]:
        return [
            Item(self._call_values(query, hidden), sample)
            for query, hidden in queries
            for sample in range(count)
        ]

    def rewrites(self, rows: Sequence[Row], split: str) -> list[Row]:
        """Traces of the rewrites of ``rows`` as far as the rules see them, sorted by id."""
        drafts = [
            {**_source(row), "style": style, "sample": sample}
            for row, styles in self._with_styles(rows, split)
            for style in styles
            for sample in range(self.params.samples)
        ]
        items = [Item(self._rewrite_values(draft), draft["sample"]) for draft in drafts]
        outcomes = self._run(
            "rewrite", items, lambda _, found: str(found["text"]), f"{split} rewrite"
        )
        traces = [self._ruled(*pair) for pair in zip(drafts, outcomes, strict=True)]
        return sorted(traces, key=lambda trace: trace["id"])

    def _ruled(self, draft: Row, outcome: Outcome[str]) -> Row:
        key = f"{draft['source_id']}:{draft['style']}:{draft['sample']}"
        trace = {"id": row_id(key), **draft, "text": "", "calls": [], "grade": None}
        if outcome.value is None:
            return {**trace, "status": outcome.status, "reason": outcome.reason}
        text = " ".join(outcome.value.split()).strip("\"'`")
        gold = call_from_json(draft["gold"])
        problem = find_problem(text, draft["command"], gold, self.task, self.recipe)
        status = "rejected" if problem else "candidate"
        return {**trace, "text": text, "status": status, "reason": problem or ""}

    def _grade(self, candidates: list[Row], label: str) -> None:
        if self.params.judge == "agreed":
            candidates = [trace for trace in candidates if agrees(trace, self.task)]
        outcomes = self._run("judge", self._judge_items(candidates), lambda _, found: found, label)
        for trace, outcome in zip(candidates, outcomes, strict=True):
            trace["grade"] = outcome.value or {"reason": f"{outcome.status}: {outcome.reason}"}

    def judge_asks(self, traces: Sequence[Row]) -> list[Ask]:
        """What grading the texts of traces asks first, before any repair."""
        return self._asks(self.recipe.steps["judge"], self._judge_items(traces))

    def _judge_items(self, traces: Sequence[Row]) -> list[Item]:
        return [
            Item(
                {
                    "command": trace["command"],
                    "rewrite": trace["text"],
                    "call": self.task.render_call(call_from_json(trace["gold"])),
                },
                0,
            )
            for trace in traces
        ]

    def _run(
        self, name: str, items: Sequence[Item], check: Callable[[Item, Row], _T], label: str
    ) -> list[Outcome[_T]]:
        """One step over many items: ask, check, and ask once more where the check objects."""
        step = self.recipe.steps[name]
        outcomes, repairs = self._settle(step, items, self._asks(step, items), check, label)
        if repairs:
            places = list(repairs)
            again, _ = self._settle(
                step,
                [items[place] for place in places],
                [repairs[place] for place in places],
                check,
                f"{label} repair",
            )
            for place, outcome in zip(places, again, strict=True):
                outcomes[place] = outcome
        return outcomes

    def _settle(
        self,
        step: Step,
        items: Sequence[Item],
        asks: Sequence[Ask],
        check: Callable[[Item, Row], _T],
        label: str,
    ) -> tuple[list[Outcome[_T]], dict[int, Ask]]:
        """Outcomes, and for each place with an invalid answer the request that would repair it."""
        answers = self.asker.ask(asks, label)
        outcomes: list[Outcome[_T]] = []
        repairs: dict[int, Ask] = {}
        for place, (item, ask) in enumerate(zip(items, asks, strict=True)):
            answer = answers[ask.key]
            if answer.response is None:
                outcomes.append(Outcome(None, "failed", answer.failure or "no answer"))
                continue
            try:
                found = read_arguments(answer.response, step.function)
                outcomes.append(Outcome(check(item, found)))
            except CallError as error:
                outcomes.append(Outcome(None, "rejected", f"invalid: {error}"))
                said = answer_text(answer.response) or "(nothing)"
                asked = self.recipe.repair.substitute(error=error, function=step.function.name)
                turns = ({"role": "assistant", "content": said}, {"role": "user", "content": asked})
                repairs[place] = Ask(
                    step.request(self.params.model, item.values, *turns), item.sample
                )
        return outcomes, repairs

    def read_call(self, found: Row) -> ToolCall:
        """Raises `CallError` for a tool that does not exist or arguments it does not take."""
        if found["tool"] not in self._by_alias:
            raise CallError(f"unknown tool {found['tool']!r}; use a name from the list, or no_call")
        arguments = found.get("arguments", {})
        name = self._by_alias[found["tool"]]
        if name != NO_CALL.name:
            tool = self.task.tools[name]
            by_word = {tool.word(key): key for key in tool.properties}
            arguments = {by_word.get(key, key): value for key, value in arguments.items()}
        call = ToolCall(name, arguments)
        self.task.validate(call)
        return call

    def _with_styles(self, rows: Sequence[Row], split: str) -> list[tuple[Row, list[str]]]:
        """Each row with its styles; within a tool every style has its turn."""
        names, params = list(self.recipe.styles), self.params
        count = params.dev_styles_per_row if split == "dev" else params.styles_per_row
        asked = self.params.styles or names
        if not set(asked) <= set(names):
            raise UserError(
                f"teacher.styles: found {sorted(set(asked) - set(names))}, which "
                f"{self.task.folder}/teacher.yaml does not have; it has {names}"
            )
        seen: Counter[str] = Counter()
        chosen = []
        for row in rows:
            at = seen[row["call"]["name"]] * count
            turn = [names[(at + n) % len(names)] for n in range(min(count, len(names)))]
            chosen.append((row, [name for name in turn if name in asked]))
            seen[row["call"]["name"]] += 1
        return chosen

    def _rewrite_values(self, draft: Row) -> dict[str, str]:
        gold = call_from_json(draft["gold"])
        shown = self.recipe.examples[self.recipe.kind_of[gold.name]][draft["style"]]
        keep = copied_values(draft["command"], gold, self.task)
        return {
            "command": draft["command"],
            "style": draft["style"],
            "how": self.recipe.styles[draft["style"]],
            "keep": ", ".join(keep) or "nothing",
            "examples": "\n".join(f"Command: {a}\n{_json({'text': b})}" for a, b in shown),
        }

    def _call_values(self, query: str, hidden: str) -> dict[str, str]:
        examples = self.retriever.nearest(query, self.recipe.retrieved_examples, hidden)
        shown = [f"Request: {row['query']}\n{self._shown_call(row['call'])}" for row in examples]
        return {"query": query, "signatures": self._signatures, "examples": "\n".join(shown)}

    def _shown_call(self, call: Row) -> str:
        """A call in the words of the signatures, which the model is to answer in."""
        if call["name"] == NO_CALL.name:
            return _json({"tool": NO_CALL.name, "arguments": {}})
        tool = self.task.tools[call["name"]]
        arguments = {tool.word(key): value for key, value in call["arguments"].items()}
        return _json({"tool": tool.alias, "arguments": arguments})


class Retriever:
    """Finds rows that are worded like a query."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = sorted(rows, key=lambda row: row["id"])
        postings: dict[str, list[int]] = defaultdict(list)
        token_sets = [token_set(row["query"]) for row in self._rows]
        for index, tokens in enumerate(token_sets):
            for token in tokens:
                postings[token].append(index)
        self._sizes = np.array([len(tokens) for tokens in token_sets])
        self._postings = {token: np.array(indices) for token, indices in postings.items()}

    def nearest(self, query: str, count: int, hidden: str) -> list[Row]:
        """The rows with the highest token-set Jaccard similarity, the nearest last.

        The row with the id ``hidden`` is left out: a rewrite must not be shown its own command.
        """
        tokens = token_set(query)
        known = [self._postings[token] for token in tokens if token in self._postings]
        if not known:
            return []
        counts = np.bincount(np.concatenate(known))
        (like,) = counts.nonzero()
        shared = counts[like]
        similarities = shared / (len(tokens) + self._sizes[like] - shared)
        ranked = like[np.argsort(-similarities, kind="stable")]
        found: list[Row] = []
        per_tool: Counter[str] = Counter()
        for index in ranked:
            row = self._rows[index]
            if row["id"] == hidden or per_tool[row["call"]["name"]] == _MOST_PER_TOOL:
                continue
            per_tool[row["call"]["name"]] += 1
            found.append(row)
            if len(found) == count:
                break
        return found[::-1]


def choose_rows(rows: Sequence[Row], count: int, skip_slices: frozenset[str]) -> list[Row]:
    """Commands to rewrite: ``count`` rows with a tool, none of ``skip_slices``, as in `in_turn`."""
    fit = [
        r for r in rows if r["call"]["name"] != NO_CALL.name and not skip_slices & {*r["slices"]}
    ]
    return in_turn(fit, count)


def in_turn(rows: Sequence[Row], count: int) -> list[Row]:
    """``count`` rows: the tools in turn, within a tool by id."""
    by_tool: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["id"]):
        by_tool[row["call"]["name"]].append(row)
    depth = max(map(len, by_tool.values()), default=0)
    turns = [by_tool[t][n] for n in range(depth) for t in sorted(by_tool) if n < len(by_tool[t])]
    return turns[:count]


def _source(row: Row) -> Row:
    return {"source_id": row["id"], "command": row["query"], "gold": row["call"]}


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
