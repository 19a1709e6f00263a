"""Parameters of the stage `gate`."""

from dataclasses import dataclass

from supertiny.params.core import param


@dataclass(frozen=True)
class Gate:
    """What must hold before a model ships; leakage must be 0 whatever stands here."""

    enforce: bool = param("whether a broken bound stops `dvc repro`; otherwise it is only reported")
    min_greedy_identity: float = param(
        "share of inputs on which fp32 ONNX must write the same answer as PyTorch", ge=0, le=1
    )
    max_int8_exact_match_lost: float = param(
        "share of test inputs that int8 may lose against fp32, net", ge=0, le=1
    )
    max_int8_kl: float = param(
        "mean KL divergence of int8 from PyTorch's next-token distribution on dev (nats a token)",
        ge=0,
    )
    max_int4_exact_match_lost: float = param("the same for int4", ge=0, le=1)
    max_int4_kl: float = param("the same for int4", ge=0)
    rarest_tools: int = param("how many of the tools with the fewest test inputs to look at", ge=1)
    min_rarest_exact_match: float = param("exact match those must have together", ge=0, le=1)
