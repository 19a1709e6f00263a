"""The verifiable, graded reward of an answer, and which groups of answers teach anything.

Source: STAR, arXiv 2602.03022 (similarity-guided reward).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from supertiny.calls import ToolCall
from supertiny.errors import CallError
from supertiny.task import Task

ILLEGAL = -1.0
MEAN_RANGE = (0.01, 0.99)


def reward(answer: str, query: str, gold: ToolCall, task: Task) -> float:
    """-1 for an answer that is no legal call, else `Task.soft_score` in [0, 1].

    Illegal is what cannot be parsed, names no tool or argument of the task, or breaks its schema.
    Of legal calls another tool gives 0; the right one gives intersection over union of arguments,
    an argument in both counting ROUGE-L for a free string, equality for all else.
    """
    try:
        call = task.parse_call(answer, query)
    except CallError:
        return ILLEGAL
    return task.soft_score(call, gold)


def teaches(rewards: Sequence[float]) -> bool:
    """Whether a group of answers to one query is worth a step: neither hopeless, mastered nor flat.

    Its mean must lie within `MEAN_RANGE`, and its rewards must differ: the advantage is each one's
    distance to the mean.
    """
    low, high = MEAN_RANGE
    return low <= statistics.fmean(rewards) <= high and min(rewards) < max(rewards)
