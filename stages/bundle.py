"""Write the folder that ships, models/bundle: model, task, grammar, metrics, lineage, model card.

Limits: the commit is not in it, since the graph does not know it; `supertiny export DIR` adds it.

    dvc repro bundle        (or: python -m stages.bundle)
"""

from pathlib import Path

from supertiny.bundle import write_bundle
from supertiny.confidence import CONFIDENCE_FILE
from supertiny.params.bundle import Bundle
from supertiny.params.core import task_name
from supertiny.report import SPLITS
from supertiny.stage import run_stage
from supertiny.task import load_task

METRICS = Path("metrics")
QUERIES = Path("data/queries")
CURATED = Path("data/curated")


def main(params: Bundle) -> None:
    """Write models/bundle."""
    task = load_task(task_name())
    variant = params.variant
    write_bundle(
        model=Path("models/onnx") / variant,
        task=task,
        out=Path("models/bundle"),
        results={
            "evaluation": METRICS / "eval" / task.name / f"{variant}.json",
            "benchmark": METRICS / "bench" / f"{variant}.json",
            "confidence": METRICS / "confidence.json",
            "gate": METRICS / "gate.json",
        },
        inputs={
            "base": Path("models/base/SOURCE.json"),
            "base_weights": Path("models/base/model.safetensors"),
            **{f"{split}_queries": QUERIES / f"{split}.jsonl" for split in SPLITS},
            "curated_train": CURATED / "train.jsonl",
            "test_rewrites": CURATED / "test.rewrites.jsonl",
        },
        calibration=Path("models/confidence") / CONFIDENCE_FILE,
    )


if __name__ == "__main__":
    run_stage(main, Bundle)
