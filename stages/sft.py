"""Fine-tune the base student on the task's rows, the loss on the answer only.

Limits: trains on gold commands; checkpoints go to .supertiny/sft, so a killed run goes on from there.

    dvc repro sft        (or: python -m stages.sft)
"""

import sys
from pathlib import Path
from typing import Any

from supertiny.io import read_jsonl, write_json, write_tsv
from supertiny.params.core import load, task_name
from supertiny.params.sft import Sft
from supertiny.sft import check, train
from supertiny.stage import STATE_DIR, run_stage
from supertiny.task import load_task
from supertiny.training import WORKER, is_shared, launch

BASE = Path("models/base")


def main(params: Sft) -> None:
    """Write models/sft, metrics/train/sft.json and the loss curve."""
    check(BASE, params)  # a user's mistake is told once, before there are several processes
    if is_shared(params):
        launch("sft", params)
    else:
        _train(params)


def _train(params: Sft) -> None:
    def report(metrics: dict[str, Any], curve: list[dict[str, float]]) -> None:
        write_json("metrics/train/sft.json", metrics)
        points = (point.values() for point in curve)
        write_tsv("metrics/train/sft_loss.tsv", list(curve[0]), points)

    rows, task = read_jsonl("data/queries/train.jsonl"), load_task(task_name())
    train(BASE, rows, task, params, STATE_DIR / "sft", Path("models/sft"), report)


if __name__ == "__main__":
    if sys.argv[1:] == [WORKER]:
        _train(load(Sft))
    else:
        run_stage(main, Sft)
