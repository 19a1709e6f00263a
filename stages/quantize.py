"""Make one quantized ONNX variant of the student, and measure how far it is from the original.

Limits: weights only, round to nearest, no calibration data; other answers than fp32 gives are
expected on some inputs and counted, `evaluate` says whether they are worse ones.

    dvc repro quantize@int8        (or: python -m stages.quantize int8)
"""

from pathlib import Path

from supertiny.export import parity, parity_queries
from supertiny.io import read_jsonl, write_json
from supertiny.params.core import task_name
from supertiny.params.quantize import Quantize
from supertiny.quantize import quantize_onnx
from supertiny.stage import one_argument, run_stage
from supertiny.task import load_task

SOURCE = Path("models/tiny")


def main(params: Quantize) -> None:
    """Write models/onnx/<variant> and metrics/quantize/<variant>.json."""
    variant = one_argument(params.variants, "quantize.variants in params.yaml")
    out = Path("models/onnx") / variant
    queries = parity_queries(read_jsonl("data/queries/test.jsonl"), params.parity_rows)
    quantize_onnx(SOURCE, load_task(task_name()), out, variant, params.block_size)
    metrics = parity(SOURCE, out, queries, params.max_new_tokens)
    write_json(f"metrics/quantize/{variant}.json", metrics)


if __name__ == "__main__":
    run_stage(main, Quantize)
