"""Accept the teacher's rewrites that mean their gold call, give every other row its reason, and mix
what students learn from: accepted rewrites and commands.

Limits: a verifier can only vouch for what it understands, so rows that every verifier finds hard are
lost; test rewrites are a person's decisions (review.jsonl of the task), never a model's.

    dvc repro curate        (or: python -m stages.curate)
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from supertiny.calls import ToolCall
from supertiny.curate import (
    GROUP_COLUMNS,
    Curated,
    apply_review,
    curate,
    group_table,
    mix,
    precision,
    reason_counts,
    student_calls,
)
from supertiny.io import read_jsonl, write_json, write_jsonl, write_tsv
from supertiny.params.core import task_name
from supertiny.params.curate import Curate
from supertiny.queries import read_queries
from supertiny.review import DOUBTED, READ, REVIEW, decisions
from supertiny.stage import run_stage
from supertiny.task import Task, load_task

QUERIES = Path("data/queries")
TEACHER = Path("data/teacher")
STUDENT = Path("models/gold")  # trained on commands alone
OUT = Path("data/curated")


def main(params: Curate) -> None:
    """Write data/curated and metrics/curate.json, metrics/curate.tsv."""
    task = load_task(task_name())
    rows = {
        split: read_queries(QUERIES / f"{split}.jsonl", task) for split in ("train", "dev", "test")
    }
    queries = {split: [row["query"] for row in found] for split, found in rows.items()}
    rewrites = {"test": apply_review(read_jsonl(TEACHER / "test.jsonl"), decisions(task, REVIEW))}
    read = decisions(task, READ)
    decided = [*read, *decisions(task, DOUBTED)]
    held_out = queries["test"] + [row["query"] for row in rewrites["test"]]
    metrics: dict[str, int] = {}
    tables: list[list[object]] = []
    for split in ("dev", "train"):  # dev first: train must hold nothing of it
        traces = read_jsonl(TEACHER / f"{split}.jsonl")
        student = _student_calls(traces, task, params)
        unseen = held_out + (queries["train"] if split == "dev" else [])
        result = curate(
            traces,
            task,
            params,
            commands=queries[split],
            held_out=unseen,
            student=student,
            read=decided,
        )
        if split == "train":
            metrics |= precision(traces, read, task, params, student)
        rewrites[split] = result.accepted
        held_out += queries[split] + [row["query"] for row in result.accepted]
        write_jsonl(OUT / f"{split}.rejected.jsonl", result.rejected + result.failed)
        write_jsonl(OUT / f"{split}.pairs.jsonl", result.pairs)
        metrics |= _metrics(split, result)
        tables += [[split, *row] for row in group_table(traces, result)]
    for split, found in rewrites.items():
        write_jsonl(OUT / f"{split}.rewrites.jsonl", found)
    metrics["test_accepted"] = len(rewrites["test"])
    mixed = mix(rows["train"], rewrites["train"], params.rewrite_share)
    metrics["train_rows"] = len(mixed)
    write_jsonl(OUT / "train.jsonl", mixed)
    write_json("metrics/curate.json", metrics)
    write_tsv("metrics/curate.tsv", ["split", *GROUP_COLUMNS], tables)


def _student_calls(
    traces: Sequence[dict[str, Any]], task: Task, params: Curate
) -> dict[str, ToolCall | None]:
    if "student" not in params.verifiers or not traces:
        return {}
    return student_calls(traces, task, STUDENT, params)


def _metrics(split: str, result: Curated) -> dict[str, int]:
    counts = {f"{split}_funnel_{name}": count for name, count in result.funnel.items()}
    counts |= {f"{split}_vouched_by_{name}": n for name, n in result.vouched_by.items()}
    counts |= {f"{split}_decided": result.decided[0], f"{split}_decided_right": result.decided[1]}
    reasons = reason_counts(result.rejected)
    counts |= {f"{split}_rejected_{reason}": count for reason, count in reasons.items()}
    ends = {"rejected": result.rejected, "failed": result.failed, "pairs": result.pairs}
    return counts | {f"{split}_{name}": len(rows) for name, rows in ends.items()}


if __name__ == "__main__":
    run_stage(main, Curate)
