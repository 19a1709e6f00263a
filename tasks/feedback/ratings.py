"""How people's ratings of a text become a call, and a call becomes a rating again."""

from __future__ import annotations

from collections.abc import Sequence

from supertiny.calls import ToolCall

VALUES = range(-4, 5)  # what a rater could say; the counts of a row are in this order
# VADER calls a text neutral where its score in [-1, 1] is nearer to 0 than 0.05; a fourth of a rating.
NEUTRAL = 0.2
GRID = 0.5


def mean(counts: Sequence[int]) -> float:
    """The mean rating in [-4, 4] of nine counts of raters, who said -4, -3 ... 4."""
    return sum(value * count for value, count in zip(VALUES, counts, strict=True)) / sum(counts)


def sentiment(rating: float) -> str:
    """negative, neutral or positive."""
    if abs(rating) < NEUTRAL:
        return "neutral"
    return "positive" if rating > 0 else "negative"


def call_of(rating: float) -> ToolCall:
    """The call for a rating in [-4, 4]; a text that is not neutral has at least one step of strength."""
    label = sentiment(rating)
    steps = 0 if label == "neutral" else max(1, int(abs(rating) / GRID + 0.5))
    strength = steps * GRID
    whole = int(strength) if strength.is_integer() else strength
    return ToolCall("rate", {"sentiment": label, "intensity": whole})


def rating_of(call: ToolCall) -> float:
    """The rating in [-4, 4] that a call stands for."""
    sign = {"negative": -1, "neutral": 0, "positive": 1}[call.arguments["sentiment"]]
    return sign * float(call.arguments["intensity"])
