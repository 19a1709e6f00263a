"""What is wrong with a rewrite, seen without asking any model.

A rewrite must hold what its command holds (every value that is copied into the call) and add nothing
(no number, no other choice of an enumerated argument, no room). Rules are allowed to be too strict: a
good rewrite that is lost costs one call, a bad one that is kept teaches a mistake.
"""

from __future__ import annotations

import re
from typing import Any

from supertiny.calls import ToolCall, fold_text
from supertiny.numberwords import fold_number_words
from supertiny.task import Task
from supertiny.teacher.recipe import Recipe

_FOLDS = ("case", "numbers")


def find_problem(text: str, command: str, gold: ToolCall, task: Task, recipe: Recipe) -> str | None:
    """Why ``text`` cannot stand for ``command``; None if no rule objects.

    The reason is a word, for counting, and after a colon what it is about.
    """
    if "\n" in text.strip() or re.search(r'[{}\[\]<>]|"\s*:|\w_\w', text):
        return "json_echo"
    if task.normalise(_bare(text)) == task.normalise(_bare(command)):
        return "echo"
    if len(text.split()) > recipe.max_words:
        return f"too_long: {len(text.split())} words"
    kind = recipe.kind_of[gold.name]
    for rule in recipe.reject:
        applies = not rule.kinds or kind in rule.kinds
        if applies and rule.regex.search(text) and not rule.regex.search(command):
            return rule.reason
    return _missing(text, command, gold, task) or _added(text, command, gold, task, recipe)


def copied_values(command: str, gold: ToolCall, task: Task) -> list[str]:
    """Values of free string arguments that stand in the command, as they stand there folded."""
    schemas = task.tools[gold.name].properties
    folded = fold_text(command, _FOLDS)
    values = [
        fold_text(value, _FOLDS)
        for key, value in sorted(gold.arguments.items())
        if isinstance(value, str) and "enum" not in schemas.get(key, {})
    ]
    return [value for value in values if _has(folded, value)]


def _missing(text: str, command: str, gold: ToolCall, task: Task) -> str | None:
    folded = fold_text(text, _FOLDS)
    for value in copied_values(command, gold, task):
        if not _has(folded, value):
            return f"missing_value: {value}"
    lost = numbers(command) - numbers(text) - {"1"}
    return f"missing_number: {min(lost)}" if lost else None


def _added(text: str, command: str, gold: ToolCall, task: Task, recipe: Recipe) -> str | None:
    allowed = numbers(command) | {
        f"{abs(value):g}"
        for value in gold.arguments.values()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    new = numbers(text) - allowed
    if "1" in new and "1" not in re.findall(r"\d+", text):
        new -= {"1"}  # "the big one" counts nothing
    if new:
        return f"added_number: {min(new)}"
    folded, source = fold_text(text, _FOLDS), fold_text(command, _FOLDS)
    for key, value in sorted(gold.arguments.items()):
        for other in _choices(task.tools[gold.name].properties.get(key, {})):
            if (
                other != value
                and len(other) > 2
                and _has(folded, other)
                and not _has(source, other)
            ):
                return f"changed_choice: {other}"
    words = folded.split()
    spans = {" ".join(words[at : at + size]) for size in (1, 2, 3) for at in range(len(words))}
    spans = {span.strip(".,!?;:") for span in spans}
    for name in sorted(spans & recipe.names):
        if not _has(source, name):
            return f"added_name: {name}"
    return None


def numbers(text: str) -> set[str]:
    """The numbers said in a text, in digits or as words."""
    return {f"{float(n):g}" for n in re.findall(r"\d+(?:\.\d+)?", fold_number_words(text.lower()))}


def _choices(schema: dict[str, Any]) -> list[str]:
    options = [schema, *schema.get("anyOf", ())]
    return [
        str(choice).replace("_", " ") for option in options for choice in option.get("enum", ())
    ]


def _has(folded: str, value: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", folded) is not None


def _bare(text: str) -> str:
    return text.strip().rstrip(".!?")
