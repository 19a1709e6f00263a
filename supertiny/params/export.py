"""Parameters of the stage `export`."""

from dataclasses import dataclass

from supertiny.params.core import param


@dataclass(frozen=True)
class Export:
    """How the exported fp32 model is compared with its PyTorch weights."""

    parity_rows: int = param("test inputs, spread evenly, on which the two are compared", ge=1)
    max_new_tokens: int = param("longest answer compared, in tokens", ge=1, le=512)
