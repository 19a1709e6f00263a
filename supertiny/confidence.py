"""How sure a student is of a call, as the share of calls like it that are right."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from supertiny.calls import ToolCall
from supertiny.errors import UserError
from supertiny.io import read_json

CONFIDENCE_FILE = "confidence.json"
_SUREST = -1e-6  # nats; what is nearer to 0 is the rounding of fp32
_KEYS = ("intercept", "slope", "threshold")


@dataclass(frozen=True, eq=False)
class Prediction(ToolCall):
    """A call that a student predicts; equal to any call of the same name and arguments.

    ``confidence`` is the chance in [0, 1] that the call is right, as measured on dev; with
    ``ask_teacher`` it is under the threshold and better put to the large model, or to a person.
    Both are None where the model's folder holds no calibration.
    """

    confidence: float | None = None
    ask_teacher: bool | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ToolCall):
            return NotImplemented
        return (self.name, self.arguments) == (other.name, other.arguments)


@dataclass(frozen=True)
class Calibration:
    """From a raw score to a confidence: Platt's logistic curve, with the threshold for answering.

    Source: Platt 1999, Probabilistic outputs for support vector machines.
    """

    intercept: float
    slope: float
    threshold: float

    def confidence(self, score: float) -> float:
        """The chance in [0, 1] that an answer with this score is right."""
        return 1 / (1 + math.exp(min(700.0, -(self.intercept + self.slope * score))))

    def predict(self, call: ToolCall, score: float) -> Prediction:
        """The call with its confidence."""
        confidence = self.confidence(score)
        return Prediction(call.name, call.arguments, confidence, confidence < self.threshold)


def raw_score(log_probabilities: np.ndarray) -> float:
    """The log-odds that the model itself gives its whole answer, from its tokens' probabilities.

    That is ``ln(p / (1 - p))`` for the product ``p`` of the probabilities, so that the curve of
    intercept 0 and slope 1 gives ``p`` back.
    """
    total = min(_SUREST, float(log_probabilities.sum()))
    return total - math.log(-math.expm1(total))


def read_calibration(folder: Path) -> Calibration | None:
    """The calibration of a model folder, None where it has none.

    Raises:
        UserError: the file is no calibration.
    """
    path = folder / CONFIDENCE_FILE
    if not path.is_file():
        return None
    values = read_json(path)
    if not isinstance(values, dict) or sorted(values) != sorted(_KEYS):
        raise UserError(f"{path}: expected the keys {', '.join(_KEYS)}; run `dvc repro bundle`")
    if not all(isinstance(value, int | float) for value in values.values()):
        raise UserError(f"{path}: expected numbers, found {values}; run `dvc repro bundle`")
    return Calibration(**values)
