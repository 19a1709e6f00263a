"""Train the fine-tuned student further on rewards of its own answers (GRPO).

Limits: picks the checkpoint by a few hundred dev rows, so a gain of one row is chance; checkpoints
go to .supertiny/rl, so a killed run goes on from there.

    dvc repro rl        (or: python -m stages.rl)
"""

from pathlib import Path

from supertiny.io import read_jsonl, write_json, write_jsonl, write_tsv
from supertiny.params.core import task_name
from supertiny.params.rl import Rl
from supertiny.rl import CURVE, train
from supertiny.stage import STATE_DIR, run_stage
from supertiny.task import load_task


def main(params: Rl) -> None:
    """Write models/rl, data/rl/unsettled.jsonl, metrics/train/rl.json and the curve."""
    outcome = train(
        base=Path("models/sft"),
        train_rows=read_jsonl("data/curated/train.jsonl"),
        dev_rows=read_jsonl("data/queries/dev.jsonl"),
        task=load_task(task_name()),
        params=params,
        state=STATE_DIR / "rl",
        out=Path("models/rl"),
    )
    write_jsonl("data/rl/unsettled.jsonl", outcome.unsettled)
    write_json("metrics/train/rl.json", outcome.metrics)
    write_tsv("metrics/train/rl_curve.tsv", list(CURVE), (p.values() for p in outcome.curve))


if __name__ == "__main__":
    run_stage(main, Rl)
