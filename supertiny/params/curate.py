"""Parameters of the stage `curate`."""

from dataclasses import dataclass

from supertiny.params.core import param


@dataclass(frozen=True)
class Curate:
    """What a rewrite must show to be learned from."""

    verifiers: tuple[str, ...] = param(
        "who is asked whether a rewrite means its gold call: the teacher's blind call, the judge, "
        "a student's blind call",
        choices=("call", "judge", "student"),
    )
    min_votes: int = param("verifiers that must vouch for a row", ge=1)
    min_grade: int = param(
        "lowest grade, of faithful and natural, the judge vouches for", ge=1, le=5
    )
    max_similarity: float = param(
        "token-set Jaccard similarity from which two inputs count as near-duplicates", ge=0, le=1
    )
