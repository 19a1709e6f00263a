"""A task: the folder that says what the job is, and the texts a student reads and writes for it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from supertiny import calls
from supertiny.calls import Tool, ToolCall
from supertiny.conversation import Said, as_query
from supertiny.errors import CallError, UserError
from supertiny.quoting import as_said
from supertiny.rowtools import as_text, read_tools
from supertiny.tools import load_tools, signature

TASKS_DIR = Path("tasks")
PROMPT_FORMS = ("query", "signatures")
_KEYS = {"name", "description", "licence", "language", "prompt", "lowercase"}
_OPTIONAL = {"lexicon", "languages"}


@dataclass(frozen=True)
class Task:
    """What the job is; made by `load_task` from a folder with ``task.yaml`` and ``tools.json``.

    With the prompt form ``query`` the student reads the query alone and has the schemas in its
    weights; with ``signatures`` the tools stand before the query in one line each, and a row or query
    may bring ``tools`` of its own in their place: `of` is the task as that one poses it. ``lexicon``
    holds the words that a student may spell otherwise than the query does, see `as_said`.

    ``row`` is the row that the task is posed by, if any.
    """

    name: str
    description: str
    licence: str
    language: str
    prompt: str
    lowercase: bool
    lexicon: frozenset[str]
    tools: Mapping[str, Tool]
    folder: Path
    languages: tuple[str, ...]  # rows can be drawn in; `language` alone unless task.yaml has more
    row: Mapping[str, Any] | None = None

    def of(self, asked: Said) -> Task:
        """The task as a row, or a query, poses it: with its own tools, and held to its answer.

        Raises:
            CallError: tools that are malformed, or that the task has no place for.
        """
        if not isinstance(asked, Mapping):
            return self
        if "tools" not in asked:
            return replace(self, row=asked)
        if self.prompt == "query":
            raise CallError("tools: the student of this task has its tools in the weights")
        return replace(self, row=asked, tools=read_tools(as_text(asked["tools"])))

    def normalise(self, query: str) -> str:
        """One line, NFKC, lower case if the task says so, and no text that a tokenizer could
        take for a control token."""
        text = calls.one_line(query).replace("<|", "< |")
        return text.lower() if self.lowercase else text

    def as_query(self, said: Said) -> str:
        """A query, or a conversation, as one text; errors as `supertiny.conversation.as_query`."""
        return as_query(said, self.tools)

    def render_prompt(self, query: str) -> str:
        """The text before the student's answer, without the tokenizer's start token."""
        prompt = f" {self.normalise(query)}\n"
        if self.prompt == "query":
            return prompt
        return f"{self.signatures()}\n{prompt}".replace("<|", "< |")

    def signatures(self) -> str:
        """One line a tool: `supertiny.tools.signature`."""
        return "\n".join(map(signature, self.tools.values()))

    def render_call(self, call: ToolCall) -> str:
        """The student's answer for a call, without the tokenizer's end token."""
        return calls.render_call(call, self.tools)

    def parse_call(self, text: str, query: str | None = None) -> ToolCall:
        """The call an answer stands for; with ``query``, its strings are spelt and cased as there.

        Raises:
            CallError: the answer is no legal call of this task.
        """
        call = calls.parse_call(text, self.tools)
        if query is None:
            return call
        call = self.quote(call, query)
        return self.restore_case(call, query) if self.lowercase else call

    def quote(self, call: ToolCall, query: str) -> ToolCall:
        """Spell the arguments that quote the query (``x-quoted`` in their schema) as it does; one
        that is like nothing in the query stays."""
        for key, spelt in self._quoted(call, query):
            if spelt not in (None, call.arguments[key]):
                call = self._with(call, key, spelt)
        return call

    def is_made_up(self, call: ToolCall, query: str) -> bool:
        """Whether an argument that should quote the query is like nothing in it."""
        return any(spelt is None for _, spelt in self._quoted(call, query))

    def _quoted(self, call: ToolCall, query: str) -> list[tuple[str, str | None]]:
        """The arguments that quote, each as `supertiny.quoting.as_said` finds it in the query."""
        schemas = self.tools[call.name].properties if call.name in self.tools else {}
        said = self.normalise(query)
        return [
            (key, as_said(value, said, self.lexicon))
            for key, value in call.arguments.items()
            if isinstance(value, str) and schemas.get(key, {}).get("x-quoted")
        ]

    def may_become_call(self, text: str) -> bool:
        """Whether an answer that begins so can still turn out legal; `calls.may_become_call`."""
        return calls.may_become_call(text, self.tools)

    def restore_case(self, call: ToolCall, query: str) -> ToolCall:
        """Give each string argument that occurs in the query the query's own casing, where the tool
        allows it: of "Down the volume", ``down`` stays what the schema calls it."""
        plain = calls.one_line(query)
        lowered = plain.lower()
        if len(lowered) != len(plain):  # a few letters change length, positions would not match
            return call
        for key, value in call.arguments.items():
            at = lowered.find(value) if isinstance(value, str) else -1
            if at >= 0:
                call = self._with(call, key, plain[at : at + len(value)])
        return call

    def _with(self, call: ToolCall, key: str, value: str) -> ToolCall:
        """The call with another value, or as it is where the tools do not allow that one."""
        changed = ToolCall(call.name, {**call.arguments, key: value})
        try:
            self.validate(changed)
        except CallError:
            return call
        return changed

    def validate(self, call: ToolCall) -> None:
        """Raises `CallError` for a call that the tools do not allow."""
        calls.validate_call(call, self.tools)

    def equivalent(self, call: ToolCall, gold: ToolCall) -> bool:
        """Whether a call means the same as the gold one.

        Posed by a row, a task whose folder has an ``equivalence.py`` asks that: its function
        ``equivalent(call, gold, row)`` may go by all that the row says of its answer.
        """
        if self.has_own_equivalence:
            return bool(self.module("equivalence").equivalent(call, gold, self.row))
        return calls.equivalent(call, gold, self.tools)

    @property
    def has_own_equivalence(self) -> bool:
        """Whether the task's own rule says which calls are right, and a row to apply it to is known."""
        return self.row is not None and (self.folder / "equivalence.py").is_file()

    def soft_score(self, predicted: ToolCall, gold: ToolCall) -> float:
        """Graded agreement in [0, 1]; see `supertiny.calls.soft_score`."""
        if self.has_own_equivalence and self.equivalent(predicted, gold):
            return 1.0
        return calls.soft_score(predicted, gold, self.tools)

    def module(self, name: str) -> ModuleType:
        """A Python module of the task's folder, such as ``gold`` or ``rules``."""
        if not (self.folder / f"{name}.py").is_file():
            raise UserError(f"{self.folder}: no {name}.py; this task does not provide `{name}`")
        return importlib.import_module(f"tasks.{self.folder.name}.{name}")


def load_task(name: str, tasks_dir: Path | str = TASKS_DIR) -> Task:
    """Load and check a task folder.

    Raises:
        UserError: folder or file missing, unknown or missing key, a broken tool schema.
    """
    folder = Path(tasks_dir) / name
    if not (folder / "task.yaml").is_file():
        known = sorted(path.parent.name for path in Path(tasks_dir).glob("*/task.yaml"))
        raise UserError(f"{folder}/task.yaml: not found; tasks here: {', '.join(known) or 'none'}")
    return load_task_folder(folder)


def load_task_folder(folder: Path | str) -> Task:
    """Load and check ``task.yaml`` and ``tools.json`` of one folder; errors as in `load_task`."""
    folder = Path(folder)
    if not (folder / "task.yaml").is_file():
        raise UserError(f"{folder}/task.yaml: not found; expected a task folder")
    meta = _load_meta(folder / "task.yaml")
    tools = load_tools(folder / "tools.json")
    return Task(tools=tools, folder=folder, **meta)


def _load_meta(path: Path) -> dict[str, Any]:
    meta = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(meta, dict) or set(meta) - _OPTIONAL != _KEYS:
        found = sorted(meta) if isinstance(meta, dict) else type(meta).__name__
        raise UserError(
            f"{path}: expected the keys {sorted(_KEYS)} and at most {sorted(_OPTIONAL)}, found {found}"
        )
    if meta["prompt"] not in PROMPT_FORMS:
        raise UserError(f"{path}: prompt: found {meta['prompt']!r}, allowed: {PROMPT_FORMS}")
    if not isinstance(meta["lowercase"], bool):
        raise UserError(f"{path}: lowercase: found {meta['lowercase']!r}, allowed: true, false")
    offered = meta.setdefault("languages", [meta["language"]])
    if not isinstance(offered, list) or meta["language"] not in offered:
        raise UserError(
            f"{path}: languages: found {offered!r}, expected a list with `language` in it"
        )
    lexicon = meta.setdefault("lexicon", "")
    if not isinstance(lexicon, str):
        raise UserError(f"{path}: lexicon: expected words with blanks between")
    return {**meta, "languages": tuple(offered), "lexicon": frozenset(lexicon.split())}


__all__ = ["CallError", "Task", "Tool", "ToolCall", "load_task", "load_task_folder", "load_tools"]
