"""Fine-tune the base student on the task's rows, the loss on the answer only.

Limits: trains on gold commands; checkpoints go to .supertiny/sft, so a killed run goes on from there.

    dvc repro sft        (or: python -m stages.sft)
"""

from pathlib import Path

from supertiny.io import read_jsonl, write_json, write_tsv
from supertiny.params.core import task_name
from supertiny.params.sft import Sft
from supertiny.sft import train
from supertiny.stage import STATE_DIR, run_stage
from supertiny.task import load_task


def main(params: Sft) -> None:
    """Write models/sft, metrics/train/sft.json and the loss curve."""
    metrics, curve = train(
        base=Path("models/base"),
        rows=read_jsonl("data/queries/train.jsonl"),
        task=load_task(task_name()),
        params=params,
        state=STATE_DIR / "sft",
        out=Path("models/sft"),
    )
    write_json("metrics/train/sft.json", metrics)
    write_tsv("metrics/train/sft_loss.tsv", list(curve[0]), (point.values() for point in curve))


if __name__ == "__main__":
    run_stage(main, Sft)
