"""The rule baseline: VADER itself, as its package is."""

from __future__ import annotations

from pathlib import Path

from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from supertiny.calls import ToolCall
from tasks.feedback import ratings


class Rules:
    """Answers with VADER's compound score, stretched from [-1, 1] to the raters' [-4, 4]."""

    def __init__(self) -> None:
        self._vader = SentimentIntensityAnalyzer()

    def answer(self, query: str) -> ToolCall:
        """The call nearest to VADER's score; its thresholds are those the gold calls have."""
        return ratings.call_of(4 * self._vader.polarity_scores(query)["compound"])


def load(folder: Path, queries_dir: Path) -> Rules:
    """The baseline for the stage `evaluate`; it learns nothing, so it reads no rows."""
    del folder, queries_dir
    return Rules()
