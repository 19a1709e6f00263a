"""Heal the pruned student: on gold answers, and by distillation from captured log-probabilities.

Limits: the teacher is never asked again, so what it would say to a student's own mistakes is not
learned. Checkpoints go to .supertiny/distill, so a killed run goes on from there.

    dvc repro distill        (or: python -m stages.distill)

Each term alone: `dvc exp run -S distill.forward_kl=0 -S distill.tail=0` and
`dvc exp run -S distill.cross_entropy=0`.
"""

import sys
from pathlib import Path
from typing import Any

from supertiny.distill.lessons import Lessons, load_lessons
from supertiny.distill.train import train, usable
from supertiny.io import read_jsonl, sha256_file, write_json, write_tsv
from supertiny.params.core import load, task_name
from supertiny.params.distill import Distill
from supertiny.params.logits import Logits
from supertiny.stage import STATE_DIR, run_stage
from supertiny.task import load_task
from supertiny.training import WORKER, check_fit, is_shared, launch

STUDENT = Path("models/pruned")
LOGITS = Path("data/logits/train.safetensors")


def main(params: Distill) -> None:
    """Write models/tiny, metrics/train/distill.json and the loss curve."""
    # A user's mistake is told once, before there are several processes.
    check_fit(STUDENT, params, "distill")
    found = _lessons()
    usable(found.lessons, params)
    print(f"distill: {len(found.lessons)} rows, {found.left_out} left out for a dropped token")
    if is_shared(params):
        launch("distill", params)
    else:
        _train(params, found)


def _lessons() -> Lessons:
    captured = load(Logits)
    return load_lessons(
        student=STUDENT,
        teacher=Path(captured.teacher),
        logits=LOGITS,
        k=captured.k,
        rows=read_jsonl("data/curated/train.jsonl"),
        task=load_task(task_name()),
    )


def _train(params: Distill, found: Lessons) -> None:
    def report(metrics: dict[str, Any], curve: list[dict[str, float]]) -> None:
        values = {**metrics, "left_out_rows": found.left_out}
        write_json("metrics/train/distill.json", values)
        points = (point.values() for point in curve)
        write_tsv("metrics/train/distill_loss.tsv", list(curve[0]), points)

    state = STATE_DIR / "distill"
    train(STUDENT, found.lessons, sha256_file(LOGITS), params, state, Path("models/tiny"), report)


if __name__ == "__main__":
    if sys.argv[1:] == [WORKER]:
        _train(load(Distill), _lessons())
    else:
        run_stage(main, Distill)
