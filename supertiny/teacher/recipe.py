"""A task's ``teacher.yaml``: the steps, their prompts and functions, styles, examples and rules.

A step is one LLM call that must answer through a function. There are three: ``rewrite`` says a command
in another way, ``call`` is shown the rewrite alone and says what it means, ``judge`` (optional) grades
the rewrite against the command. Prompts are `string.Template` texts; which ``${names}`` a step may use
is in `PLACEHOLDERS`.
"""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from supertiny.errors import UserError
from supertiny.task import Task
from supertiny.teacher.messages import Function, Message, canonical_json, make_request

PLACEHOLDERS = {
    "rewrite": {"command", "examples", "how", "keep", "style"},
    "call": {"examples", "query", "signatures"},
    "judge": {"call", "command", "rewrite"},
}
# What the pipeline reads from the arguments that a step's function is called with.
_ARGUMENTS = {
    "rewrite": {"text"},
    "call": {"tool"},
    "judge": {"faithful", "natural", "reason"},
}
_STEP_KEYS = {"function", "system", "user", "temperature", "top_p", "max_tokens"}
_KEYS = {
    "examples", "kinds", "max_words", "names", "reject", "repair", "retrieved_examples",
    "skip_slices", "steps", "styles",
}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One kind of LLM call: its prompts, its function and how answers are sampled."""

    name: str
    function: Function
    system: string.Template
    user: string.Template
    temperature: float
    top_p: float
    max_tokens: int

    def request(self, model: str, values: Mapping[str, str], *turns: Message) -> dict[str, Any]:
        """The canonical request with the placeholders filled in and ``turns`` after the question."""
        messages = [
            {"role": "system", "content": self.system.substitute(values).strip()},
            {"role": "user", "content": self.user.substitute(values).strip()},
            *turns,
        ]
        return make_request(
            model,
            messages,
            self.function,
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
        )


@dataclass(frozen=True)
class Pattern:
    """A rule: a rewrite that matches, of a command that does not, is rejected for this reason."""

    reason: str
    regex: re.Pattern[str]
    kinds: frozenset[str]  # empty: for every kind of tool


@dataclass(frozen=True)
class Recipe:
    """A checked ``teacher.yaml``."""

    steps: Mapping[str, Step]
    styles: Mapping[str, str]  # name to what it is
    kind_of: Mapping[str, str]  # tool name to its kind
    examples: Mapping[str, Mapping[str, list[list[str]]]]  # kind, style: command and rewrite
    reject: tuple[Pattern, ...]
    names: frozenset[str]  # what a rewrite must not bring in: rooms, floors
    max_words: int
    skip_slices: frozenset[str]  # rows of these slices are not rewritten
    retrieved_examples: int
    repair: string.Template
    sha256: str  # of the file's content, however it is laid out


def load_recipe(task: Task) -> Recipe:
    """Load and check ``teacher.yaml`` of a task's folder.

    Raises:
        UserError: the file is missing or anything in it is not as expected; all of it is listed.
    """
    path = task.folder / "teacher.yaml"
    if not path.is_file():
        raise UserError(f"{path}: not found; a task needs it to be taught by an LLM")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(raw, dict) or set(raw) != _KEYS:
        found = sorted(raw) if isinstance(raw, dict) else type(raw).__name__
        raise UserError(f"{path}: expected exactly the keys {sorted(_KEYS)}, found {found}")
    problems = [*_step_problems(raw["steps"]), *_coverage_problems(raw, task)]
    problems += _number_problems(raw)
    if problems:
        raise UserError(f"{path}: {'; '.join(problems)}")
    return Recipe(
        steps={name: _step(name, body) for name, body in raw["steps"].items()},
        styles=raw["styles"],
        kind_of={tool: kind for kind, tools in raw["kinds"].items() for tool in tools},
        examples=raw["examples"],
        reject=tuple(_pattern(entry, path) for entry in raw["reject"]),
        names=_read_names(path.parent, raw["names"]),
        max_words=raw["max_words"],
        skip_slices=frozenset(raw["skip_slices"]),
        retrieved_examples=raw["retrieved_examples"],
        repair=string.Template(raw["repair"]),
        sha256=hashlib.sha256(canonical_json(raw)).hexdigest(),
    )


def _step_problems(steps: Any) -> list[str]:
    if not isinstance(steps, dict) or not {"rewrite", "call"} <= set(steps) <= set(PLACEHOLDERS):
        return ["steps: expected rewrite, call and, if wanted, judge"]
    return [problem for name, body in steps.items() for problem in _problems_of(name, body)]


def _problems_of(name: str, body: Any) -> list[str]:
    where = f"steps.{name}"
    if not isinstance(body, dict) or set(body) != _STEP_KEYS:
        return [f"{where}: expected exactly the keys {sorted(_STEP_KEYS)}"]
    problems = []
    for part in ("system", "user"):
        template = string.Template(body[part])
        unknown = set(template.get_identifiers()) - PLACEHOLDERS[name]
        if unknown or not template.is_valid():
            allowed = ", ".join(sorted(PLACEHOLDERS[name]))
            problems.append(f"{where}.{part}: unknown ${sorted(unknown)}, allowed: {allowed}")
    parameters = body["function"].get("parameters", {})
    try:
        jsonschema.Draft202012Validator.check_schema(parameters)
    except jsonschema.SchemaError as error:
        return [*problems, f"{where}.function: not a valid JSON Schema: {error.message}"]
    missing = _ARGUMENTS[name] - set(parameters.get("required", ()))
    if missing:
        problems.append(f"{where}.function: must require {sorted(missing)}")
    return problems


def _number_problems(raw: dict[str, Any]) -> list[str]:
    return [
        f"{key}: found {raw[key]!r}, expected a whole number from 1"
        for key in ("max_words", "retrieved_examples")
        if type(raw[key]) is not int or raw[key] < 1
    ]


def _coverage_problems(raw: dict[str, Any], task: Task) -> list[str]:
    listed = [tool for tools in raw["kinds"].values() for tool in tools]
    problems = [f"kinds: tool {tool} is missing" for tool in task.tools if tool not in listed]
    problems += [
        f"kinds: {tool} is no tool of the task" for tool in listed if tool not in task.tools
    ]
    problems += [f"kinds: {tool} is listed twice" for tool in set(listed) if listed.count(tool) > 1]
    for kind in raw["kinds"]:
        for style in raw["styles"]:
            shown = raw["examples"].get(kind, {}).get(style)
            if not shown or any(len(pair) != 2 for pair in shown):
                problems.append(f"examples.{kind}.{style}: expected pairs of command and rewrite")
    return problems


def _step(name: str, body: dict[str, Any]) -> Step:
    return Step(
        name=name,
        function=Function(**body["function"]),
        system=string.Template(body["system"]),
        user=string.Template(body["user"]),
        temperature=float(body["temperature"]),
        top_p=float(body["top_p"]),
        max_tokens=int(body["max_tokens"]),
    )


def _pattern(entry: dict[str, Any], path: Path) -> Pattern:
    try:
        regex = re.compile("|".join(f"(?:{part})" for part in entry["patterns"]), re.IGNORECASE)
        return Pattern(entry["reason"], regex, frozenset(entry.get("kinds", ())))
    except (re.error, KeyError, TypeError) as error:
        raise UserError(f"{path}: reject: {entry!r}: {error}") from None


def _read_names(folder: Path, files: list[str]) -> frozenset[str]:
    names: set[str] = set()
    for file in files:
        if not (folder / file).is_file():
            raise UserError(f"{folder}/teacher.yaml: names: {file}: no such file in {folder}")
        names |= set((folder / file).read_text(encoding="utf-8").lower().split("\n")) - {""}
    return frozenset(names)
