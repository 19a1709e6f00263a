"""Measure how far one quantized variant's next-token distributions are from PyTorch's, on dev.

Limits: along the gold answers only, so it says nothing of what follows after a wrong token.

    dvc repro divergence@int8        (or: python -m stages.divergence int8)
"""

from pathlib import Path

from supertiny.divergence import divergence
from supertiny.io import read_jsonl, write_json
from supertiny.params.core import task_name
from supertiny.params.divergence import Divergence
from supertiny.runtime import spread
from supertiny.stage import one_argument, run_stage
from supertiny.task import load_task

ONNX = Path("models/onnx")


def main(params: Divergence) -> None:
    """Write metrics/divergence/<variant>.json."""
    made = sorted(path.name for path in ONNX.iterdir()) if ONNX.is_dir() else []
    variant = one_argument(made, "the variants in models/onnx")
    rows = spread(read_jsonl("data/queries/dev.jsonl"), params.rows)
    metrics = divergence(Path("models/tiny"), ONNX / variant, rows, load_task(task_name()))
    write_json(f"metrics/divergence/{variant}.json", metrics)


if __name__ == "__main__":
    run_stage(main, Divergence)
