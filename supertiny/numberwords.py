"""English number words as digits, for comparing what was said with what was meant."""

from __future__ import annotations

import re

_UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_VALUES = {word: number for number, word in enumerate(_UNITS)} | {
    word: 10 * number for number, word in enumerate(_TENS, 2)
}
_SCALES = {"hundred": 100, "thousand": 1000}


def fold_number_words(text: str) -> str:
    """Replace each run of number words below a million by digits: "twenty-five" becomes "25".

    "and" is part of a number only after a scale ("one hundred and five"); words that cannot follow
    each other in one number stay apart ("five six" becomes "5 6").
    """
    words = re.sub(r"(?<=[a-z])-(?=[a-z])", " - ", text).split(" ")
    out: list[str] = []
    position = 0
    while position < len(words):
        value, used = _read_number(words[position:])
        if used:
            out.append(str(value))
            position += used
        else:
            out.append(words[position])
            position += 1
    return " ".join(out).replace(" - ", "-")


def _read_number(words: list[str]) -> tuple[int, int]:
    """Value and count of leading words of the longest number, ``(0, 0)`` where there is none."""
    total = group = used = position = 0
    room = 1000  # the next plain word must be smaller than this to belong to the same number
    scale_room = 1_000_000
    while position < len(words):
        word = words[position]
        if word in ("-", "and") and used:
            if word == "and" and words[position - 1] not in _SCALES:
                break
            position += 1
            continue
        if word in _VALUES and _VALUES[word] < room and not (used and _VALUES[word] == 0):
            group += _VALUES[word]
            room = 10 if _VALUES[word] >= 20 else 0
        elif word == "hundred" and 0 < group < 10 and room in (0, 1000):
            group, room = group * 100, 100
        elif word == "thousand" and group > 0 and scale_room > 1000:
            total, group, room, scale_room = total + group * 1000, 0, 1000, 1000
        else:
            break
        position += 1
        used = position
    return total + group, used
