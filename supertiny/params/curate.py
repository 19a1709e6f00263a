"""Parameters of the stage `curate`."""

from dataclasses import dataclass

from supertiny.params.core import param
from supertiny.precision import PRECISIONS

VERIFIERS = ("call", "judge", "student")


@dataclass(frozen=True)
class Curate:
    """What a rewrite must show to be learned from."""

    verifiers: tuple[str, ...] = param(
        "who is asked whether a rewrite means its gold call: the teacher's blind call, the judge, "
        "a student's blind call",
        choices=VERIFIERS,
    )
    min_votes: int = param("verifiers that must vouch for a row", ge=1)
    min_grade: int = param(
        "lowest grade, of faithful and natural, the judge vouches for", ge=1, le=5
    )
    rewrite_share: float = param(
        "share of accepted rewrites among the rows students learn from; commands make up the rest, "
        "and all of them are taken where there are no rewrites",
        ge=0.001,
        le=1,
    )
    max_new_tokens: int = param("tokens a student's blind call may take", ge=1)
    batch_size: int = param("rewrites a student answers at once", ge=1)
    precision: str = param(
        "of the student. auto: bf16 where the hardware multiplies it, else fp32",
        choices=PRECISIONS,
    )
    max_similarity: float = param(
        "token-set Jaccard similarity from which two inputs count as near-duplicates", ge=0, le=1
    )
