"""Scores of answers against gold calls, with intervals; pure functions."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from supertiny.calls import NO_CALL, ToolCall, call_from_json, canonical
from supertiny.errors import CallError
from supertiny.task import Task

UNPARSABLE = "unparsable"  # stands where a tool's name would be in confusion tables
# A student's raw text, a call, or why the query could not be put to the student at all.
Answer = str | ToolCall | CallError
TOOL_COLUMNS = ["tool", "n", "exact_match", "low", "high", "tool_accuracy", "soft_score"]


def wilson_interval(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Score interval of a proportion, 95% by default; ``(0.0, 1.0)`` where nothing was tried.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22; no continuity correction.

    Raises:
        ValueError: not ``0 <= successes <= n``.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}: expected 0 <= successes <= n")
    if n == 0:
        return 0.0, 1.0
    share, z2 = successes / n, z * z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # Rounding must not push the interval off the share itself at 0 of n and n of n.
    return min(max(0.0, centre - half), share), max(min(1.0, centre + half), share)


def latency(seconds: Sequence[float], usd_per_hour: float) -> dict[str, float]:
    """What single requests took: ``n``, ``latency_p50_ms``, ``latency_p95_ms``, and
    ``usd_per_million_requests`` of a machine that answers one after the other, never idle.

    Args:
        seconds: one or more.
    """
    p50, p95 = np.percentile(seconds, [50, 95]) * 1e3
    return {
        "n": len(seconds),
        "latency_p50_ms": round(float(p50), 1),
        "latency_p95_ms": round(float(p95), 1),
        "usd_per_million_requests": round(float(np.mean(seconds)) * 1e6 / 3600 * usd_per_hour, 2),
    }


def paired_bootstrap(
    a: Sequence[bool], b: Sequence[bool], seed: int, rounds: int
) -> tuple[float, float, float]:
    """Exact match of ``b`` minus that of ``a`` on the same rows: ``(difference, low, high)``.

    A 95% percentile interval over ``rounds`` resamples of the rows; positive: ``b`` is better. A
    row's difference is -1, 0 or 1, so a resample is one multinomial draw of the three counts,
    which is the same as drawing the rows. Where no row differs the interval is a single point:
    read it as "not seen to differ", not as certainty.

    Raises:
        ValueError: the lengths differ or there are no rows.
    """
    if len(a) != len(b) or not a:
        raise ValueError(f"expected the same rows in both, found {len(a)} and {len(b)}")
    change = np.asarray(b, dtype=np.int64) - np.asarray(a, dtype=np.int64)
    counts = np.array([(change == value).sum() for value in (-1, 0, 1)])
    n = len(change)
    draws = np.random.default_rng(seed).multinomial(n, counts / n, size=rounds)
    low, high = np.quantile((draws[:, 2] - draws[:, 0]) / n, [0.025, 0.975])
    return float(change.mean()), float(low), float(high)


def score(
    task: Task, rows: Sequence[Mapping[str, Any]], answers: Sequence[Answer]
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Metrics and one prediction per row.

    Metrics are flat, shares in [0, 1], rounded to six digits: ``n``, ``exact_match`` with its
    Wilson 95% interval (``exact_match_low``, ``exact_match_high``), ``tool_accuracy``,
    ``soft_score``, ``unparsable_rate``, ``no_call_precision``, ``no_call_recall``, then
    ``slice_<name>_n`` and ``slice_<name>_exact_match`` for each slice of the rows. An answer that
    is no legal call is wrong, soft score 0, and no ``no_call``. Precision is 0 where ``no_call``
    was never answered, recall is 0 where it is never right.

    Raises:
        ValueError: the number of answers is not the number of rows, or there are no rows.
    """
    if len(rows) != len(answers) or not rows:
        raise ValueError(f"expected one answer per row, found {len(answers)} for {len(rows)}")
    predictions = [predict(task, row, answer) for row, answer in zip(rows, answers, strict=True)]
    return summarise(predictions, [row["slices"] for row in rows]), predictions


def predict(task: Task, row: Mapping[str, Any], answer: Answer) -> dict[str, Any]:
    """One prediction: id, query, gold, predicted (null if no legal call), answer, exact, soft,
    reason (null if exact, else what is wrong)."""
    task, gold, query = task.of(row), call_from_json(row["call"]), row["query"]
    predicted: ToolCall | None = None
    try:
        if isinstance(answer, CallError):
            raise answer
        if isinstance(answer, str):
            predicted = task.parse_call(answer, query)
        else:
            task.validate(answer)
            predicted = task.quote(answer, query)
    except CallError as error:
        reason: str | None = f"{UNPARSABLE}: {error}"
    else:
        reason = difference(task, predicted, gold)
    return {
        "id": row["id"],
        "query": query,
        "gold": gold.to_json(),
        "predicted": predicted.to_json() if predicted else None,
        "answer": _text(task, answer, predicted),
        "exact": reason is None,
        "soft": round(task.soft_score(predicted, gold), 6) if predicted else 0.0,
        "reason": reason,
    }


def _text(task: Task, answer: Answer, predicted: ToolCall | None) -> str:
    if isinstance(answer, str):
        return answer
    if isinstance(answer, CallError):
        return ""
    return task.render_call(answer) if predicted else repr(answer)


def difference(task: Task, predicted: ToolCall, gold: ToolCall) -> str | None:
    """What is wrong with a call, in one line; None if it means the same as the gold one."""
    if task.equivalent(predicted, gold):
        return None
    if predicted.name != gold.name:
        return "other tool"
    found, expected = canonical(predicted, task.tools)[1], canonical(gold, task.tools)[1]
    parts = [f"{key} missing" for key in expected if key not in found]
    parts += [f"{key} not asked for" for key in found if key not in expected]
    parts += [f"{key} differs" for key in found if key in expected and found[key] != expected[key]]
    return ", ".join(sorted(parts)) or "not what the task's own rule takes for right"


def summarise(
    predictions: Sequence[Mapping[str, Any]], slices: Sequence[Iterable[str]]
) -> dict[str, float]:
    """The flat metrics of `score` from its predictions and the slices of each row."""
    n = len(predictions)
    exact = [bool(row["exact"]) for row in predictions]
    named = [(predicted_name(row), row["gold"]["name"]) for row in predictions]
    low, high = wilson_interval(sum(exact), n)
    said = [gold for name, gold in named if name == NO_CALL.name]
    meant = [name for name, gold in named if gold == NO_CALL.name]
    metrics = {
        "n": n,
        "exact_match": _share(exact),
        "exact_match_low": low,
        "exact_match_high": high,
        "tool_accuracy": _share([name == gold for name, gold in named]),
        "soft_score": sum(row["soft"] for row in predictions) / n,
        "unparsable_rate": _share([name == UNPARSABLE for name, _ in named]),
        "no_call_precision": _share([gold == NO_CALL.name for gold in said]),
        "no_call_recall": _share([name == NO_CALL.name for name in meant]),
    }
    members: dict[str, list[bool]] = defaultdict(list)
    for right, names in zip(exact, slices, strict=True):
        for name in sorted(set(names)):
            members[name].append(right)
    for name in sorted(members):
        metrics[f"slice_{name}_n"] = len(members[name])
        metrics[f"slice_{name}_exact_match"] = _share(members[name])
    return {key: round(value, 6) for key, value in metrics.items()}


def predicted_name(prediction: Mapping[str, Any]) -> str:
    """The name of the predicted tool, or ``unparsable``."""
    return prediction["predicted"]["name"] if prediction["predicted"] else UNPARSABLE


def per_tool(predictions: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """One line per gold tool, sorted by its name; the columns are `TOOL_COLUMNS`."""
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in predictions:
        groups[row["gold"]["name"]].append(row)
    return [[name, *_tool_line(name, groups[name])] for name in sorted(groups)]


def _tool_line(name: str, rows: list[Mapping[str, Any]]) -> list[float]:
    right = [bool(row["exact"]) for row in rows]
    same_tool = [predicted_name(row) == name for row in rows]
    soft = sum(row["soft"] for row in rows) / len(rows)
    values = [_share(right), *wilson_interval(sum(right), len(rows)), _share(same_tool), soft]
    return [len(rows), *(round(value, 6) for value in values)]


def confusion(predictions: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """``(gold tool, predicted tool)`` of every prediction, sorted."""
    return sorted((row["gold"]["name"], predicted_name(row)) for row in predictions)


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags) if flags else 0.0
