"""Parameters of the stage `divergence`."""

from dataclasses import dataclass

from supertiny.params.core import param


@dataclass(frozen=True)
class Divergence:
    """On how much of dev a quantized model is compared with the PyTorch weights, token by token."""

    rows: int = param("dev rows, spread evenly over the file", ge=1)
