"""Cut the student to size: fewer tokens, layers and feed-forward neurons, the mix found on dev.

Limits: the mix is scored before healing, and the best before is not surely the best after; layers
and neurons go once, by importance, not one at a time. `distill` heals the result.

    dvc repro prune        (or: python -m stages.prune)
"""

from pathlib import Path

from supertiny.io import read_jsonl, write_json, write_tsv
from supertiny.params.core import task_name
from supertiny.params.prune import Prune
from supertiny.prune.cut import prune
from supertiny.prune.search import HEADER, table
from supertiny.stage import run_stage
from supertiny.task import load_task

QUERIES = Path("data/queries")
ROWS = {
    "train": Path("data/curated/train.jsonl"),
    "dev": QUERIES / "dev.jsonl",
    "test": QUERIES / "test.jsonl",
}


def main(params: Prune) -> None:
    """Write models/pruned, metrics/prune.json, the search's table and the layers' influence."""
    result = prune(
        source=Path("models/rl"),
        queries={name: read_jsonl(path) for name, path in ROWS.items()},
        task=load_task(task_name()),
        params=params,
        out=Path("models/pruned"),
    )
    write_json("metrics/prune.json", result.metrics)
    write_tsv("metrics/prune/search.tsv", HEADER, table(result.tried, result.chosen))
    write_tsv(
        "metrics/prune/influence.tsv",
        ["layer", "influence"],
        ((layer, f"{value:.6g}") for layer, value in enumerate(result.influence)),
    )


if __name__ == "__main__":
    run_stage(main, Prune)
