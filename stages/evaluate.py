"""Evaluate one variant on the frozen test set: is each tool call the one that was meant?

Right means equivalent to the gold call (`supertiny.calls.canonical`); no partial credit except in
`soft_score`. Honest limits: gold comes from the task's grammar and its own sentences, so the
numbers hold for inputs like those; the untrained `base` is shown the tools and a few examples and
could do better with more prompt work; answers are greedy, those of PyTorch unconstrained.

    python -m stages.evaluate VARIANT   # rules, base, teacher, gold, sft, rl, pruned, tiny, fp32, int8, int4
"""

from pathlib import Path
from typing import Any

from supertiny.conversation import question
from supertiny.evaluate import (
    Answers,
    Outputs,
    few_shot_answers,
    onnx_answers,
    recorded_answers,
    rule_answers,
    torch_answers,
    write_absent,
    write_results,
)
from supertiny.io import read_jsonl
from supertiny.params.core import task_name
from supertiny.params.evaluate import Evaluate
from supertiny.queries import read_queries
from supertiny.stage import one_argument, run_stage
from supertiny.task import Task, load_task

QUERIES = Path("data/queries")
REWRITES = Path("data/curated/test.rewrites.jsonl")  # those that a person kept
TEACHER = Path("data/teacher/answers.jsonl")
MODELS = Path("models")
TORCH = ("gold", "sft", "rl", "pruned", "tiny")
ONNX = ("fp32", "int8", "int4")
VARIANTS = ("rules", "base", "teacher", *TORCH, *ONNX)


def main(params: Evaluate) -> None:
    variant = one_argument(VARIANTS, "the variants")
    task = load_task(task_name())
    rows = [*read_queries(QUERIES / "test.jsonl", task), *read_jsonl(REWRITES)]
    outputs = Outputs.of(
        variant, Path("metrics/eval") / task.name, Path("reports/plots") / task.name
    )
    if variant == "teacher" and not read_jsonl(TEACHER):
        write_absent(outputs)
        print("teacher: this task has none")
        return
    answers = _answers(variant, task, rows, params)
    values = write_results(task, rows, answers, outputs)
    print(
        f"{variant}: exact match {values['exact_match']:.2%} "
        f"({values['exact_match_low']:.2%} to {values['exact_match_high']:.2%}) "
        f"of {values['n']} inputs, tool {values['tool_accuracy']:.2%}, "
        f"unparsable {values['unparsable_rate']:.2%}"
    )


def _answers(variant: str, task: Task, rows: list[dict[str, Any]], params: Evaluate) -> Answers:
    if variant == "teacher":
        return recorded_answers(TEACHER, rows)
    if variant == "rules":
        return rule_answers(task, QUERIES, rows)
    queries = [question(row) for row in rows]
    if variant == "base":
        train = read_queries(QUERIES / "train.jsonl", task)
        return few_shot_answers(task, MODELS / "base", train, queries, params)
    if variant in TORCH:
        return torch_answers(task, MODELS / variant, queries, params)
    return onnx_answers(task, MODELS / "onnx" / variant, queries, params)


if __name__ == "__main__":
    run_stage(main, Evaluate)
