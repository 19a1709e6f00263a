"""Parameters of the stage `confidence`."""

from dataclasses import dataclass

from supertiny.params.core import param


@dataclass(frozen=True)
class Confidence:
    """How sure the student must be of a call; a less certain one is better put to the teacher."""

    min_accuracy: float = param(
        "share of right calls wanted among those given without asking the teacher", ge=0, le=1
    )
    folds: int = param("parts of dev; each is judged by the fit on the others", ge=2)
    seed: int = param("of the draw of the parts", ge=0)
    batch_size: int = param("dev rows answered together, at most 32", ge=1, le=32)
    max_new_tokens: int = param("limit of an answer", ge=1)
    threads: int = param("CPU threads", ge=1)
