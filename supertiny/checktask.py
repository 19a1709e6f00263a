"""Everything about a task's folder that can be wrong before anything is run, and what would run.

A problem stops the graph or makes its result worthless; a note may be as meant. All are collected
before any is shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from supertiny.calls import NO_CALL, ToolCall, call_from_json
from supertiny.errors import CallError, UserError
from supertiny.params.prepare import Prepare
from supertiny.params.teacher import Teacher
from supertiny.prepare import SPLITS, Row
from supertiny.seeds import Rows, read_seeds
from supertiny.task import TASKS_DIR, Task, load_task_folder, load_tools
from supertiny.teacher.recipe import Recipe, load_recipe

PLACEHOLDER = "TODO"
SEEDS = "seeds.jsonl"
_TOOLS_SHOWN = 50  # of a split, those with most rows
# Module of the folder to the function it must have, and whether the graph runs without it.
MODULES = {
    "gold": ("load", False),
    "rules": ("load", False),
    "metrics": ("extra_metrics", True),
    "equivalence": ("equivalent", True),
}


@dataclass
class Findings:
    """What the check of one task found.

    Attributes:
        problems: what must be mended.
        notes: what may be as meant.
        forecast: what the graph would do and ask; empty while there are problems.
    """

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    forecast: list[str] = field(default_factory=list)


def check_task(
    name: str, prepare: Prepare, teacher: Teacher, tasks_dir: Path = TASKS_DIR
) -> Findings:
    """Check a task's folder and foretell its data and its teacher's questions.

    Raises:
        UserError: there is no such folder.
    """
    folder = tasks_dir / name
    if not folder.is_dir():
        known = ", ".join(sorted(path.parent.name for path in tasks_dir.glob("*/task.yaml")))
        raise UserError(f"{folder}: not found; tasks here: {known}; `supertiny new-task` makes one")
    found = Findings()
    task = _load(folder, found)
    if task is None:
        return found
    found.problems += _meta_problems(task)
    found.problems += _fold_problems(task)
    found.notes += _letter_by_letter(task)
    if (folder / SEEDS).is_file():
        _check_seeds(task, folder / SEEDS, found)
    recipe = _recipe(task, found)
    source = _modules(task, prepare, found)
    if not found.problems:
        found.forecast = [*_data(source, prepare), *_questions(recipe, teacher)]
    return found


def _load(folder: Path, found: Findings) -> Task | None:
    try:
        return load_task_folder(folder)
    except UserError as error:
        found.problems.append(str(error))
    try:  # task.yaml is read first: what is wrong with the tools would only show after it is mended
        load_tools(folder / "tools.json")
    except UserError as error:
        if str(error) not in found.problems:
            found.problems.append(str(error))
    seeds, problems = read_seeds(folder / SEEDS) if (folder / SEEDS).is_file() else ([], [])
    found.problems += [f"{folder / SEEDS}: {problem}" for problem in problems]
    return None


def _meta_problems(task: Task) -> Iterator[str]:
    where = task.folder / "task.yaml"
    if task.name != task.folder.name:
        yield f"{where}: name: found {task.name!r}, expected the folder's, {task.folder.name!r}"
    for key in ("description", "licence"):
        value = getattr(task, key)
        if not isinstance(value, str) or not value.strip() or PLACEHOLDER in value:
            yield f"{where}: {key}: found {value!r}, expected {_MEANT[key]}"
    if not task.tools and task.prompt == "query":
        yield f"{task.folder / 'tools.json'}: no tool; expected at least one"


_MEANT = {
    "description": "what the task does, in a sentence",
    "licence": "where tools and texts are from and under which licences",
}


def _fold_problems(task: Task) -> Iterator[str]:
    for tool in task.tools.values():
        for key, schema in tool.properties.items():
            if schema.get("x-fold") and not _takes_strings(schema):
                where = f"{task.folder / 'tools.json'}, {tool.name}, {key}"
                yield f"{where}: x-fold is for strings, the schema allows none"


def _letter_by_letter(task: Task) -> Iterator[str]:
    free = [
        f"{tool.name}.{key}"
        for tool in task.tools.values()
        for key, schema in tool.properties.items()
        if schema.get("type") == "string" and "enum" not in schema and not schema.get("x-fold")
    ]
    if free:
        yield f"compared letter by letter, case included (no x-fold): {', '.join(free)}"


def _takes_strings(schema: Mapping[str, Any]) -> bool:
    parts = [schema, schema.get("items", {}), *schema.get("anyOf", [])]
    types = [part.get("type", ()) for part in parts]
    return any("string" in ([kind] if isinstance(kind, str) else kind) for kind in types)


# -- seeds


def _check_seeds(task: Task, path: Path, found: Findings) -> None:
    seeds, problems = read_seeds(path)
    problems += [problem for seed in seeds for problem in _seed_problems(task, seed)]
    problems += _contradictions(task, seeds)
    found.problems += [f"{path}: {problem}" for problem in problems]
    counts = Counter(seed["call"]["name"] for seed in seeds)
    for tool in task.tools:
        if counts[tool] < 4:
            found.notes.append(f"{path}: {counts[tool]} seeds for {tool}; dev and test need 4")
    if not counts[NO_CALL.name]:
        found.notes.append(f"{path}: no seed calls for nothing ({NO_CALL.name})")
    made_up = [seed["query"] for seed in seeds if _is_made_up(task, seed)]
    if made_up:
        found.notes.append(
            f"{path}: {len(made_up)} seeds have a free string that is not in the query, so it "
            f"cannot be copied from it; the first is {made_up[0]!r}"
        )


def _seed_problems(task: Task, seed: Row) -> Iterator[str]:
    call = call_from_json(seed["call"])
    try:
        task.validate(call)
        again = task.parse_call(task.render_call(call), seed["query"])
    except CallError as error:
        yield f"{seed['query']!r}: {error}"
        return
    if not task.equivalent(again, call):
        yield f"{seed['query']!r}: the student's text for this call reads back as {again.to_json()}"
    capitals = [value for value in _free_strings(task, call) if value != value.lower()]
    if task.lowercase and capitals:
        yield (
            f"{seed['query']!r}: {capitals}: the student reads this in lower case and cannot know the "
            "capitals; write it in lower case, the query's case is put back, or set lowercase: false"
        )


def _contradictions(task: Task, seeds: Sequence[Row]) -> Iterator[str]:
    first: dict[str, ToolCall] = {}
    for seed in seeds:
        call = call_from_json(seed["call"])
        known = first.setdefault(task.normalise(seed["query"]), call)
        if not task.equivalent(known, call):
            yield f"{seed['query']!r}: two seeds say it and mean different calls"


def _is_made_up(task: Task, seed: Row) -> bool:
    free = _free_strings(task, call_from_json(seed["call"]))
    return any(value.lower() not in seed["query"].lower() for value in free)


def _free_strings(task: Task, call: ToolCall) -> list[str]:
    schemas = task.tools[call.name].properties if call.name in task.tools else {}
    return [
        value
        for key, value in call.arguments.items()
        if isinstance(value, str) and "enum" not in schemas.get(key, {})
    ]


# -- the folder's modules and prompts


def _recipe(task: Task, found: Findings) -> Recipe | None:
    if not (task.folder / "teacher.yaml").is_file():
        found.notes.append("no teacher.yaml: an LLM cannot say the queries in other words")
        return None
    try:
        return load_recipe(task)
    except UserError as error:
        found.problems.append(str(error))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # The recipe is read without looking at every type; what it stumbles over is the file's.
        found.problems.append(
            f"{task.folder / 'teacher.yaml'}: not of the form expected: {error!r}"
        )
    return None


def _modules(task: Task, prepare: Prepare, found: Findings) -> Any:
    source = None
    for name, (function, optional) in MODULES.items():
        if optional and not (task.folder / f"{name}.py").is_file():
            continue
        try:
            module = task.module(name)
            if not hasattr(module, function):
                raise UserError(f"no function `{function}`")
            if name == "gold":
                source = module.load(prepare)
        except Exception as error:  # whatever the task's own code raises is a finding about it
            where = f"{task.folder / name}.py"
            text = str(error) if isinstance(error, UserError) else repr(error)
            found.problems.append(text if text.startswith(str(task.folder)) else f"{where}: {text}")
    return source


# -- what the graph would do


def _data(source: Any, prepare: Prepare) -> Iterator[str]:
    wanted = {split: getattr(prepare, f"{split}_rows") for split in SPLITS}
    if not isinstance(source, Rows):
        counts = ", ".join(f"{split} {count}" for split, count in wanted.items())
        yield f"prepare draws from gold.py: {counts}; near-duplicates of test and dev are refused"
        return
    for split, tools in source.tools().items():
        count = min(sum(tools.values()), wanted[split])
        shown = dict(tools.most_common(_TOOLS_SHOWN))
        listing = ", ".join(f"{name} {n}" for name, n in sorted(shown.items()))
        listing += f" and {len(tools) - len(shown)} more tools" if len(tools) > len(shown) else ""
        yield f"prepare takes at most {count} rows for {split} ({listing or 'none belongs to it'})"


def _questions(recipe: Recipe | None, teacher: Teacher) -> Iterator[str]:
    if recipe is None:
        return
    rows = {split: getattr(teacher, f"{split}_rows") for split in SPLITS}
    styles = max(teacher.styles_per_row, teacher.dev_styles_per_row)
    rewrites = min(styles, len(teacher.styles or recipe.styles)) * teacher.samples
    judged = "judge" in recipe.steps and teacher.judge != "none"
    verified = teacher.call_samples + judged
    each = rewrites * (1 + (verified if teacher.verify == "all" else 0))
    yield (
        f"`supertiny record` asks {teacher.model} at most {each} questions a row: {rewrites} "
        f"rewrites, for each {'' if teacher.verify == 'all' else 'in read.jsonl '}"
        f"{teacher.call_samples} blind calls" + (" and a grade" if judged else "")
    )
    listing = ", ".join(f"{split} {count}" for split, count in rows.items())
    limits = f"{teacher.max_calls or 'no limit'} calls, {teacher.max_usd or 'no limit'} USD"
    yield f"rows asked about, if prepare gives as many: {listing}; limits: {limits}"


def render(name: str, found: Findings) -> str:
    """What was found, as text."""
    lines = [f"task {name}: {len(found.problems)} problem(s), {len(found.notes)} note(s)"]
    lines += [f"  problem: {problem}" for problem in found.problems]
    lines += [f"  note: {note}" for note in found.notes]
    lines += [f"  {line}" for line in found.forecast]
    return "\n".join(lines)
