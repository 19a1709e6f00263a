"""Speed, memory and price of one ONNX variant, one query at a time."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from supertiny.conversation import Said
from supertiny.errors import UserError
from supertiny.metrics import latency
from supertiny.modelfolder import size_mb
from supertiny.params.benchmark import Benchmark
from supertiny.runtime import OnnxStudent, Timing, spread


def benchmark(folder: Path, queries: Sequence[Said], params: Benchmark) -> dict[str, Any]:
    """Time a model folder on queries at batch 1; call it in a process that does nothing else.

    Returns:
        The metrics of `summarise`, then ``peak_rss_mib`` (the whole process: interpreter, ONNX
        Runtime, model), ``size_mb`` (every file needed to run), ``threads``.

    Raises:
        UserError: the folder is incomplete or there are no queries.
    """
    if not queries:
        raise UserError("benchmark: no test inputs; run `dvc repro prepare`")
    student = OnnxStudent(folder, threads=params.threads)
    for query in spread(queries, params.warmup) if params.warmup else []:
        student.timed(query, params.max_new_tokens)
    chosen = spread(queries, params.queries)
    timings = [
        student.timed(query, params.max_new_tokens)
        for query in tqdm(chosen, unit="query", desc="benchmark", mininterval=1.0)
    ]
    return {
        **summarise(timings, params.usd_per_hour),
        "peak_rss_mib": round(peak_rss_mib()),
        "size_mb": size_mb(folder),
        "threads": params.threads,
    }


def summarise(timings: Sequence[Timing], usd_per_hour: float) -> dict[str, Any]:
    """Metrics of timed queries.

    Returns:
        `supertiny.metrics.latency` from query text to answer text, ``prefill_tokens_per_s`` and
        ``decode_tokens_per_s``.
    """
    return {
        **latency([timing.total_s for timing in timings], usd_per_hour),
        "prefill_tokens_per_s": _rate([(t.prompt_tokens, t.prefill_s) for t in timings]),
        "decode_tokens_per_s": _rate([(t.decode_tokens, t.decode_s) for t in timings]),
    }


def _rate(counts: Sequence[tuple[int, float]]) -> float:
    tokens, seconds = (sum(column) for column in zip(*counts, strict=True))
    return round(tokens / seconds, 1) if tokens else 0.0


def peak_rss_mib() -> float:
    """Most memory this process ever held, in MiB (2**20 bytes)."""
    if sys.platform == "linux":
        # Not getrusage: its maximum is carried over from the parent when a process is started.
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS
