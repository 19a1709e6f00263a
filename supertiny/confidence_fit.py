"""Fit the confidence of a student on answers that are known to be right or wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from supertiny.calls import call_from_json
from supertiny.confidence import Calibration
from supertiny.errors import CallError
from supertiny.params.confidence import Confidence
from supertiny.runtime import Answer
from supertiny.task import Task

BINS = 10
TABLE_COLUMNS = ["confidence", "accuracy", "n"]
_RIDGE = 1e-3  # keeps the curve finite where a score separates right from wrong


def judge(
    task: Task, rows: Sequence[Mapping[str, Any]], answers: Sequence[Answer | CallError]
) -> tuple[np.ndarray, np.ndarray]:
    """The raw score of each legal call among scored answers, and whether it means the gold one.

    Other answers are passed over: who asks is told that there is no call.
    """
    scores, right = [], []
    for row, answer in zip(rows, answers, strict=True):
        posed = task.of(row)
        try:
            if isinstance(answer, CallError):
                raise answer
            call = answer.call(posed, row["query"])
        except CallError:
            continue
        scores.append(answer.score)
        right.append(posed.equivalent(call, call_from_json(row["call"])))
    return np.array(scores, dtype=float), np.array(right, dtype=bool)


def calibrate(
    scores: np.ndarray, right: np.ndarray, total: int, params: Confidence
) -> tuple[Calibration, dict[str, Any], list[list[float]]]:
    """Fit on all answers, and say how well such a fit does on answers that it has not seen.

    Args:
        scores: raw scores, shape (answers,).
        right: whether each answer is right, shape (answers,).
        total: inputs, those without a legal answer included.

    Returns:
        The calibration; flat metrics, of which all but ``n``, ``accuracy``, ``auroc``, ``ece_raw``
        and ``threshold`` are of answers that the fit had not seen; and the reliability table, a
        line a bin of `TABLE_COLUMNS`, of the same answers.
    """
    held_out, answered = cross_fit(scores, right, params)
    fitted = fit(scores, right, params.min_accuracy)
    metrics = {
        "n": total,
        "accuracy": right.sum() / total,
        "auroc": auroc(scores, right),
        "ece_raw": calibration_error(_share(scores), right),
        "ece": calibration_error(held_out, right),
        "threshold": fitted.threshold,
        "coverage": answered.sum() / total,
        "accuracy_answered": right[answered].mean() if answered.any() else 0.0,
    }
    rounded = {key: round(float(value), 6) for key, value in metrics.items()}
    return fitted, {**rounded, "n": total}, reliability(held_out, right)


def fit(scores: np.ndarray, right: np.ndarray, min_accuracy: float) -> Calibration:
    """The curve by maximum likelihood, and the lowest threshold that keeps the accuracy.

    As in Platt 1999 the targets are a little inside of 0 and 1, by the number of answers of each
    kind, so that few answers do not give a curve that is too sure.
    """
    positives = int(right.sum())
    negatives = len(right) - positives
    wanted = np.where(right, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    inputs = np.stack([np.ones(len(scores)), scores], axis=1)
    weights = np.array([0.0, 1.0])
    for _ in range(100):  # Newton's method, with shorter steps where it would overshoot
        found = _share(inputs @ weights)
        gradient = inputs.T @ (found - wanted) + _RIDGE * weights
        curvature = (inputs * (found * (1 - found))[:, None]).T @ inputs + _RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        while _loss(inputs, wanted, weights - step) > _loss(inputs, wanted, weights) + 1e-12:
            step /= 2
        weights = weights - step
        if np.abs(step).max() < 1e-9:
            break
    intercept, slope = (round(float(weight), 6) for weight in weights)
    curve = Calibration(intercept, slope, threshold=1.0)
    confidences = apply(curve, scores)
    return Calibration(intercept, slope, choose_threshold(confidences, right, min_accuracy))


def _loss(inputs: np.ndarray, wanted: np.ndarray, weights: np.ndarray) -> float:
    logits = inputs @ weights
    loss = np.logaddexp(0, logits) - wanted * logits
    return float(loss.sum() + _RIDGE / 2 * weights @ weights)


def _share(logits: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -logits))


def apply(calibration: Calibration, scores: np.ndarray) -> np.ndarray:
    """The confidence of each score."""
    return np.array([calibration.confidence(score) for score in scores])


def choose_threshold(confidences: np.ndarray, right: np.ndarray, min_accuracy: float) -> float:
    """The lowest threshold at which the answers kept have the accuracy; 1.0 if there is none.

    One wrong answer more than there is counts among them: a threshold chosen to fit what was seen
    is too low for what comes, and few right answers in a row prove nothing.
    """
    if not len(confidences):
        return 1.0
    order = np.argsort(-confidences, kind="stable")
    kept, n = np.cumsum(right[order]), np.arange(1, len(order) + 1)
    values = confidences[order]
    last_of_ties = np.append(values[1:] < values[:-1], True)
    good = np.flatnonzero((kept / (n + 1) >= min_accuracy) & last_of_ties)
    # Rounded down, so that the last answer kept is kept by the rounded number too.
    return float(np.floor(values[good[-1]] * 1e6) / 1e6) if len(good) else 1.0


def cross_fit(
    scores: np.ndarray, right: np.ndarray, params: Confidence
) -> tuple[np.ndarray, np.ndarray]:
    """What fits on the other folds say of each answer: its confidence, and whether it is given."""
    fold = np.random.default_rng(params.seed).permutation(len(scores)) % params.folds
    confidences, answered = np.zeros(len(scores)), np.zeros(len(scores), dtype=bool)
    for part in range(params.folds):
        seen, unseen = fold != part, fold == part
        fitted = fit(scores[seen], right[seen], params.min_accuracy)
        confidences[unseen] = apply(fitted, scores[unseen])
        answered[unseen] = confidences[unseen] >= fitted.threshold
    return confidences, answered


def auroc(scores: np.ndarray, right: np.ndarray) -> float:
    """The chance that a right answer scores over a wrong one, ties half; 0.5 where one kind lacks."""
    good, bad = scores[right], scores[~right]
    if not len(good) or not len(bad):
        return 0.5
    over = (good[:, None] > bad).sum() + 0.5 * (good[:, None] == bad).sum()
    return float(over / (len(good) * len(bad)))


def reliability(confidences: np.ndarray, right: np.ndarray) -> list[list[float]]:
    """Mean confidence, accuracy and number of answers in bins of as many answers each."""
    order = np.argsort(confidences, kind="stable")
    parts = [part for part in np.array_split(order, BINS) if len(part)]
    return [
        [round(float(confidences[p].mean()), 6), round(float(right[p].mean()), 6), len(p)]
        for p in parts
    ]


def calibration_error(confidences: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error: how far confidence and accuracy lie apart in a bin, on average.

    Source: Naeini et al. 2015, AAAI; with the bins of `reliability`.
    """
    table: Sequence[Sequence[float]] = reliability(confidences, right)
    return sum(abs(mean - share) * n for mean, share, n in table) / max(1, len(right))
