"""The rule baseline: hassil with the package's own grammar, that of the row's language.

It knows every template of the package, those of test included, and every name a home could have, so
it is strong where people speak like the grammar and has no answer elsewhere.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from hassil.intents import Intents, SlotList, TextSlotList
from hassil.recognize import recognize_best

from supertiny.calls import NO_CALL, ToolCall
from tasks.home import grammar, languages
from tasks.home.names import ForeignNames, NameLists

# Where the speaker is: a home always knows it; commands about "here" need some value.
_HERE = "@here"
_DOMAINS = (
    "light", "switch", "fan", "media_player", "climate", "cover", "valve", "lock", "scene", "script",
    "button", "input_boolean", "sensor", "person", "todo", "vacuum", "lawn_mower", "weather",
)  # fmt: skip


class Rules:
    """Answers with hassil's best match, or no_call where nothing matches."""

    def answer(self, query: str, language: str = grammar.LANGUAGE) -> ToolCall:
        """The call hassil recognizes in ``query``, listening for one language."""
        intents, lists = _listening(language)
        result = recognize_best(
            query,
            intents,
            slot_lists=lists,
            intent_context={"area": _HERE},
            language=language,
            best_slot_name="name",
        )
        if result is None:
            return NO_CALL
        arguments = {
            name: _plain(entity.value)
            for name, entity in result.entities.items()
            if entity.value != _HERE
        }
        return ToolCall(result.intent.name, arguments)


def load(folder: Path, queries_dir: Path) -> Rules:
    """The baseline for the stage `evaluate`; it learns nothing, so it reads no rows."""
    del folder, queries_dir
    return Rules()


def _plain(value: Any) -> Any:
    if isinstance(value, list):  # one word for two classes ("store"): the first, as in our data
        value = value[0]
    return value.strip() if isinstance(value, str) else value


@cache
def _listening(language: str) -> tuple[Intents, dict[str, SlotList]]:
    package = grammar.package_grammar(language)
    # Every split is asked for, so which one a name is in is of no account.
    if language == grammar.LANGUAGE:
        lists = NameLists(seed=0, held_out=0.2)
    else:
        lists = ForeignNames(0, 0.2, languages.load(language))
    return grammar.parse(package, package), _home_lists(lists)


def _home_lists(lists: NameLists) -> dict[str, SlotList]:
    names = [(name, name, {"domain": domain}) for domain in _DOMAINS for name in lists.all(domain)]
    for state in ("open", "occupancy"):
        kind = f"binary_sensor_{state}"
        names += [(name, name, {"domain": "binary_sensor"}) for name in lists.all(kind)]
    return {
        "name": TextSlotList.from_tuples(names, name="name"),
        "area": TextSlotList.from_strings(lists.all("area"), name="area"),
        "floor": TextSlotList.from_strings(lists.all("floor"), name="floor"),
    }
