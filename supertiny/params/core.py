"""params.yaml into typed frozen dataclasses, one per section, with every mistake named.

The top keys of params.yaml are `task` and one section per module of this package: section `sft` is
the dataclass `Sft` in `supertiny/params/sft.py`. A stage depends only on its own section's module,
so a new section re-runs nothing; still every section is checked before any stage does any work.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import yaml

from supertiny.errors import UserError

PARAMS_FILE = Path("params.yaml")
_Section = TypeVar("_Section")


def param(
    doc: str, *, ge: float | None = None, le: float | None = None, choices: Any = None
) -> Any:
    """A dataclass field with its documentation and the range of its legal values."""
    return dataclasses.field(metadata={"doc": doc, "ge": ge, "le": le, "choices": choices})


def load(section: type[_Section], path: Path | str = PARAMS_FILE) -> _Section:
    """The values of one section, after every section of the file has been checked.

    Raises:
        UserError: the file is missing or no mapping; a key is unknown or missing; a value has the
            wrong type or lies outside its range. All mistakes are listed at once.
    """
    values = load_all(path)
    return values[section.__name__.lower()]


def load_all(path: Path | str = PARAMS_FILE) -> dict[str, Any]:
    """Every section as an instance of its dataclass, and `task` as a string."""
    raw = _read(Path(path))
    sections = _section_classes()
    problems = _key_problems(raw, {"task", *sections}, "")
    built: dict[str, Any] = {}
    if not isinstance(raw.get("task", ""), str):
        problems.append(f"task: found {raw['task']!r}, expected the name of a folder under tasks/")
    for name, cls in sections.items():
        if name in raw:
            built[name] = _build(cls, raw[name], name, problems)
    if problems:
        listing = "\n".join(f"  - {problem}" for problem in problems)
        raise UserError(f"{path}: {len(problems)} problem(s), nothing was run\n{listing}")
    return {"task": raw["task"], **built}


def task_name(path: Path | str = PARAMS_FILE) -> str:
    """The task the graph runs for, the top-level key `task`."""
    return load_all(path)["task"]


def describe(section: type) -> list[tuple[str, str, str]]:
    """``(key, type and range, documentation)`` of each field, for `supertiny params`."""
    hints = typing.get_type_hints(section)
    return [
        (field.name, _allowed(hints[field.name], field.metadata), field.metadata["doc"])
        for field in dataclasses.fields(section)
    ]


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: file not found; run from the repository root")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected a mapping of sections, found {type(raw).__name__}")
    return raw


def _section_classes() -> dict[str, type]:
    # Loaded by name, not by import statements: checking a section is no dependency on its meaning.
    package = importlib.import_module("supertiny.params")
    names = sorted(info.name for info in pkgutil.iter_modules(package.__path__))
    return {
        name: getattr(importlib.import_module(f"supertiny.params.{name}"), name.capitalize())
        for name in names
        if name != "core"
    }


def _key_problems(found: dict[str, Any], expected: set[str], prefix: str) -> list[str]:
    unknown = [
        f"{prefix}{key}: unknown key; allowed here: {', '.join(sorted(expected))}"
        for key in found
        if key not in expected
    ]
    missing = [f"{prefix}{key}: missing" for key in sorted(expected) if key not in found]
    return unknown + missing


def _build(cls: type, raw: Any, name: str, problems: list[str]) -> Any:
    if not isinstance(raw, dict):
        problems.append(f"{name}: found {raw!r}, expected a mapping")
        return None
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    found = _key_problems(raw, set(fields), f"{name}.")
    values = {}
    for key in fields.keys() & raw.keys():
        values[key] = _coerce(raw[key], hints[key])
        if not _fits(values[key], hints[key]) or not _in_range(values[key], fields[key].metadata):
            allowed = _allowed(hints[key], fields[key].metadata)
            found.append(f"{name}.{key}: found {raw[key]!r}, allowed: {allowed}")
    problems += sorted(found)
    return None if found else cls(**values)


def _coerce(value: Any, hint: Any) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        return tuple(_coerce(item, typing.get_args(hint)[0]) for item in value)
    return value


def _fits(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if origin is tuple:
        item = typing.get_args(hint)[0]
        return isinstance(value, tuple) and all(_fits(entry, item) for entry in value)
    if hint in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, hint)


def _in_range(value: Any, limits: Any) -> bool:
    entries = value if isinstance(value, tuple) else (value,)
    if limits["choices"] is not None and any(entry not in limits["choices"] for entry in entries):
        return False
    numbers = [entry for entry in entries if isinstance(entry, int | float)]
    low, high = limits["ge"], limits["le"]
    # `not (a <= b)` rather than `a > b`: NaN must fail both bounds.
    return all(
        (low is None or number >= low) and (high is None or number <= high) for number in numbers
    )


def _allowed(hint: Any, limits: Any) -> str:
    text = getattr(hint, "__name__", str(hint)) if typing.get_origin(hint) is None else str(hint)
    if limits["choices"] is not None:
        text += f", one of {', '.join(map(str, limits['choices']))}"
    if limits["ge"] is not None:
        text += f", at least {limits['ge']}"
    if limits["le"] is not None:
        text += f", at most {limits['le']}"
    return text
