"""The report as one HTML page that needs no network: same findings as the Markdown one, to look into.

The template escapes every text; plots are SVG from `supertiny.svg`; style and script stand in the page,
and its content security policy lets no other style, script or address in. The page depends on its
inputs alone: no time, no commit, no machine.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from supertiny import svg
from supertiny.calls import NO_CALL, call_from_json, canonical
from supertiny.checksums import read_sums
from supertiny.errors import UserError
from supertiny.io import read_json, read_jsonl, read_tsv, sha256_file
from supertiny.metrics import UNPARSABLE, confusion, predicted_name, wilson_interval
from supertiny.params.report import Report
from supertiny.report import (
    SPLITS,
    Sources,
    Step,
    Variant,
    base_model,
    data_counts,
    flatten,
    headline,
    held_against,
    percent,
    points,
    ranked_tools,
    slice_names,
    steps,
    wrong_answers,
)
from supertiny.report_teacher import read_quality
from supertiny.task import Task

TEMPLATES = Path(__file__).parent / "templates"
KINDS = {
    "wrong tool": "another tool than the one meant",
    "wrong argument": "the right tool, but an argument is missing, differs or was not asked for",
    "missed no_call": "a tool for an input that no tool serves",
    "needless no_call": "no_call for an input that a tool serves",
    UNPARSABLE: "an answer that is no legal call",
}
_CURVES = {"loss": "rows trained on", "unseen_loss": "rows not trained on before"}
_SMALLEST_LOSS = 1e-6  # what the file's six digits can tell from 0


@dataclass(frozen=True)
class Lineage:
    """How the numbers were made: commands, every param, pinned packages, hashed files, what ships.

    Attributes:
        bundle: the folder that ships, or None where there is none yet.
    """

    commands: Sequence[str]
    params: Mapping[str, Any]
    constraints: Path
    files: Sequence[Path]
    bundle: Path | None = None


@dataclass(frozen=True)
class Card:
    """One number of the headline, and what it is to be held against."""

    title: str
    value: str
    unit: str
    notes: Sequence[str]


@dataclass(frozen=True)
class Part:
    """A piece of a call as shown: ``off`` where the two calls differ."""

    text: str
    off: bool


@dataclass(frozen=True)
class Error:
    """One wrong answer as the browser shows it."""

    id: str
    query: str
    kind: str
    reason: str
    gold_tool: str
    got_tool: str
    slices: Sequence[str]
    gold: Sequence[Part]
    got: Sequence[Part]


@dataclass(frozen=True)
class Funnel:
    """What became of everything drawn for a split: kept by source, refused by reason."""

    name: str
    kept: Mapping[str, int]
    refused: Mapping[str, int]

    @property
    def kept_total(self) -> int:
        return sum(self.kept.values())

    @property
    def drawn(self) -> int:
        return self.kept_total + sum(self.refused.values())


def render(
    task: Task, variants: Sequence[Variant], sources: Sources, lineage: Lineage, params: Report
) -> str:
    """The whole page; the last variant is the one that ships.

    Raises:
        UserError: a file is missing, or a prediction is of no row of the test set.
    """
    last = variants[-1]
    found = steps(variants, params)
    mixed_up = confusion(last.predictions)
    files = sources.rows()
    errors = error_rows(task, last, slices_by_id(files["test"]))
    drawn = data_counts({split: [sources.queries / f"{split}.jsonl"] for split in SPLITS})
    funnels = prepare_funnels(read_json(sources.prepare), drawn)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["percent"] = percent
    environment.filters["points"] = points
    style, script = ((TEMPLATES / name).read_text("utf-8") for name in ("report.css", "report.js"))
    return environment.get_template("report.html").render(
        task=task,
        style=style,
        script=script,
        policy=content_policy(style, script),
        variants=variants,
        first=held_against(variants),
        last=last,
        headline=headline(variants).strip("*"),
        cards=cards(variants),
        pareto=pareto(variants),
        steps=found,
        contributions=contributions(found),
        slices=slice_lines(variants),
        tools=[(row, svg.share_bar(*_shares(row))) for row in ranked_tools(last)],
        mix_ups=mix_ups(mixed_up),
        confusion=svg.confusion(mixed_up),
        errors=errors,
        kinds=KINDS,
        kind_counts=Counter(error.kind for error in errors),
        funnels=[(funnel, funnel_plot(funnel)) for funnel in funnels],
        splits=SPLITS,
        counts=data_counts(files),
        quality=read_quality(*sources.curated, params.seed) if sources.curated else None,
        loss=loss_plot(sources.loss),
        tables={title: flatten(read_json(path)) for title, path in sources.tables.items()},
        origin=base_model(sources),
        lineage=lineage,
        params={section: flatten(value) for section, value in lineage.params.items()},
        packages=pinned(lineage.constraints),
        hashes=[(str(path), sha256_file(path)) for path in lineage.files],
        shipped=shipped(lineage.bundle) if lineage.bundle else {},
        rounds=params.bootstrap_rounds,
    )


def shipped(bundle: Path) -> dict[str, list[list[str]]]:
    """What is in a bundle and what it was made from, by table: names and values.

    Raises:
        UserError: the bundle is not there, or its papers are damaged.
    """
    return {
        "SHA-256 of its files": flatten(read_sums(bundle)),
        "What it was made from": flatten(read_json(bundle / "lineage.json")),
    }


def content_policy(style: str, script: str) -> str:
    """A content security policy that allows this style and this script, and nothing else at all."""

    def digest(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    return (
        f"default-src 'none'; style-src 'sha256-{digest(style)}'; "
        f"script-src 'sha256-{digest(script)}'; base-uri 'none'; form-action 'none'"
    )


def measured(variant: Variant, key: str) -> float | None:
    """A value of the variant's benchmark; None where it was not measured."""
    return variant.bench.get(key) if variant.bench else None


def cards(variants: Sequence[Variant]) -> list[Card]:
    """Quality, size, latency and cost of the last variant against the one it is to replace."""
    first, last = held_against(variants), variants[-1]
    low, high = (percent(last.metrics[f"exact_match_{end}"]) for end in ("low", "high"))
    quality = [f"95% interval {low} to {high}"]
    if first is not last:
        quality.append(f"{first.name}: {percent(first.metrics['exact_match'])}%")
    made = [Card("Exact match", percent(last.metrics["exact_match"]), "%", quality)]
    for title, key, digits, unit, words in (
        ("Size", "size_mb", 0, "MB", ("smaller", "larger")),
        ("Latency, p50", "latency_p50_ms", 0, "ms", ("faster", "slower")),
        ("Cost of a million requests", "usd_per_million_requests", 2, "USD", ("cheaper", "dearer")),
    ):
        value = measured(last, key)
        if value is not None:
            notes = [_against(variants, key, digits, unit, words)]
            if key == "latency_p50_ms" and last.bench:
                notes.append(f"{last.bench['threads']} CPU threads, one query at a time")
            made.append(Card(title, f"{value:,.{digits}f}", unit, [note for note in notes if note]))
    return made


def _against(
    variants: Sequence[Variant], key: str, digits: int, unit: str, words: tuple[str, str]
) -> str:
    """How the last variant's value compares with that of the first variant that has one."""
    other = next(variant for variant in variants if measured(variant, key) is not None)
    before, now = measured(other, key), measured(variants[-1], key)
    if other is variants[-1] or not before or not now:
        return ""
    word = words[0] if now <= before else words[1]
    factor = max(before, now) / min(before, now)
    return f"{factor:,.1f} times {word} than {other.name} ({before:,.{digits}f}\N{NO-BREAK SPACE}{unit})"


def pareto(variants: Sequence[Variant]) -> str | None:
    """The Pareto plot of the variants that were benchmarked; None if none was."""
    shown = [
        svg.Point(
            variant.name,
            variant.metrics["exact_match"],
            variant.metrics["exact_match_low"],
            variant.metrics["exact_match_high"],
            variant.bench["latency_p50_ms"],
            variant.bench.get("size_mb"),
        )
        for variant in variants
        if variant.bench
    ]
    first = held_against(variants)
    return svg.pareto(shown, (first.name, first.metrics["exact_match"])) if shown else None


def contributions(found: Sequence[Step]) -> str | None:
    """The bars of the steps, in points; None if there is one variant only."""
    bars = [
        (f"{step.before} to {step.after}", 100 * step.change, 100 * step.low, 100 * step.high)
        for step in found
    ]
    return svg.contributions(bars) if bars else None


def loss_plot(path: Path) -> str:
    """The training loss, and where it was recorded the loss on rows not trained on before."""
    rows = read_tsv(path)
    curves = {
        label: [max(_SMALLEST_LOSS, float(row[column])) for row in rows]
        for column, label in _CURVES.items()
        if column in rows[0]
    }
    return svg.loss([int(row["step"]) for row in rows], curves)


def slice_lines(variants: Sequence[Variant]) -> list[dict[str, Any]]:
    """A line per slice: name, n, each variant's exact match, the last one's interval and bar."""
    lines = []
    for name in slice_names(variants[0]):
        n = int(variants[0].metrics[f"slice_{name}_n"])
        shares = [variant.metrics[f"slice_{name}_exact_match"] for variant in variants]
        low, high = wilson_interval(round(shares[-1] * n), n)
        bar = svg.share_bar(shares[-1], low, high)
        lines.append({"name": name, "n": n, "shares": shares, "low": low, "high": high, "bar": bar})
    return lines


def _shares(row: Mapping[str, str]) -> tuple[float, float, float]:
    return float(row["exact_match"]), float(row["low"]), float(row["high"])


def mix_ups(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str, int]]:
    """``(gold tool, predicted tool, how often)`` of the answers that name another tool, most first."""
    counts = Counter(pair for pair in pairs if pair[0] != pair[1])
    return sorted(((*pair, count) for pair, count in counts.items()), key=lambda m: (-m[2], m[:2]))


def slices_by_id(files: Iterable[Path]) -> dict[str, Sequence[str]]:
    """The slices of each row of the test set by its id."""
    return {row["id"]: sorted(row["slices"]) for path in files for row in read_jsonl(path)}


def error_rows(task: Task, variant: Variant, slices: Mapping[str, Sequence[str]]) -> list[Error]:
    """The variant's wrong answers, sorted by gold tool.

    Raises:
        UserError: an answer is to no row of the test set.
    """
    wrong = wrong_answers(variant)
    for row in wrong:
        if row["id"] not in slices:
            raise UserError(
                f"{variant.name} answered row {row['id']!r}, which is not in the test set; "
                "run `dvc repro evaluate`"
            )
    return [_error(task, row, slices[row["id"]]) for row in wrong]


def _error(task: Task, row: Mapping[str, Any], slices: Sequence[str]) -> Error:
    gold, got = call_parts(task, row)
    return Error(
        id=row["id"],
        query=row["query"],
        kind=error_kind(row),
        reason=row["reason"].removeprefix(f"{UNPARSABLE}: "),
        gold_tool=row["gold"]["name"],
        got_tool=predicted_name(row),
        slices=slices,
        gold=gold,
        got=got,
    )


def error_kind(row: Mapping[str, Any]) -> str:
    """Which of `KINDS` a wrong prediction is."""
    if row["predicted"] is None:
        return UNPARSABLE
    meant, chosen = row["gold"]["name"], row["predicted"]["name"]
    if meant == chosen:
        return "wrong argument"
    if meant == NO_CALL.name:
        return "missed no_call"
    return "needless no_call" if chosen == NO_CALL.name else "wrong tool"


def call_parts(task: Task, row: Mapping[str, Any]) -> tuple[list[Part], list[Part]]:
    """Gold and got call in parts, those marked that do not mean the same in both.

    An answer that is no legal call is one marked part, its text.
    """
    if row["predicted"] is None:
        return _parts(row["gold"], set()), [Part(row["answer"] or "(no answer)", True)]
    gold, got = (canonical(call_from_json(row[key]), task.tools) for key in ("gold", "predicted"))
    if gold[0] != got[0]:
        return _parts(row["gold"], {None}), _parts(row["predicted"], {None})
    keys = gold[1].keys() | got[1].keys()
    off = {k for k in keys if k not in gold[1] or k not in got[1] or gold[1][k] != got[1][k]}
    return _parts(row["gold"], off), _parts(row["predicted"], off)


def _parts(call: Mapping[str, Any], off: set[str | None]) -> list[Part]:
    """``tool(key=value, ...)``; None among ``off`` stands for the tool's name."""
    parts = [Part(call["name"], None in off), Part("(", False)]
    for i, (key, value) in enumerate(sorted(call["arguments"].items())):
        parts += [Part(", ", False)] if i else []
        parts.append(Part(f"{key}={value!r}", key in off))
    return [*parts, Part(")", False)]


def prepare_funnels(metrics: Mapping[str, float], kept: Mapping[str, Counter[str]]) -> list[Funnel]:
    """A funnel per split from the counts of stage prepare."""
    return [
        Funnel(
            split,
            dict(sorted(kept[split].items())),
            {
                key.removeprefix(f"refused_{split}_"): int(value)
                for key, value in sorted(metrics.items())
                if key.startswith(f"refused_{split}_")
            },
        )
        for split in SPLITS
    ]


def funnel_plot(funnel: Funnel) -> str:
    """The bar of a funnel."""
    title = f"Drawn for {funnel.name}: {funnel.drawn:,}, kept {funnel.kept_total:,}"
    return svg.funnel(f"funnel-{funnel.name}", title, funnel.kept, funnel.refused)


def pinned(constraints: Path) -> list[tuple[str, str]]:
    """``(package, version)`` of a pip constraints file, in its order.

    Raises:
        UserError: the file is missing.
    """
    if not constraints.is_file():
        raise UserError(f"{constraints}: file not found; run from the repository root")
    lines = constraints.read_text(encoding="utf-8").splitlines()
    pins = [line.split("==", 1) for line in lines if "==" in line and not line.startswith("#")]
    return [(name, version) for name, version in pins]
