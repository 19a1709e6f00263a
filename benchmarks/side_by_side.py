"""The tiny model in our runtime, llama.cpp, OpenVINO GenAI and transformers, and the teacher LLM.

One run, the engines in turn, each in a process of its own, on the same token ids of dev inputs.
`benchmarks/README.md` says how to install the peers and what came out.

    python benchmarks/side_by_side.py --teacher MODEL.gguf --converter llama.cpp/convert_hf_to_gguf.py
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from supertiny.calls import NO_CALL, render_call, render_value
from supertiny.errors import CallError
from supertiny.io import write_json, write_text
from supertiny.metrics import Answer, predict, wilson_interval
from supertiny.modelfolder import size_mb
from supertiny.params import core
from supertiny.params.teacher import Teacher
from supertiny.queries import read_queries
from supertiny.runtime import OnnxStudent, spread
from supertiny.task import Task, load_task
from supertiny.teacher.backends.local import answer_start, chat_text, common_prefix
from supertiny.teacher.functions import read_arguments
from supertiny.teacher.pipeline import Pipeline
from supertiny.teacher.recipe import load_recipe

HERE = Path(__file__).parent
TINY = Path("models/tiny")
BLOCK = 10  # queries that one engine answers before the next one's turn
BATCHES = (1, 8, 32)
STARTS = 3
SETTLE_S = 0.3  # idle threads of the engine before spin for a while
MOST, TEACHER_MOST = 64, 128
TEACHER_QUERIES = 20  # at seconds a query
FTYPES = {"Q8_0": 7, "Q4_0": 2}  # llama.cpp's enum llama_ftype
Written = list[int] | str


@dataclass
class Contestant:
    """An engine with a model, and what was measured of it."""

    name: str
    settings: dict[str, Any]
    size_mb: float
    prompts: list[list[int]]
    read: Callable[[Written], Answer]
    process: subprocess.Popen[str] | None = None
    cold_s: list[float] = field(default_factory=list)
    latency_s: list[float] = field(default_factory=list)
    rates: dict[int, list[float]] = field(default_factory=dict)
    answers: dict[int, Written] = field(default_factory=dict)
    peak_rss_mib: float = 0.0

    @property
    def is_teacher(self) -> bool:
        """Whether it is the LLM that the tiny model stands in for."""
        return "shared" in self.settings

    def start(self) -> None:
        """Start the process and wait for its first answer, which is the cold start."""
        begun = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, HERE / "engines.py", json.dumps(self.settings)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self.ask([0])
        self.cold_s.append(time.perf_counter() - begun)

    def stop(self) -> None:
        """End the process."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def ask(self, places: Sequence[int]) -> tuple[list[Written], float]:
        """Answers to some of the prompts, and seconds."""
        assert self.process and self.process.stdin and self.process.stdout
        most = TEACHER_MOST if self.is_teacher else MOST
        asked = {"prompts": [self.prompts[at] for at in places], "most": most}
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended: run its line alone to see why:\n{self.settings}")
        reply = json.loads(line)
        self.peak_rss_mib = max(self.peak_rss_mib, reply["peak_rss_mib"])
        return reply["answers"], reply["seconds"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--converter", type=Path, help="llama.cpp's convert_hf_to_gguf.py")
    parser.add_argument("--teacher", type=Path, help="the teacher LLM as GGUF")
    parser.add_argument("--work", type=Path, default=Path(".supertiny/side_by_side"))
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--only", default="", help="names that start so, and no other")
    args = parser.parse_args()
    task = load_task(core.task_name())
    rows = spread(read_queries(Path("data/queries/dev.jsonl"), task), args.queries)
    found = [c for c in contestants(args, task, rows) if c.name.startswith(args.only)]
    try:
        measure(found)
    finally:
        for contestant in found:
            contestant.stop()
    raw = [[c.name, c.cold_s, c.latency_s, c.rates, c.answers, c.peak_rss_mib] for c in found]
    write_json(args.work / "raw.json", raw)
    table = [summary(contestant, task, rows) for contestant in found]
    args.out.mkdir(parents=True, exist_ok=True)
    result = {"machine": machine(args.threads), "queries": len(rows), "engines": table}
    write_json(args.out / "side_by_side.json", result)
    write_text(args.out / "side_by_side.md", markdown(result))
    plot(table, args.out / "side_by_side.png")


def contestants(args: argparse.Namespace, task: Task, rows: list[Any]) -> list[Contestant]:
    """Every engine with its model made ready."""
    args.work.mkdir(parents=True, exist_ok=True)
    student = OnnxStudent("models/onnx/int4")
    prompts = [student.encode(row["query"]) for row in rows]
    grammar = gbnf(task)
    found: list[Contestant] = []

    def read(written: Written) -> Answer:
        return written if isinstance(written, str) else student.decode(written)

    def add(name: str, engine: str, model: Path, size: float, guide: str | None) -> None:
        settings = {
            "engine": engine, "model": str(model), "threads": args.threads,
            "grammar": guide, "ends": sorted(student.end_ids),
        }  # fmt: skip
        found.append(Contestant(name, settings, size, prompts, read))

    for variant in ("int4", "int8"):
        folder = Path("models/onnx") / variant
        add(f"supertiny {variant}, grammar", "supertiny", folder, size_mb(folder), "its own")
        add(f"supertiny {variant}", "supertiny", folder, size_mb(folder), None)
    for kind in FTYPES if args.converter else ():
        path = to_gguf(args.converter, args.work, kind)
        for label, engine in (("from source", "llama.cpp"), ("wheel", "llama.cpp server")):
            for guide in (grammar, None):
                name = f"llama.cpp {label} {kind}" + (", grammar" if guide else "")
                add(name, engine, path, path.stat().st_size / 1e6, guide)
    for bits in (4, 8):
        path = args.work / f"openvino-int{bits}"
        if path.is_dir():  # made by the command in README.md: its packages exclude ours
            size = sum(f.stat().st_size for f in path.glob("*.bin")) / 1e6
            add(f"openvino int{bits}", "openvino", path, size, None)
            add(f"openvino int{bits}, grammar", "openvino", path, size, grammar)
    size = sum(f.stat().st_size for f in TINY.glob("*.safetensors")) / 1e6
    add("transformers fp32", "transformers", TINY, size, None)
    if args.teacher:
        found.append(teacher(args, task, rows))
    return found


def to_gguf(converter: Path, work: Path, kind: str) -> Path:
    """The tiny model by llama.cpp's converter and quantizer."""
    plain, path = work / "tiny-f32.gguf", work / f"tiny-{kind}.gguf"
    if not plain.exists():
        script = Path(__file__).with_name("to_gguf.py")
        line = [sys.executable, script, converter, TINY, plain]
        subprocess.run([str(word) for word in line], check=True)
    if not path.exists():
        import llama_cpp

        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype = FTYPES[kind]
        if llama_cpp.llama_model_quantize(str(plain).encode(), str(path).encode(), params) != 0:
            raise SystemExit(f"llama.cpp could not write {path}")
    return path


def teacher(args: argparse.Namespace, task: Task, rows: list[Any]) -> Contestant:
    """The teacher's blind call, its prompt's common beginning computed once."""
    from transformers import AutoTokenizer

    train = read_queries(Path("data/queries/train.jsonl"), task)
    pipeline = Pipeline(task, load_recipe(task), core.load(Teacher), None, train)  # type: ignore[arg-type]
    asks = pipeline.call_asks([(row["query"], row["id"]) for row in rows])
    tokenizer = AutoTokenizer.from_pretrained(args.teacher.parent, gguf_file=args.teacher.name)
    texts = [chat_text(tokenizer, ask) + answer_start(ask) for ask in asks]
    prompts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    settings = {
        "engine": "llama.cpp", "model": str(args.teacher), "threads": args.threads,
        "grammar": None, "ends": [tokenizer.eos_token_id], "shared": common_prefix(prompts), "cells": 16384,
    }  # fmt: skip
    start, step = answer_start(asks[0]), pipeline.recipe.steps["call"]

    def read(ids: Written) -> Answer:
        assert not isinstance(ids, str)  # LlamaCpp answers in ids
        content = start + str(tokenizer.decode(ids, skip_special_tokens=True))
        message = {"role": "assistant", "content": content}
        try:
            response = {"choices": [{"finish_reason": "stop", "message": message}]}
            return pipeline.read_call(read_arguments(response, step.function))
        except CallError as error:
            return error

    name = f"teacher, {args.teacher.stem} in llama.cpp"
    return Contestant(name, settings, args.teacher.stat().st_size / 1e6, prompts, read)


def measure(found: list[Contestant]) -> None:
    """Cold starts, then latency in turns, then throughput in turns."""
    for number in range(STARTS):
        for contestant in found:
            if number and contestant.is_teacher:
                continue  # a minute each
            contestant.stop()
            contestant.start()
            if number < STARTS - 1:
                contestant.stop()
            print(
                f"start {number + 1}: {contestant.name} {contestant.cold_s[-1]:.2f} s", flush=True
            )
    for contestant in found:
        if contestant.process is None:
            contestant.start()
            contestant.cold_s.pop()
    count = len(found[0].prompts)
    shuffle = random.Random(0)
    for begin in range(0, count, BLOCK):
        # In another order each time: what an engine finds in the caches is its neighbour's.
        for contestant in shuffle.sample(found, len(found)):
            if contestant.is_teacher and begin >= TEACHER_QUERIES:
                continue
            time.sleep(SETTLE_S)
            contestant.ask([begin])
            for at in range(begin, min(begin + BLOCK, count)):
                answers, seconds = contestant.ask([at])
                contestant.answers[at] = answers[0]
                contestant.latency_s.append(seconds)
        print(f"latency: {begin + BLOCK} of {count}", flush=True)
    for batch in BATCHES:
        for begin in range(0, min(count, 64), 32):
            for contestant in found:
                if contestant.is_teacher and (begin or batch == 32):
                    continue
                time.sleep(SETTLE_S)
                rows = 8 if contestant.is_teacher else 32
                places = list(range(begin, min(begin + rows, count)))
                seconds = sum(
                    contestant.ask(places[at : at + batch])[1]
                    for at in range(0, len(places), batch)
                )
                contestant.rates.setdefault(batch, []).append(len(places) / seconds)
        print(f"throughput: batch {batch}", flush=True)


def summary(contestant: Contestant, task: Task, rows: list[Any]) -> dict[str, Any]:
    """The numbers of one line."""
    right = sum(
        predict(task, rows[at], contestant.read(written))["exact"]
        for at, written in contestant.answers.items()
    )
    p50, p95 = np.percentile(contestant.latency_s, [50, 95]) * 1e3
    low, high = wilson_interval(right, len(contestant.answers))
    return {
        "name": contestant.name,
        "n": len(contestant.answers),
        "size_mb": round(contestant.size_mb, 1),
        "latency_p50_ms": round(float(p50), 1),
        "latency_p95_ms": round(float(p95), 1),
        "queries_per_s": {
            str(batch): round(statistics.median(rates), 1)
            for batch, rates in contestant.rates.items()
        },
        "peak_rss_mib": round(contestant.peak_rss_mib),
        "cold_start_s": round(statistics.median(contestant.cold_s), 2),
        "exact_match": round(right / len(contestant.answers), 4),
        "exact_match_low": round(low, 4),
        "exact_match_high": round(high, 4),
    }


def gbnf(task: Task) -> str:
    """The task's legal calls in the dialect of llama.cpp and XGrammar.

    A little wider than the runtime's own grammar: numbers are not held to their bounds, and a bare
    string may look like JSON.
    """
    rules = [f"root ::= {json.dumps(render_call(NO_CALL, task.tools))}"]
    for number, tool in enumerate(task.tools.values()):
        required = tool.parameters.get("required", [])
        parts = [json.dumps(f" {tool.alias}")]
        for key, schema in tool.properties.items():
            word = json.dumps(f"\n {tool.word(key)} ")
            parts.append(f"({word} ({_values(schema)})){'' if key in required else '?'}")
        rules[0] += f" | tool{number}"
        rules.append(f"tool{number} ::= {' '.join(parts)}")
    rules += [
        r'bare ::= [^\x00-\x20"\x5B{\x7F] [^\x00-\x1F\x7F]*',
        r'quoted ::= "\"" ([^"\\\x00-\x1F] | "\\" [^\x00-\x1F])* "\""',
        r'number ::= "-"? [0-9]+ ("." [0-9]+)?',
        r'list ::= "[" quoted (", " quoted)* "]"',
    ]
    return "\n".join(rules) + "\n"


def _values(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " | ".join(_values(part) for part in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(json.dumps(render_value(value)) for value in schema["enum"])
    kind = schema.get("type", "string")
    return {"string": "bare | quoted", "array": "list"}.get(kind, "number")


def machine(threads: int) -> dict[str, Any]:
    """What the numbers were measured on, and with which packages."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    fields = {key.strip(): value.strip() for key, _, value in (s.partition(":") for s in lines)}
    flags = set(fields["flags"].split())
    telling = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
    packages = (
        "onnxruntime", "onnxruntime-genai", "llama-cpp-python", "xllamacpp", "openvino-genai",
        "torch", "transformers",
    )  # fmt: skip
    return {
        "processor": fields["model name"],
        "instructions": [name for name in telling if name in flags],
        "cores": sum(line.startswith("processor") for line in lines),
        "threads": threads,
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "packages": {name: metadata.version(name) for name in packages if _installed(name)},
    }


def _installed(package: str) -> bool:
    return any(True for _ in metadata.distributions(name=package))


def markdown(result: dict[str, Any]) -> str:
    """The result as a table."""
    about, first = result["machine"], result["engines"][0]["latency_p50_ms"]
    versions = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    head = [
        "engine", "p50 ms", "times ours", "p95 ms", *(f"queries/s at {b}" for b in BATCHES),
        "memory MiB", "cold start s", "MB", "exact match on dev",
    ]  # fmt: skip
    lines = [
        f"{about['processor']} ({', '.join(about['instructions'])}), {about['threads']} threads of "
        f"{about['cores']} cores, {about['system']}. {versions}.",
        "",
        f"| {' | '.join(head)} |",
        f"|---|{'---:|' * (len(head) - 1)}",
    ]
    for row in result["engines"]:
        rates = (row["queries_per_s"].get(str(batch), "") for batch in BATCHES)
        share = (row[key] * 100 for key in ("exact_match", "exact_match_low", "exact_match_high"))
        cells = [
            row["name"], row["latency_p50_ms"], f"{row['latency_p50_ms'] / first:.2f}",
            row["latency_p95_ms"], *rates, row["peak_rss_mib"], row["cold_start_s"],
            row["size_mb"], "{:.1f}% ({:.1f}-{:.1f})".format(*share) + f" of {row['n']}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def plot(table: list[dict[str, Any]], path: Path) -> None:
    """Exact match over latency, area for size; of two lines that differ in the grammar, that with."""
    from matplotlib.figure import Figure

    names = {row["name"] for row in table}
    shown = [row for row in table if f"{row['name']}, grammar" not in names]
    figure = Figure(figsize=(10, 5), layout="constrained")
    axes = figure.subplots()
    for number, row in enumerate(shown):
        exact = 100 * row["exact_match"]
        reach = [[exact - 100 * row["exact_match_low"]], [100 * row["exact_match_high"] - exact]]
        color = f"C{number % 10}"
        x = row["latency_p50_ms"]
        axes.errorbar(x, exact, yerr=reach, color=color, alpha=0.5, linewidth=1)
        axes.scatter(x, exact, s=row["size_mb"], color=color, alpha=0.35)
        label = f"{row['name']}: {x:.0f} ms, {row['size_mb']:.0f} MB"
        axes.scatter(x, exact, s=12, color=color, label=label)
    axes.set(xscale="log", xlabel="p50 latency of one query (ms)", ylabel="exact match on dev (%)")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
