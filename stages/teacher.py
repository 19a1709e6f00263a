"""Rewrites of the task's commands, their blind calls and grades, by the teacher LLM.

Limits: with the default backend, replay, every answer comes from the committed recording, and a prompt
or param that differs from the recorded one stops the stage. `supertiny record` makes a recording.

    dvc repro teacher        (or: python -m stages.teacher)
"""

import sys
from pathlib import Path

from supertiny.io import write_json, write_jsonl
from supertiny.params.benchmark import Benchmark
from supertiny.params.core import load, task_name
from supertiny.params.teacher import Teacher
from supertiny.stage import run_stage
from supertiny.task import load_task
from supertiny.teacher.asking import Stopped
from supertiny.teacher.run import inputs, speed, teach

OUT = Path("data/teacher")


def main(params: Teacher) -> None:
    """Write data/teacher/{train,dev,test}.jsonl, data/teacher/answers.jsonl, and its speed."""
    task = load_task(task_name())
    queries, recording, live = inputs(task)
    try:
        taught = teach(task, params, queries, recording, live)
    except Stopped as stopped:
        print(f"teacher {stopped}", file=sys.stderr)
        sys.exit(stopped.code)
    for split, traces in taught.traces.items():
        write_jsonl(OUT / f"{split}.jsonl", traces)
    write_jsonl(OUT / "answers.jsonl", taught.answers)
    write_json("metrics/bench/teacher.json", speed(params, recording, load(Benchmark).usd_per_hour))


if __name__ == "__main__":
    run_stage(main, Teacher)
