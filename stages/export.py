"""Turn the student into ONNX for ONNX Runtime GenAI, and prove that it answers the same.

Limits: CPU, fp32; the proof compares token ids and logits on some test inputs, not on all.

    dvc repro export        (or: python -m stages.export)
"""

from pathlib import Path

from supertiny.drafting import DRAFT_ROWS, learn_drafts
from supertiny.export import export_onnx, parity, parity_queries
from supertiny.io import read_jsonl, write_json
from supertiny.params.core import task_name
from supertiny.params.export import Export
from supertiny.runtime import spread
from supertiny.stage import run_stage
from supertiny.task import load_task

SOURCE = Path("models/tiny")
OUT = Path("models/onnx/fp32")


def main(params: Export) -> None:
    """Write models/onnx/fp32 and metrics/export.json."""
    queries = parity_queries(read_jsonl("data/queries/test.jsonl"), params.parity_rows)
    task = load_task(task_name())
    rows = spread(read_jsonl("data/curated/train.jsonl"), DRAFT_ROWS)
    drafts = learn_drafts(SOURCE, rows, task)
    export_onnx(SOURCE, task, OUT, drafts)
    write_json("metrics/export.json", parity(SOURCE, OUT, queries, params.max_new_tokens))


if __name__ == "__main__":
    run_stage(main, Export)
