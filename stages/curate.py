"""Accept the teacher's rewrites that mean their gold call; give every other row its reason.

Limits: a verifier can only vouch for what it understands, so rows that every verifier finds hard are
lost; test rewrites are a person's decisions (data/recordings), never a model's.

    dvc repro curate        (or: python -m stages.curate)
"""

from pathlib import Path

from supertiny.curate import (
    GROUP_COLUMNS,
    Curated,
    apply_review,
    curate,
    group_table,
    reason_counts,
)
from supertiny.evaluate import read_queries
from supertiny.io import read_jsonl, write_json, write_jsonl, write_tsv
from supertiny.params.core import task_name
from supertiny.params.curate import Curate
from supertiny.stage import run_stage
from supertiny.task import load_task

QUERIES = Path("data/queries")
TEACHER = Path("data/teacher")
RECORDINGS = Path("data/recordings")
OUT = Path("data/curated")


def main(params: Curate) -> None:
    """Write data/curated and metrics/curate.json, metrics/curate.tsv."""
    task = load_task(task_name())
    queries = {
        split: [row["query"] for row in read_queries(QUERIES / f"{split}.jsonl", task)]
        for split in ("train", "dev", "test")
    }
    review = read_jsonl(RECORDINGS / task.name / "review.jsonl")
    test = apply_review(read_jsonl(TEACHER / "test.jsonl"), review)
    write_jsonl(OUT / "test.jsonl", test)
    unseen = queries["test"] + [row["query"] for row in test]
    metrics: dict[str, int] = {"test_accepted": len(test)}
    tables: list[list[object]] = []
    for split in ("dev", "train"):  # dev first: train must hold nothing of it
        traces = read_jsonl(TEACHER / f"{split}.jsonl")
        held_out = unseen + (queries["train"] if split == "dev" else [])
        result = curate(traces, task, params, commands=queries[split], held_out=held_out)
        unseen += queries[split] + [row["query"] for row in result.accepted]
        _write(split, result)
        metrics |= _metrics(split, result)
        tables += [[split, *row] for row in group_table(traces, result)]
    write_json("metrics/curate.json", metrics)
    write_tsv("metrics/curate.tsv", ["split", *GROUP_COLUMNS], tables)


def _write(split: str, result: Curated) -> None:
    write_jsonl(OUT / f"{split}.jsonl", result.accepted)
    write_jsonl(OUT / f"{split}.rejected.jsonl", result.rejected + result.failed)
    write_jsonl(OUT / f"{split}.pairs.jsonl", result.pairs)


def _metrics(split: str, result: Curated) -> dict[str, int]:
    counts = {f"{split}_funnel_{name}": count for name, count in result.funnel.items()}
    reasons = reason_counts(result.rejected)
    counts |= {f"{split}_rejected_{reason}": count for reason, count in reasons.items()}
    ends = {"rejected": result.rejected, "failed": result.failed, "pairs": result.pairs}
    return counts | {f"{split}_{name}": len(rows) for name, rows in ends.items()}


if __name__ == "__main__":
    run_stage(main, Curate)
