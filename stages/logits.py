"""Capture the teacher LM's top-k log-probabilities on train rows, once, for any number of students.

Limits: in fp32; along gold answers and the teacher's own, never along a student's.

    dvc repro logits        (or: python -m stages.logits)
"""

from pathlib import Path

from supertiny.distill.capture import capture
from supertiny.io import read_jsonl, write_json
from supertiny.params.core import task_name
from supertiny.params.logits import Logits
from supertiny.stage import run_stage
from supertiny.task import load_task


def main(params: Logits) -> None:
    """Write data/logits/train.safetensors and metrics/train/logits.json."""
    metrics = capture(
        teacher=Path(params.teacher),
        rows=read_jsonl("data/curated/train.jsonl"),
        task=load_task(task_name()),
        params=params,
        out=Path("data/logits/train.safetensors"),
    )
    write_json("metrics/train/logits.json", metrics)


if __name__ == "__main__":
    run_stage(main, Logits)
