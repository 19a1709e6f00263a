"""Draw the task's inputs with gold calls into train, dev and a frozen test, without leakage.

Limits: gold is what the sentence was sampled from; how people really say it comes from the teacher.

    dvc repro prepare        (or: python -m stages.prepare)
"""

from pathlib import Path

from supertiny.errors import UserError
from supertiny.io import write_json, write_jsonl
from supertiny.params.core import task_name
from supertiny.params.prepare import Prepare
from supertiny.prepare import describe, draw_splits, leakage, sources
from supertiny.review import REVIEW, decisions, kept_texts
from supertiny.stage import run_stage
from supertiny.task import load_task

OUT = Path("data/queries")


def main(params: Prepare) -> None:
    """Write data/queries/{train,dev,test}.jsonl and metrics/prepare.json."""
    task = load_task(task_name())
    rewrites = list(kept_texts(decisions(task, REVIEW)).values())
    splits, refused = draw_splits(sources(task, params), task, params, rewrites)
    leaks = leakage(splits, params.max_similarity, rewrites)
    found = {key: value for key, value in leaks.items() if key.startswith("leak_") and value}
    if found:
        raise UserError(f"test or dev leaks into train: {found}; the task's source broke a split")
    for split, rows in splits.items():
        write_jsonl(OUT / f"{split}.jsonl", rows)
    write_json("metrics/prepare.json", {**describe(splits), **leaks, **refused})


if __name__ == "__main__":
    run_stage(main, Prepare)
