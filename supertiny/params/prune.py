"""Parameters of the stage `prune`."""

from dataclasses import dataclass

from supertiny.params.core import param
from supertiny.precision import PRECISIONS


@dataclass(frozen=True)
class Prune:
    """How the student is cut to size; `distill` heals it afterwards."""

    target_params: int = param("most parameters of the pruned model, a tied head once", ge=1)
    vocabulary_floors: tuple[int, ...] = param(
        "first merges of the tokenizer kept besides the tokens of the training texts, so that "
        "unseen words stay short; each value is one size to try, none leaves the vocabulary whole",
        ge=0,
    )
    layers: tuple[int, ...] = param("numbers of layers to try", ge=1)
    widths: tuple[int, ...] = param("feed-forward widths to try", ge=1)
    measure_rows: int = param("dev rows that importance and the search are measured on", ge=1)
    batch_rows: int = param("rows that go through the model at once", ge=1)
    precision: str = param(
        "auto: the mixes are measured with bf16 weights where the hardware multiplies bf16, "
        "else fp32; what is written is fp32",
        choices=PRECISIONS,
    )
