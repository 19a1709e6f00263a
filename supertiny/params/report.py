"""Parameters of the stage `report`."""

from dataclasses import dataclass

from supertiny.params.core import param


@dataclass(frozen=True)
class Report:
    """How much the report shows and how its intervals are drawn."""

    examples: int = param("wrong answers of the last variant to show", ge=0)
    bootstrap_rounds: int = param("resamples of the test rows per interval", ge=100)
    seed: int = param("seed of the resamples", ge=0)
