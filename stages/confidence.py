"""Calibrate the confidence of the ONNX variant that ships, on dev.

Limits: dev has few wrong answers, so the threshold rests on tens of rows; it holds for inputs like
dev's. Metrics of the fit are of answers that it had not seen (cross-validation).

    dvc repro confidence        (or: python -m stages.confidence int8)
"""

from dataclasses import asdict
from pathlib import Path

from supertiny.confidence import CONFIDENCE_FILE
from supertiny.confidence_fit import TABLE_COLUMNS, calibrate, judge
from supertiny.conversation import question
from supertiny.io import read_jsonl, write_json, write_tsv
from supertiny.params.confidence import Confidence
from supertiny.params.core import task_name
from supertiny.runtime import OnnxStudent
from supertiny.stage import one_argument, run_stage
from supertiny.task import load_task

VARIANTS = ("fp32", "int8", "int4")


def main(params: Confidence) -> None:
    """Write models/confidence/confidence.json and metrics/confidence.json, metrics/confidence.tsv."""
    variant = one_argument(VARIANTS, "the variants that may ship")
    rows = read_jsonl("data/queries/dev.jsonl")
    student = OnnxStudent(Path("models/onnx") / variant, params.threads)
    queries = [question(row) for row in rows]
    answers = student.scored_answers(queries, params.max_new_tokens, params.batch_size)
    scores, right = judge(load_task(task_name()), rows, answers)
    calibration, metrics, table = calibrate(scores, right, len(rows), params)
    write_json(Path("models/confidence") / CONFIDENCE_FILE, asdict(calibration))
    write_json("metrics/confidence.json", metrics)
    write_tsv("metrics/confidence.tsv", TABLE_COLUMNS, table)
    print(
        f"answers {metrics['coverage']:.1%} of dev itself, {metrics['accuracy_answered']:.1%} of "
        f"that right; calibration error {metrics['ece_raw']:.3f} -> {metrics['ece']:.3f}"
    )


if __name__ == "__main__":
    run_stage(main, Confidence)
