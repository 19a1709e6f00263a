"""Make one quantized ONNX variant of the student, and measure how far it is from the original.

int8 is rounded to nearest; int4 by the method of params.yaml, calibrated on commands of train.
Limits: weights only; other answers than fp32 gives are expected on some inputs and counted,
`evaluate` says whether they are worse ones. The sensitivity of a part is measured with the others
unrounded, so it says nothing of how their errors add up.

    dvc repro quantize@int4        (or: python -m stages.quantize int4)
"""

from pathlib import Path

from supertiny.calibration import calibrated
from supertiny.encoding import encode
from supertiny.export import parity, parity_queries
from supertiny.io import read_jsonl, write_json, write_tsv
from supertiny.params.core import task_name
from supertiny.params.quantize import Quantize
from supertiny.quantize import BITS, quantize_onnx, shares
from supertiny.runtime import spread
from supertiny.scoring import load_fp32
from supertiny.sensitivity import Loss, most_sensitive, sensitivity
from supertiny.stage import one_argument, run_stage
from supertiny.task import load_task

SOURCE = Path("models/tiny")
ONNX = Path("models/onnx")
QUERIES = Path("data/queries")
METRICS = Path("metrics/quantize")


def main(params: Quantize) -> None:
    """Write models/onnx/<variant>, metrics/quantize/<variant>.json and <variant>.sensitivity.tsv."""
    variant = one_argument(params.variants, "quantize.variants in params.yaml")
    task = load_task(task_name())
    queries = parity_queries(read_jsonl(QUERIES / "test.jsonl"), params.parity_rows)
    dev = spread(read_jsonl(QUERIES / "dev.jsonl"), params.sensitivity_rows)
    symmetric = params.symmetric or variant == "int8"
    losses = sensitivity(
        load_fp32(SOURCE), encode(SOURCE, dev, task), BITS[variant], params.block_size, symmetric
    )
    learned, keep = None, set()
    if variant == "int4":
        keep = most_sensitive(losses, params.keep_int8)
        if params.method != "rtn":
            rows = spread(read_jsonl("data/curated/train.jsonl"), params.calibration_rows)
            learned = calibrated(SOURCE, encode(SOURCE, rows, task), params)
    out = ONNX / variant
    quantize_onnx(ONNX / "fp32", out, variant, params, learned, frozenset(keep))
    metrics = parity(SOURCE, out, queries, params.max_new_tokens)
    write_tsv(METRICS / f"{variant}.sensitivity.tsv", list(Loss._fields), losses)
    write_json(METRICS / f"{variant}.json", metrics | shares(out))


if __name__ == "__main__":
    run_stage(main, Quantize)
