"""The parts of one command in our runtime, in milliseconds, with the grammar
at every step, as a stream has it, and without it.

Limits: one query at a time on this machine; the median over dev inputs of each part's sum in one
command, so the parts add up to about the whole.

    python benchmarks/where_time_goes.py [models/onnx/int4] [QUERIES] [THREADS]
"""

import contextlib
import sys
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np

from supertiny.errors import CallError
from supertiny.params import core
from supertiny.queries import read_queries
from supertiny.runtime import MAX_NEW_TOKENS, OnnxStudent, spread
from supertiny.task import load_task

PARTS = ("tokenize", "generator", "prefill", "first token", "steps", "detokenize", "read the call")


def parts(student: OnnxStudent, query: str) -> tuple[dict[str, float], int, int]:
    """Seconds of each part, steps after the first token, tokens of the answer."""
    marks = [time.perf_counter()]

    def mark() -> None:
        marks.append(time.perf_counter())

    prompt = student.encode(query)
    mark()
    generator = student.engine.generator(1, len(prompt) + 2 * MAX_NEW_TOKENS, student.grammar)
    mark()
    generator.append_tokens(np.array([prompt], dtype=np.int32))
    mark()
    generator.generate_next_token()
    mark()
    steps = 0
    while not generator.is_done():
        generator.generate_next_token()
        steps += 1
    mark()
    ids = student.engine.until_end([int(i) for i in generator.get_sequence(0)[len(prompt) :]])
    text = student.decode(ids)
    mark()
    with contextlib.suppress(CallError):
        student.task.parse_call(text, query)
    mark()
    seconds = {name: b - a for name, (a, b) in zip(PARTS, pairwise(marks), strict=True)}
    return seconds, steps, len(ids)


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "models/onnx/int4")
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 200
    threads = int(sys.argv[3]) if len(sys.argv) > 3 else 2
    task = load_task(core.task_name())
    queries = [
        r["query"] for r in spread(read_queries(Path("data/queries/dev.jsonl"), task), count)
    ]
    students = {
        "grammar": OnnxStudent(folder, threads),
        "none": OnnxStudent(folder, threads, constrained=False),
    }
    found: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in students}
    for at, query in enumerate([*queries[:10], *queries]):
        for name, student in students.items():
            seconds, steps, tokens = parts(student, query)
            if at < 10:
                continue
            for part, value in seconds.items():
                found[name][part].append(1e3 * value)
            found[name]["whole"].append(1e3 * sum(seconds.values()))
            found[name]["steps taken"].append(steps)
            found[name]["a step"].append(1e3 * seconds["steps"] / max(1, steps))
            found[name]["answer tokens"].append(tokens)
    print(f"{folder}, {len(queries)} queries, {threads} threads\n")
    print("| part, median ms | grammar | none |\n|---|---:|---:|")
    for part in (*PARTS, "whole", "a step", "steps taken", "answer tokens"):
        cells = (f"{np.median(found[name][part]):.2f}" for name in students)
        print(f"| {part} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
