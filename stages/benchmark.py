"""Time one ONNX variant: latency, tokens per second, peak memory, size, price per million.

Limits: one query at a time, on this machine as busy as it is now; the price per hour is an
assumption of params.yaml. The numbers differ from run to run.

    dvc repro benchmark@int8        (or: python -m stages.benchmark int8)
"""

from pathlib import Path

from supertiny.benchmark import benchmark
from supertiny.conversation import question
from supertiny.io import read_jsonl, write_json
from supertiny.params.benchmark import Benchmark
from supertiny.stage import one_argument, run_stage


def main(params: Benchmark) -> None:
    """Write metrics/bench/<variant>.json."""
    variant = one_argument(params.variants, "benchmark.variants in params.yaml")
    queries = [question(row) for row in read_jsonl("data/queries/test.jsonl")]
    metrics = benchmark(Path("models/onnx") / variant, queries, params)
    write_json(f"metrics/bench/{variant}.json", metrics)


if __name__ == "__main__":
    run_stage(main, Benchmark)
