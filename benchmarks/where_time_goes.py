"""The parts of one command in our runtime, in milliseconds: with drafts, a token a pass, and with the
grammar at every step, as a stream has it.

Limits: one query at a time on this machine; the median over dev inputs of each part's sum in one
command, so the parts add up to about the whole.

    python benchmarks/where_time_goes.py [models/onnx/int4] [QUERIES] [THREADS]
"""

import contextlib
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise, takewhile
from pathlib import Path

import numpy as np

from supertiny.decoding import Decoding, Drafted, Greedy
from supertiny.errors import CallError
from supertiny.params import core
from supertiny.queries import read_queries
from supertiny.runtime import MAX_NEW_TOKENS, OnnxStudent, spread
from supertiny.task import load_task

PARTS = ("tokenize", "first pass", "later passes", "detokenize", "read the call")


def parts(
    student: OnnxStudent, query: str, decoder: Callable[[list[int]], Decoding]
) -> tuple[dict[str, float], int, int]:
    """Seconds of each part, passes after the first, tokens of the answer."""
    marks = [time.perf_counter()]

    def mark() -> None:
        marks.append(time.perf_counter())

    prompt = student.encode(query)
    mark()
    decoding = decoder(prompt)
    steps = iter(decoding)
    next(steps)
    mark()
    passes = sum(1 for _ in steps)
    mark()
    ids = decoding.ids()
    text = student.decode(ids)
    mark()
    with contextlib.suppress(CallError):
        student.task.parse_call(text, query)
    mark()
    seconds = {name: b - a for name, (a, b) in zip(PARTS, pairwise(marks), strict=True)}
    return seconds, passes, len(ids)


def drafting_s(student: OnnxStudent, queries: list[str]) -> float:
    """Median seconds of all the drafts of one answer."""
    assert student.drafts is not None
    found = []
    for query in queries:
        prompt = student.encode(query)
        answer = student.generate([prompt], MAX_NEW_TOKENS)[0]
        start = time.perf_counter()
        at = 0
        while at <= len(answer):
            draft = student.drafts.draft(prompt, answer[:at])
            pairs = zip(draft, answer[at:], strict=False)
            at += 1 + sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        found.append(time.perf_counter() - start)
    return float(np.median(found))


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "models/onnx/int4")
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 200
    threads = int(sys.argv[3]) if len(sys.argv) > 3 else 2
    task = load_task(core.task_name())
    queries = [
        r["query"] for r in spread(read_queries(Path("data/queries/dev.jsonl"), task), count)
    ]
    student = OnnxStudent(folder, threads)
    engine, drafts = student.engine, student.drafts
    assert drafts is not None, f"{folder} has no drafts"
    decoders: dict[str, Callable[[list[int]], Decoding]] = {
        "drafts": lambda prompt: Drafted(engine, prompt, MAX_NEW_TOKENS, drafts),
        "a token a pass": lambda prompt: Greedy(engine, [prompt], MAX_NEW_TOKENS),
        "grammar": lambda prompt: Greedy(engine, [prompt], MAX_NEW_TOKENS, student.grammar),
    }
    found: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in decoders}
    for at, query in enumerate([*queries[:10], *queries]):
        for name, decoder in decoders.items():
            seconds, passes, tokens = parts(student, query, decoder)
            if at < 10:
                continue
            for part, value in seconds.items():
                found[name][part].append(1e3 * value)
            found[name]["whole"].append(1e3 * sum(seconds.values()))
            found[name]["passes after the first"].append(passes)
            found[name]["answer tokens"].append(tokens)
    print(f"{folder}, {len(queries)} queries, {threads} threads\n")
    print(f"| part, median ms | {' | '.join(decoders)} |\n|---|{'---:|' * len(decoders)}")
    for part in (*PARTS, "whole", "passes after the first", "answer tokens"):
        cells = (f"{np.median(found[name][part]):.2f}" for name in decoders)
        print(f"| {part} | {' | '.join(cells)} |")
    print(
        f"\nDrafting all of an answer: {1e3 * drafting_s(student, queries):.2f} ms, in the passes."
    )


if __name__ == "__main__":
    main()
