"""Numbers as people say them where a fraction is shorter: "half an hour", "to a quarter"."""

from __future__ import annotations

import re
from typing import Any

_TIMES = (
    (r"(?:1|an|one) hour,? (?:and )?(?:30|thirty) minutes?", "an hour and a half"),
    (r"(?:2|two) hours?,? (?:and )?(?:30|thirty) minutes?", "two and a half hours"),
    (r"(?:1|one) hour,? (?:and )?(?:15|fifteen) minutes?", "an hour and a quarter"),
    (r"(?:1|one) minute,? (?:and )?(?:30|thirty) seconds?", "a minute and a half"),
    (r"(?:15|fifteen) minutes?", "a quarter of an hour"),
    (r"(?:30|thirty) minutes?", "half an hour"),
    (r"(?:45|forty[- ]five) minutes?", "three quarters of an hour"),
    (r"(?:1|one) hour", "an hour"),
    (r"(?:1|one) minute", "a minute"),
)
_HALF_HOUR_TIMER = re.compile(r"(?<![\w.-])(?:30|thirty)[- ]minute(?= timer)", re.I)
_PERCENT = r"(?: ?(?:%|percent\b|per cent\b))?"
_LEVELS = (
    (rf"to (?:50|fifty){_PERCENT}", "to half"),
    (rf"to (?:25|twenty[- ]five){_PERCENT}", "to a quarter"),
    (rf"to (?:75|seventy[- ]five){_PERCENT}", "to three quarters"),
    (rf"to (?:33|thirty[- ]three){_PERCENT}", "to a third"),
    (rf"to (?:66|sixty[- ]six){_PERCENT}", "to two thirds"),
    (rf"to (?:20|twenty){_PERCENT}", "to a fifth"),
    (rf"to (?:100|one hundred|a hundred){_PERCENT}", "to full"),
)
_LEVEL_TOOLS = {"HassLightSet", "HassSetPosition", "HassFanSetSpeed", "HassSetVolume"}

_DEGREES = ((r"(\w+)(?:\.5| point five)", r"\1 and a half"),)
# "my 30 minute timer" has no such form.
_BEFORE = (
    r"(?<![\w.-])(?<!\ba )(?<!\bmy )(?<!\bour )(?<!\bthe )(?<!\bone )(?<!\bthat )(?<!\banother )"
)


def say(query: str, tool: str, arguments: dict[str, Any]) -> str:
    """The query with its first number that has one said as a fraction, or as it is.

    A query of which a name or message would change is left alone, as is one with another unit of
    time beside the number ("two hours 30 minutes"): only the forms above are said so.
    """
    if tool.endswith("Timer") or tool == "HassTimerStatus":
        said = _HALF_HOUR_TIMER.sub("half hour", _replace(query, _TIMES))
        units = r"(?:hour|minute|second)s?\b"
        if len(re.findall(units, said, re.I)) > 1:
            return query
    elif tool == "HassClimateSetTemperature":
        said = _replace(query, _DEGREES)
    else:
        said = _replace(query, _LEVELS) if tool in _LEVEL_TOOLS else query
    texts = [value for value in arguments.values() if isinstance(value, str)]
    kept = all(said.lower().count(v.lower()) == query.lower().count(v.lower()) for v in texts)
    return said if kept else query


def _replace(query: str, forms: tuple[tuple[str, str], ...]) -> str:
    for pattern, spoken in forms:
        said, count = re.subn(rf"{_BEFORE}{pattern}(?![\w-])", spoken, query, count=1, flags=re.I)
        if count:
            return said
    return query
