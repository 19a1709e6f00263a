"""Parameters of the stage `benchmark`."""

from dataclasses import dataclass

from supertiny.params.core import param


@dataclass(frozen=True)
class Benchmark:
    """What is timed, and the price that makes seconds into money."""

    variants: tuple[str, ...] = param("ONNX variants to time", choices=("fp32", "int8", "int4"))
    queries: int = param("test inputs that are timed, spread evenly", ge=1)
    warmup: int = param("inputs answered before timing starts", ge=0)
    threads: int = param("CPU threads of one forward pass", ge=1, le=256)
    max_new_tokens: int = param("longest answer, in tokens", ge=1, le=512)
    usd_per_hour: float = param("price of the whole machine; assumed, not measured", ge=0)
