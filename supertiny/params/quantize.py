"""Parameters of the stage `quantize`."""

from dataclasses import dataclass

from supertiny.params.core import param


@dataclass(frozen=True)
class Quantize:
    """Which quantized variants are made, and how each is compared with the PyTorch weights."""

    variants: tuple[str, ...] = param("weight-only number formats to make", choices=("int8",))
    block_size: int = param("weights that share one scale", choices=(32, 64))
    parity_rows: int = param("test inputs, spread evenly, on which the two are compared", ge=1)
    max_new_tokens: int = param("longest answer compared, in tokens", ge=1, le=512)
