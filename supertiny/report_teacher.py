"""What became of the teacher's rewrites, for the report: funnel, styles, lengths, rows to read."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from supertiny import svg
from supertiny.io import read_json, read_jsonl, read_tsv
from supertiny.metrics import wilson_interval
from supertiny.params.curate import VERIFIERS
from supertiny.report import call_text

Row = Mapping[str, Any]
SHOWN = 30  # accepted rows, and as many rejected ones
_STEPS = {  # those of the funnel of `supertiny.curate`, in words
    "asked": "asked for",
    "valid": "fits the function and the rules",
    "vouched": "enough verifiers, or a reader, vouch for it",
    "accepted": "accepted: and no other row says it",
}


@dataclass(frozen=True)
class Step:
    """One step of a funnel: how many rewrites are left, of those asked for."""

    name: str
    rows: int
    share: float
    bar: str


@dataclass(frozen=True)
class Verifier:
    """Who vouched for how many usable rewrites of train, None if it has no say there, and on those
    that were read for how many, and how many of these were right."""

    name: str
    vouched: int | None
    read: int
    right: int


@dataclass(frozen=True)
class Sample:
    """A rewrite to read."""

    style: str
    command: str
    text: str
    call: str
    reason: str


@dataclass(frozen=True)
class Quality:
    """The page's tables.

    Attributes:
        funnels: steps by split.
        read: rewrites, drawn at random, that were read, and how many of them are right.
        decided: all rewrites of train on which a reader's word counted, and how many are right.
        groups: rows of metrics/curate.tsv, by style and by tool.
        lengths: ``(style, rewrites, median words of a command, of its rewrite)``, accepted ones.
        reviewed: test rewrites that a reader kept.
    """

    funnels: Mapping[str, Sequence[Step]]
    verifiers: Sequence[Verifier]
    read: tuple[int, int]
    decided: tuple[int, int]
    groups: Sequence[Mapping[str, str]]
    lengths: Sequence[tuple[str, int, float, float]]
    accepted: Sequence[Sample]
    rejected: Sequence[Sample]
    reviewed: int


def read_quality(curated: Path, metrics: Path, seed: int) -> Quality | None:
    """Findings on what the stage `curate` wrote; None where nothing was asked.

    Args:
        metrics: the folder of ``curate.json`` and ``curate.tsv``.

    Raises:
        UserError: a file is missing or damaged.
    """
    counts = read_json(metrics / "curate.json")
    splits = [split for split in ("train", "dev") if counts[f"{split}_funnel_asked"]]
    if not splits:
        return None
    accepted = read_jsonl(curated / "train.rewrites.jsonl")
    rejected = read_jsonl(curated / "train.rejected.jsonl")
    return Quality(
        funnels={split: _funnel(counts, split) for split in splits},
        verifiers=[
            Verifier(
                name,
                counts.get(f"train_vouched_by_{name}"),
                counts[f"read_{name}"],
                counts[f"read_{name}_right"],
            )
            for name in VERIFIERS
            if f"read_{name}" in counts
        ],
        read=(counts["read"], counts["read_right"]),
        decided=(counts["train_decided"], counts["train_decided_right"]),
        groups=read_tsv(metrics / "curate.tsv"),
        lengths=_lengths(accepted),
        accepted=[_sample(row, row["query"], row["call"], "") for row in _some(accepted, seed)],
        rejected=[
            _sample(row, row["text"], row["gold"], row["reason"]) for row in _some(rejected, seed)
        ],
        reviewed=counts["test_accepted"],
    )


def _funnel(counts: Mapping[str, int], split: str) -> list[Step]:
    asked = counts[f"{split}_funnel_asked"]
    steps = []
    for key, words in _STEPS.items():
        rows = counts[f"{split}_funnel_{key}"]
        bar = svg.share_bar(rows / asked, *wilson_interval(rows, asked))
        steps.append(Step(words, rows, rows / asked, bar))
    return steps


def _lengths(accepted: Sequence[Row]) -> list[tuple[str, int, float, float]]:
    words: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for row in accepted:
        words[row["style"]].append((len(row["command"].split()), len(row["query"].split())))
    return [
        (style, len(pairs), median(a for a, _ in pairs), median(b for _, b in pairs))
        for style, pairs in sorted(words.items())
    ]


def _some(rows: Sequence[Row], seed: int) -> list[Row]:
    return random.Random(seed).sample(list(rows), min(SHOWN, len(rows)))


def _sample(row: Row, text: str, call: Row, reason: str) -> Sample:
    return Sample(row["style"], row["command"], text, call_text(call), reason)
