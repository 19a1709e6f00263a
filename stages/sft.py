"""Fine-tune the student, the loss on the answer only, in two rounds: the base model on commands alone,
then what came of it on curated rows, commands and accepted rewrites.

Limits: the first round's student is one of those that vouch for rewrites, so what it cannot read is
not in the second round's rows; checkpoints go to .supertiny, so a killed run goes on from there.

    dvc repro sft@gold        (or: python -m stages.sft gold; the second round is called sft)
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from supertiny.io import read_jsonl, write_json, write_tsv
from supertiny.params.core import load, task_name
from supertiny.params.sft import Sft
from supertiny.sft import check, train
from supertiny.stage import STATE_DIR, one_argument, run_stage
from supertiny.task import load_task
from supertiny.training import WORKER, is_shared, launch


class Round(NamedTuple):
    """What a round starts from and learns from."""

    base: Path
    rows: Path


ROUNDS = {
    "gold": Round(Path("models/base"), Path("data/queries/train.jsonl")),
    "sft": Round(Path("models/gold"), Path("data/curated/train.jsonl")),
}


def main(params: Sft) -> None:
    """Write models/<round>, metrics/train/<round>.json and the loss curve."""
    name = one_argument(tuple(ROUNDS), "the rounds")
    check(ROUNDS[name].base, params)  # a user's mistake is told once, before several processes
    if is_shared(params):
        launch("sft", params, name)
    else:
        _train(name, params)


def _train(name: str, params: Sft) -> None:
    def report(metrics: dict[str, Any], curve: list[dict[str, float]]) -> None:
        write_json(f"metrics/train/{name}.json", metrics)
        points = (point.values() for point in curve)
        write_tsv(f"metrics/train/{name}_loss.tsv", list(curve[0]), points)

    if name == "gold":
        steps, rate = params.gold_max_steps, params.gold_learning_rate
        params = replace(params, max_steps=steps, learning_rate=rate)
    base, rows = ROUNDS[name]
    state, out = STATE_DIR / name, Path("models") / name
    train(base, read_jsonl(rows), load_task(task_name()), params, state, out, report)


if __name__ == "__main__":
    if sys.argv[-1] == WORKER:
        _train(sys.argv[1], load(Sft))
    else:
        run_stage(main, Sft)
