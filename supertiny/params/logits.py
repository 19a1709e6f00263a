"""Parameters of the stage `logits`."""

from dataclasses import dataclass

from supertiny.params.core import param


@dataclass(frozen=True)
class Logits:
    """Which teacher LM's log-probabilities are captured, on what."""

    teacher: str = param("model folder of the student's family, with the same tokenizer")
    seed: int = param("seed of the choice of rows", ge=0)
    rows: int = param("train rows whose gold answers are captured; 0 for all", ge=0)
    k: int = param("most probable tokens kept at each position", ge=1)
    own_share: float = param(
        "share of these rows which the teacher also answers itself; captured where not the gold one",
        ge=0, le=1,
    )  # fmt: skip
    max_new_tokens: int = param("longest answer of its own, in tokens", ge=1, le=512)
    batch_size: int = param("rows that the teacher reads at a time", ge=1)
