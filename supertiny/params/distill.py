"""Parameters of the stage `distill`."""

from dataclasses import dataclass

from supertiny.params.core import param
from supertiny.trainparams import TrainParams


@dataclass(frozen=True)
class Distill(TrainParams):
    """How the pruned student learns from gold answers and captured log-probabilities."""

    forward_kl: float = param(
        "weight of the forward KL over the teacher's top-k, on the rows captured", ge=0
    )
    tail: float = param(
        "weight of the probability on the student's favourites that are none of the teacher's", ge=0
    )
    cross_entropy: float = param(
        "weight of the cross-entropy of the gold answer, on all rows", ge=0
    )
