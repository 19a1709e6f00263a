"""Parameters of the stage `quantize`."""

from dataclasses import dataclass

from supertiny.params.core import param
from supertiny.precision import PRECISIONS


@dataclass(frozen=True)
class Quantize:
    """Which quantized variants are made, and how each is compared with the PyTorch weights."""

    variants: tuple[str, ...] = param(
        "weight-only number formats to make", choices=("int8", "int4")
    )
    block_size: int = param("weights that share one scale", choices=(32, 64, 128))
    symmetric: bool = param("whether int4 weights have scales only, no zero points")
    method: str = param(
        "how int4 weights are rounded; int8 is always rtn, round to nearest",
        choices=("autoround", "gptq", "rtn"),
    )
    embedding_bits: int = param("bits of int4's embedding and head", choices=(4, 8))
    keep_int8: int = param(
        "how many parts (a layer's attention or feed-forward) of int4 stay at 8 bits, the ones that "
        "lose most at 4",
        ge=0,
    )
    sensitivity_rows: int = param(
        "dev rows, spread evenly, on which each part's loss is measured", ge=1
    )
    calibration_rows: int = param("train rows, spread evenly, that autoround and gptq see", ge=1)
    calibration_tokens: int = param("of each of them, prompt and answer, at most", ge=8)
    iterations: int = param("autoround steps a layer", ge=1)
    precision: str = param(
        "of autoround's matrix products, not of the model's: fp32, bf16, or auto for bf16 where it is "
        "fast",
        choices=PRECISIONS,
    )
    seed: int = param("of autoround", ge=0)
    parity_rows: int = param("test inputs, spread evenly, on which the two are compared", ge=1)
    max_new_tokens: int = param("longest answer compared, in tokens", ge=1, le=512)
