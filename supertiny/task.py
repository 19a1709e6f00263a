"""A task: the folder that says what the job is, and the texts a student reads and writes for it."""

from __future__ import annotations

import importlib
import re
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import yaml

from supertiny import calls
from supertiny.calls import Tool, ToolCall
from supertiny.conversation import Said, as_query
from supertiny.errors import CallError, UserError
from supertiny.io import read_json

TASKS_DIR = Path("tasks")
PROMPT_FORMS = ("query", "signatures")
_KEYS = {"name", "description", "licence", "language", "prompt", "lowercase"}
_OPTIONAL = {"languages"}
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Task:
    """What the job is; made by `load_task` from a folder with ``task.yaml`` and ``tools.json``.

    With the prompt form ``query`` the student reads the query alone and has the schemas in its
    weights; with ``signatures`` the tools stand before the query in one line each.
    """

    name: str
    description: str
    licence: str
    language: str
    prompt: str
    lowercase: bool
    tools: Mapping[str, Tool]
    folder: Path
    languages: tuple[
        str, ...
    ]  # that rows can be drawn in; `language` alone unless task.yaml has more

    def normalise(self, query: str) -> str:
        """One line, NFKC, lower case if the task says so, and no text that a tokenizer could
        take for a control token."""
        text = " ".join(unicodedata.normalize("NFKC", query).split())
        text = text.replace("<|", "< |")
        return text.lower() if self.lowercase else text

    def as_query(self, said: Said) -> str:
        """A query, or a conversation, as one text; errors as `supertiny.conversation.as_query`."""
        return as_query(said, self.tools)

    def render_prompt(self, query: str) -> str:
        """The text before the student's answer, without the tokenizer's start token."""
        prompt = f" {self.normalise(query)}\n"
        return prompt if self.prompt == "query" else f"{self.signatures()}\n{prompt}"

    def signatures(self) -> str:
        """One line a tool: ``alias(argument: type, optional?: type)  description``."""
        return "\n".join(_signature(tool) for tool in self.tools.values())

    def render_call(self, call: ToolCall) -> str:
        """The student's answer for a call, without the tokenizer's end token."""
        return calls.render_call(call, self.tools)

    def parse_call(self, text: str, query: str | None = None) -> ToolCall:
        """The call an answer stands for; free strings get back the casing they have in ``query``.

        Raises:
            CallError: the answer is no legal call of this task.
        """
        call = calls.parse_call(text, self.tools)
        return self.restore_case(call, query) if query is not None and self.lowercase else call

    def may_become_call(self, text: str) -> bool:
        """Whether an answer that begins so can still turn out legal; `calls.may_become_call`."""
        return calls.may_become_call(text, self.tools)

    def restore_case(self, call: ToolCall, query: str) -> ToolCall:
        """Give each string argument that occurs in the query the query's own casing, where the tool
        allows it: of "Down the volume", ``down`` stays what the schema calls it."""
        plain = " ".join(unicodedata.normalize("NFKC", query).split())
        lowered = plain.lower()
        if len(lowered) != len(plain):  # a few letters change length, positions would not match
            return call
        restored = dict(call.arguments)
        for key, value in call.arguments.items():
            at = lowered.find(value) if isinstance(value, str) else -1
            if at < 0:
                continue
            written = ToolCall(call.name, {**restored, key: plain[at : at + len(value)]})
            with suppress(CallError):
                self.validate(written)
                restored = written.arguments
        return ToolCall(call.name, restored)

    def validate(self, call: ToolCall) -> None:
        """Raises `CallError` for a call that the tools do not allow."""
        calls.validate_call(call, self.tools)

    def equivalent(self, left: ToolCall, right: ToolCall) -> bool:
        """Whether two calls mean the same."""
        return calls.equivalent(left, right, self.tools)

    def soft_score(self, predicted: ToolCall, gold: ToolCall) -> float:
        """Graded agreement in [0, 1]; see `supertiny.calls.soft_score`."""
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
        raise UserError(f"{path}: expected exactly the keys {sorted(_KEYS)}, found {found}")
    if meta["prompt"] not in PROMPT_FORMS:
        raise UserError(f"{path}: prompt: found {meta['prompt']!r}, allowed: {PROMPT_FORMS}")
    if not isinstance(meta["lowercase"], bool):
        raise UserError(f"{path}: lowercase: found {meta['lowercase']!r}, allowed: true, false")
    offered = meta.setdefault("languages", [meta["language"]])
    if not isinstance(offered, list) or meta["language"] not in offered:
        raise UserError(
            f"{path}: languages: found {offered!r}, expected a list with `language` in it"
        )
    return {**meta, "languages": tuple(offered)}


def load_tools(path: Path | str) -> dict[str, Tool]:
    """Tools by name from a JSON list of ``{name, alias, description, parameters}``.

    Raises:
        UserError: a tool is malformed, its schema invalid, or a name or alias taken twice.
    """
    tools: dict[str, Tool] = {}
    raw = read_json(path)
    for index, entry in enumerate(raw if isinstance(raw, list) else [raw]):
        where = f"{path}, tool {index}"
        if not isinstance(entry, dict) or set(entry) != {
            "name", "alias", "description", "parameters"
        }:  # fmt: skip
            raise UserError(f"{where}: expected name, alias, description and parameters")
        tool = Tool(**entry)
        _check_tool(tool, f"{where} ({tool.name})")
        taken = {name for other in tools.values() for name in (other.name, other.alias)}
        if {tool.name, tool.alias} & (taken | {"no_call"}):
            raise UserError(f"{where}: name {tool.name!r} or alias {tool.alias!r} is taken")
        tools[tool.name] = tool
    return tools


def _check_tool(tool: Tool, where: str) -> None:
    try:
        jsonschema.Draft202012Validator.check_schema(tool.parameters)
    except jsonschema.SchemaError as error:
        raise UserError(f"{where}: not a valid JSON Schema: {error.message}") from None
    if tool.parameters.get("type") != "object":
        raise UserError(f"{where}: parameters must be a schema of type object")
    if tool.parameters.get("additionalProperties") is not False:
        raise UserError(f"{where}: parameters must set additionalProperties to false")
    if tool.alias.strip() != tool.alias or not tool.alias or "\n" in tool.alias:
        raise UserError(f"{where}: alias must be one line without outer blanks")
    for key, schema in tool.properties.items():
        if not _IDENTIFIER.fullmatch(key):
            raise UserError(f"{where}: argument name {key!r} must match {_IDENTIFIER.pattern}")
        unknown = set(schema.get("x-fold", ())) - calls.FOLDS
        if unknown:
            raise UserError(f"{where}, {key}: unknown x-fold {sorted(unknown)}")
        if not _IDENTIFIER.fullmatch(tool.word(key)):
            raise UserError(f"{where}, {key}: x-alias {tool.word(key)!r} must be one word")
    words = [tool.word(key) for key in tool.properties]
    if len(set(words)) != len(words):
        raise UserError(f"{where}: two arguments have the same x-alias")


def _signature(tool: Tool) -> str:
    required = set(tool.parameters.get("required", ()))
    arguments = ", ".join(
        f"{tool.word(key)}{'' if key in required else '?'}: {_type(schema)}"
        for key, schema in tool.properties.items()
    )
    return f"{tool.alias}({arguments})  {tool.description}".rstrip()


def _type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return "|".join(map(str, schema["enum"]))
    if "anyOf" in schema:
        return "|".join(_type(option) for option in schema["anyOf"])
    kind = str(schema.get("type", "any"))
    if "minimum" in schema and "maximum" in schema:
        kind += f" {schema['minimum']}..{schema['maximum']}"
    return kind


__all__ = ["CallError", "Task", "Tool", "ToolCall", "load_task", "load_task_folder", "load_tools"]
