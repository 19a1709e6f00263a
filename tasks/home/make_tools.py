"""Write tools.json: one tool per intent, its JSON Schema from the intent's own slot definitions.

Types, enumerations and ranges come from the lists that the English sentences put into a slot;
names, descriptions and required slots from the intent's definition. A slot that no English sentence
fills stays an optional string.

    python -m tasks.home.make_tools
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

from hassil.intents import RangeSlotList, SlotList, TextSlotList

from supertiny.io import write_json
from tasks.home import grammar

# What tools and arguments are called in the student's text: one word each that is one token of the
# student's vocabulary, so that an answer has few steps. The rest keep the words of their names.
ALIASES = {
    "HassTurnOn": "on", "HassTurnOff": "off", "HassGetState": "state", "HassGetWeather": "weather",
    "HassGetCurrentDate": "date", "HassGetCurrentTime": "time", "HassLightSet": "light",
    "HassSetPosition": "position", "HassFanSetSpeed": "speed", "HassClimateSetTemperature": "heat",
    "HassClimateGetTemperature": "temp", "HassClimateSetFanMode": "mode", "HassStartTimer": "timer",
    "HassCancelTimer": "cancel", "HassCancelAllTimers": "clear", "HassIncreaseTimer": "more",
    "HassDecreaseTimer": "less", "HassPauseTimer": "hold", "HassUnpauseTimer": "continue",
    "HassTimerStatus": "left", "HassMediaSearchAndPlay": "play", "HassMediaPause": "pause",
    "HassMediaUnpause": "resume", "HassMediaNext": "next", "HassMediaPrevious": "previous",
    "HassMediaPlayerMute": "silent", "HassMediaPlayerUnmute": "sound", "HassSetVolume": "volume",
    "HassSetVolumeRelative": "louder", "HassListAddItem": "add", "HassListRemoveItem": "remove",
    "HassListCompleteItem": "complete", "HassShoppingListAddItem": "shopping",
    "HassShoppingListCompleteItem": "bought", "HassVacuumStart": "vacuum",
    "HassVacuumCleanArea": "clean", "HassVacuumReturnToBase": "base", "HassLawnMowerDock": "dock",
    "HassLawnMowerStartMowing": "lawn", "HassNevermind": "never",
}  # fmt: skip
ARGUMENT_ALIASES = {
    "search_query": "query", "media_class": "media", "device_class": "class", "fan_mode": "mode",
    "volume_level": "level", "volume_step": "step", "conversation_command": "command",
}  # fmt: skip

# What stands in the query as in the call, so that a slip in copying it can be mended.
QUOTED = {"name", "area", "floor", "item", "search_query", "message", "conversation_command"}

FREE_TEXT = {"type": "string", "minLength": 1, "x-fold": ["case", "articles", "numbers"]}


def build_tools() -> list[dict[str, Any]]:
    """All tools, in the order of the intent definitions."""
    intents = grammar.parse(grammar.package_grammar())
    filled = _values_by_slot(intents)
    return [
        {
            "name": name,
            "alias": ALIASES.get(name) or _alias(name),
            "description": definition["description"],
            "parameters": _parameters(
                definition.get("slots", {}), filled[name], _context_slots(intents, name)
            ),
        }
        for name, definition in grammar.intent_definitions().items()
        if name in intents.intents
    ]


def _context_slots(intents: grammar.Intents, name: str) -> set[str]:
    """Slots the home fills from where the speaker is ("vacuum here"): never said, so not required."""
    return {slot for block in intents.intents[name].data for slot in block.requires_context}


def _values_by_slot(intents: grammar.Intents) -> dict[str, dict[str, list[Any]]]:
    """Intent -> slot -> what the sentences put there: slot lists, or constants of a block."""
    filled: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for name, intent in intents.intents.items():
        for block in intent.data:
            for slot, constant in block.slots.items():
                filled[name][slot].append(constant)
            for sentence in block.sentences:
                refs = grammar.list_references(sentence.expression, intents.expansion_rules)
                for ref in refs:
                    filled[name][ref.slot_name].append(intents.slot_lists.get(ref.list_name))
    return filled


def _alias(name: str) -> str:
    words = re.findall(r"[A-Z][a-z]+", name.removeprefix("Hass"))
    return " ".join(words).lower()


def _parameters(
    slots: dict[str, Any], filled: dict[str, list[Any]], from_context: set[str]
) -> dict[str, Any]:
    properties = {
        slot: {
            "description": definition["description"],
            **_schema(filled.get(slot, [None]), slot in QUOTED),
            **({"x-alias": ARGUMENT_ALIASES[slot]} if slot in ARGUMENT_ALIASES else {}),
        }
        for slot, definition in slots.items()
    }
    return {
        "type": "object",
        "properties": properties,
        "required": sorted(
            slot
            for slot, definition in slots.items()
            if definition.get("required") and slot not in from_context
        ),
        "additionalProperties": False,
    }


def _schema(sources: list[Any], quoted: bool) -> dict[str, Any]:
    ranges = [source for source in sources if isinstance(source, RangeSlotList)]
    values = {value for source in sources for value in _constants(source)}
    if any(source is None or _is_open(source) for source in sources):
        return {**FREE_TEXT, **({"x-quoted": True} if quoted else {})}
    words = sorted(value for value in values if isinstance(value, str))
    numbers = [value for value in values if not isinstance(value, str)]
    options = [{"type": "string", "enum": words}] if words else []
    if ranges or numbers:
        options.append(_number_schema(ranges, numbers))
    return options[0] if len(options) == 1 else {"anyOf": options}


def _constants(source: Any) -> list[Any]:
    if isinstance(source, TextSlotList):
        return [value.value_out for value in source.values]
    return [source] if isinstance(source, str | int | float) else []


def _is_open(source: Any) -> bool:
    return isinstance(source, SlotList) and not isinstance(source, RangeSlotList | TextSlotList)


def _number_schema(ranges: list[RangeSlotList], numbers: list[Any]) -> dict[str, Any]:
    bounds = list(numbers)
    for slot_range in ranges:
        scale = int(slot_range.multiplier or 1)
        bounds += [slot_range.start * scale, slot_range.stop * scale]
    fractions = any(slot_range.fraction_type for slot_range in ranges)
    schema: dict[str, Any] = {"type": "number" if fractions else "integer"}
    if fractions:
        schema["multipleOf"] = 0.5
    return {**schema, "minimum": min(bounds), "maximum": max(bounds)}


if __name__ == "__main__":
    write_json(grammar.FOLDER / "tools.json", build_tools())
