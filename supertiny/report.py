"""The report: what each step from the baseline to the tiny model does, in Markdown.

What is shown is found here once, for this page and for the HTML page of `supertiny.report_html`.
Everything shown comes from files that earlier stages wrote; the variants and files are given by
name, so a result of a variant that was dropped can lie about and is never read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from supertiny.errors import UserError
from supertiny.io import read_json, read_jsonl, read_tsv
from supertiny.metrics import paired_bootstrap
from supertiny.params.report import Report
from supertiny.task import Task

SPLITS = ("train", "dev", "test")
_ORIGIN_KEYS = ("source", "package", "repo", "revision", "file", "sha256", "licence")


@dataclass(frozen=True)
class Variant:
    """What one variant's evaluation and, where it was benchmarked, its benchmark found."""

    name: str
    metrics: Mapping[str, float]
    predictions: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, str]]
    bench: Mapping[str, float] | None
    parameters: int | None = None  # of its model, a tied head once


class Step(NamedTuple):
    """What the step from one variant to the next brings: points of exact match (shares of 1) on the
    same inputs with their paired 95% interval, how many inputs it turned right and wrong, and what
    the model after it has: parameters, and megabytes if it was benchmarked."""

    before: str
    after: str
    change: float
    low: float
    high: float
    fixed: int
    broken: int
    parameters: int | None
    megabytes: float | None


@dataclass(frozen=True)
class Sources:
    """Where the numbers lie.

    `tables` are JSON files shown key by key under their titles; `parameters` are those with the key
    ``parameters``, by the variant whose model it counts; `curated` are the folders of the stage
    `curate`, of its rows and of its metrics.
    """

    evaluations: Path
    benchmarks: Path
    queries: Path
    prepare: Path
    origin: Path
    loss: Path
    tables: Mapping[str, Path]
    parameters: Mapping[str, Path] = field(default_factory=dict)
    curated: tuple[Path, Path] | None = None

    def rows(self) -> dict[str, list[Path]]:
        """The files of the rows that are learned from, chosen by, and tested on, by split."""
        files = {split: [self.queries / f"{split}.jsonl"] for split in SPLITS}
        if self.curated:
            files["train"] = [self.curated[0] / "train.jsonl"]
            files["test"].append(self.curated[0] / "test.rewrites.jsonl")
        return files


def read_variant(sources: Sources, name: str, benchmarked: bool) -> Variant:
    """One variant's files.

    Raises:
        UserError: a file is missing or broken.
    """
    folder = sources.evaluations
    return Variant(
        name=name,
        metrics=read_json(folder / f"{name}.json"),
        predictions=read_jsonl(folder / f"{name}.predictions.jsonl"),
        tools=read_tsv(folder / f"{name}.tools.tsv"),
        # An empty one is that of a teacher whose speed nobody measured.
        bench=(read_json(sources.benchmarks / f"{name}.json") or None) if benchmarked else None,
        parameters=read_json(sources.parameters[name])["parameters"]
        if name in sources.parameters
        else None,
    )


def results_table(variants: Sequence[Variant]) -> str:
    """The short table that README.md shows, a line per variant; "-" where nothing was measured."""
    header = [
        "variant", "exact match (95% interval)", "tool", "soft score", "no_call precision / recall",
        "unparsable", "size MB", "p50 / p95 ms", "USD per million",
    ]  # fmt: skip
    return table(header, [_result_line(variant) for variant in variants])


def _result_line(variant: Variant) -> list[str]:
    found, bench = variant.metrics, variant.bench
    low, high = percent(found["exact_match_low"]), percent(found["exact_match_high"])
    return [
        variant.name,
        f"{percent(found['exact_match'])}% ({low} to {high})",
        f"{percent(found['tool_accuracy'])}%",
        f"{found['soft_score']:.3f}",
        f"{percent(found['no_call_precision'])}% / {percent(found['no_call_recall'])}%",
        f"{percent(found['unparsable_rate'])}%",
        # Of a model behind somebody's server the size is not known.
        f"{bench['size_mb']:.0f}" if bench and "size_mb" in bench else "-",
        f"{bench['latency_p50_ms']:.0f} / {bench['latency_p95_ms']:.0f}" if bench else "-",
        f"{bench['usd_per_million_requests']:.2f}" if bench else "-",
    ]


def render(
    task: Task,
    variants: Sequence[Variant],
    sources: Sources,
    commands: Sequence[str],
    images: Mapping[str, str],
    params: Report,
) -> str:
    """The whole report; the last variant is the one that ships.

    Raises:
        UserError: the variants were not evaluated on the same rows, or a file is missing.
    """
    check_same_rows(variants)
    last = variants[-1]
    parts = [
        f"# {task.name}: from the baseline to the tiny model",
        task.description,
        headline(variants),
        "## Results",
        results_table(variants),
        "Exact match: the call means the same as the gold one. Soft score: intersection over union "
        "of the arguments, 0 for another tool. Unparsable answers count as wrong. no_call "
        "precision is 0 where no_call was never answered. Time and cost are for one query at a "
        'time; "-": not measured.',
        "## What each step brings",
        steps_table(variants, params),
        "Points of exact match on the same inputs, paired bootstrap "
        f"({params.bootstrap_rounds} resamples). An interval around 0: not seen to differ.",
        "## By kind of input",
        slices_table(variants),
        f"## By tool: {last.name}, worst first",
        tools_table(last),
        "## Mixed-up tools",
        f"![gold against predicted tool, {last.name}]({images['confusion']})",
        f"## Wrong answers of {last.name}",
        examples_table(last, params.examples),
        "## Data",
        data_table(sources.rows()),
        "## Training",
        f"![training loss]({images['loss']})",
        *(part for title, path in sources.tables.items() for part in _file_table(title, path)),
        "## How it was made",
        made(task, sources, commands),
    ]
    return "\n\n".join(parts) + "\n"


def summary(variants: Sequence[Variant]) -> dict[str, float]:
    """The few numbers that a change is judged by, flat, for `dvc metrics diff`.

    Exact match of every variant; of the last, which ships, also what the whole job takes.
    """
    last = variants[-1]
    found = {f"{variant.name}_exact_match": variant.metrics["exact_match"] for variant in variants}
    for key in ("no_call_precision", "no_call_recall"):
        found[f"shipped_{key}"] = last.metrics[key]
    if last.parameters:
        found["shipped_parameters"] = last.parameters
    if last.bench:
        found |= {f"shipped_{key}": last.bench[key] for key in ("size_mb", "latency_p50_ms")}
    return found


def held_against(variants: Sequence[Variant]) -> Variant:
    """What the last variant is to replace: the teacher where the task has one, else the first."""
    return next((variant for variant in variants if variant.name == "teacher"), variants[0])


def check_same_rows(variants: Sequence[Variant]) -> None:
    """Raises `UserError` unless all variants answered the same rows with the same gold."""
    seen = [[(row["id"], row["gold"]) for row in variant.predictions] for variant in variants]
    for variant, rows in zip(variants, seen, strict=True):
        if rows != seen[0]:
            raise UserError(
                f"{variant.name} and {variants[0].name} were evaluated on different test rows "
                f"({len(rows)} and {len(seen[0])}); run `dvc repro evaluate` for all variants"
            )


def headline(variants: Sequence[Variant]) -> str:
    """One sentence on the last variant: how good, and against what, how large and how fast."""
    first, last = held_against(variants), variants[-1]
    found = last.metrics
    text = (
        f"On {found['n']:,} held-out inputs, {last.name} gives exactly the right tool call for "
        f"{percent(found['exact_match'])}% ({percent(found['exact_match_low'])} to "
        f"{percent(found['exact_match_high'])})"
    )
    if first is not last:
        text += f"; {first.name} does for {percent(first.metrics['exact_match'])}%"
    if last.bench:
        text += (
            f". It is {last.bench['size_mb']:.0f} MB and takes "
            f"{last.bench['latency_p50_ms']:.0f} ms (p50) on {last.bench['threads']} CPU threads"
        )
    return f"**{text}.**"


def steps(variants: Sequence[Variant], params: Report) -> list[Step]:
    """Exact match of each variant minus that of the one before it."""
    found = []
    for before, after in zip(variants, variants[1:], strict=False):
        old = [bool(row["exact"]) for row in before.predictions]
        new = [bool(row["exact"]) for row in after.predictions]
        change = paired_bootstrap(old, new, params.seed, params.bootstrap_rounds)
        fixed = sum(n and not o for o, n in zip(old, new, strict=True))
        broken = sum(o and not n for o, n in zip(old, new, strict=True))
        size = after.bench["size_mb"] if after.bench else None
        names = (before.name, after.name)
        found.append(Step(*names, *change, fixed, broken, after.parameters, size))
    return found


def steps_table(variants: Sequence[Variant], params: Report) -> str:
    """`steps` as a table, in points."""
    rows = [
        [
            f"{step.before} to {step.after}",
            points(step.change),
            f"{points(step.low)} to {points(step.high)}",
            str(step.fixed),
            str(step.broken),
            f"{step.parameters / 1e6:.1f} M" if step.parameters else "-",
            f"{step.megabytes:.0f}" if step.megabytes else "-",
        ]
        for step in steps(variants, params)
    ]
    header = ["step", "points", "95% interval", "inputs fixed", "inputs broken"]
    return table([*header, "parameters after it", "MB after it"], rows)


def slices_table(variants: Sequence[Variant]) -> str:
    """Exact match per slice, variants as columns."""
    rows = [
        [name, str(variants[0].metrics[f"slice_{name}_n"])]
        + [f"{percent(variant.metrics[f'slice_{name}_exact_match'])}%" for variant in variants]
        for name in slice_names(variants[0])
    ]
    return table(["inputs", "n", *(variant.name for variant in variants)], rows)


def slice_names(variant: Variant) -> list[str]:
    """The slices that a variant has results for, sorted."""
    return sorted(
        key.removeprefix("slice_").removesuffix("_n")
        for key in variant.metrics
        if key.startswith("slice_") and key.endswith("_n")
    )


def ranked_tools(variant: Variant) -> list[Mapping[str, str]]:
    """Per-tool results, the lowest exact match first, ties by name."""
    return sorted(variant.tools, key=lambda row: (float(row["exact_match"]), row["tool"]))


def tools_table(variant: Variant) -> str:
    """`ranked_tools` as a table."""
    rows = [
        [
            row["tool"],
            row["n"],
            f"{percent(row['exact_match'])}% ({percent(row['low'])} to {percent(row['high'])})",
            f"{percent(row['tool_accuracy'])}%",
            f"{float(row['soft_score']):.3f}",
        ]
        for row in ranked_tools(variant)
    ]
    return table(["tool", "n", "exact match (95% interval)", "right tool", "soft score"], rows)


def wrong_answers(variant: Variant) -> list[Mapping[str, Any]]:
    """Predictions that are not exact, sorted by gold tool."""
    wrong = [row for row in variant.predictions if not row["exact"]]
    return sorted(wrong, key=lambda row: (row["gold"]["name"], row["id"]))


def examples_table(variant: Variant, count: int) -> str:
    """Wrong answers, spread evenly over all of them."""
    wrong = wrong_answers(variant)
    shown = [wrong[i * len(wrong) // count] for i in range(count)] if len(wrong) > count else wrong
    rows = [
        [row["query"], call_text(row["gold"]), call_text(row["predicted"]), row["reason"]]
        for row in shown
    ]
    title = f"{len(shown)} of {len(wrong)} wrong answers (all: `{variant.name}.errors.jsonl`)."
    return f"{title}\n\n" + table(["query", "gold", "predicted", "what is wrong"], rows)


def call_text(call: Mapping[str, Any] | None) -> str:
    """A call on one line, as ``tool(argument=value)``."""
    if call is None:
        return "-"
    arguments = (f"{key}={value!r}" for key, value in sorted(call["arguments"].items()))
    return f"{call['name']}({', '.join(arguments)})"


def data_counts(files: Mapping[str, Iterable[Path]]) -> dict[str, Counter[str]]:
    """Rows per source of each split, whose files are given."""
    return {
        split: Counter(row["source"] for path in paths for row in read_jsonl(path))
        for split, paths in files.items()
    }


def data_table(files: Mapping[str, Iterable[Path]]) -> str:
    """Rows per split and source."""
    counts = data_counts(files)
    names = sorted(set().union(*counts.values()))
    rows = [[name, *(str(counts[split][name]) for split in SPLITS)] for name in names]
    rows.append(["all", *(str(counts[split].total()) for split in SPLITS)])
    return table(["source", *SPLITS], rows)


def _file_table(title: str, path: Path) -> list[str]:
    return [f"## {title}", table(["key", "value"], flatten(read_json(path)))]


def flatten(value: Any, prefix: str = "") -> list[list[str]]:
    """Leaves of nested JSON as ``[dotted key, value]``, sorted by key."""
    if isinstance(value, dict):
        return [leaf for key in sorted(value) for leaf in flatten(value[key], f"{prefix}{key}.")]
    return [[prefix.rstrip("."), str(value)]]


def base_model(sources: Sources) -> dict[str, str]:
    """Where the base model comes from: what is known of its package, file, hash and licence."""
    origin = read_json(sources.origin)
    return {key: origin[key] for key in _ORIGIN_KEYS if origin.get(key)}


def made(task: Task, sources: Sources, commands: Sequence[str]) -> str:
    """Commands, where the base model comes from, and licences."""
    lines = ["```", *commands, "```", ""]
    lines += [f"- base model, {key}: {value}" for key, value in base_model(sources).items()]
    lines += [f"- data licence of task {task.name}: {' '.join(task.licence.split())}"]
    return "\n".join(lines)


def percent(share: float | str) -> str:
    """A share in [0, 1] as percent with one digit."""
    return f"{100 * float(share):.1f}"


def points(share: float) -> str:
    """A difference of shares in [-1, 1] as signed percentage points with one digit."""
    return f"{100 * share:+.1f}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; text that would end a cell or start markup is escaped."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _cell(text: str) -> str:
    for character in "\\|<`*_[":
        text = text.replace(character, "\\" + character)
    return " ".join(text.split())
