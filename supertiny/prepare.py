"""Frozen splits without leakage: test first, then dev and train from what test leaves.

Test is drawn before anything else and from its own random stream, so the number of training rows,
or any other training param, never changes it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from tqdm import tqdm

from supertiny.calls import call_from_json
from supertiny.errors import CallError, UserError
from supertiny.params.prepare import Prepare
from supertiny.task import Task

Row = dict[str, Any]
SPLITS = ("test", "dev", "train")  # in the order they are drawn
_MAX_DRAWS_PER_ROW = 200


class GoldSource(Protocol):
    """What a task's ``gold.py`` returns from ``load(params)``."""

    def stream(self, split: str) -> Iterator[Row]:
        """Rows without end: query, call, source, template, names, slices."""
        ...


class NearDuplicates:
    """Finds texts whose normalised token sets have a Jaccard similarity at or over a bound."""

    def __init__(self, bound: float) -> None:
        self.bound = bound
        self._sizes: list[int] = []
        self._postings: dict[str, list[int]] = defaultdict(list)

    def add(self, text: str) -> None:
        """Remember a text."""
        tokens = token_set(text)
        for token in tokens:
            self._postings[token].append(len(self._sizes))
        self._sizes.append(len(tokens))

    def highest(self, text: str) -> float:
        """Similarity of ``text`` to the nearest remembered text, 0 where none shares a token."""
        tokens = token_set(text)
        shared = Counter(index for token in tokens for index in self._postings.get(token, ()))
        size = len(tokens)
        return max(
            (count / (size + self._sizes[index] - count) for index, count in shared.items()),
            default=0.0,
        )

    def matches(self, text: str) -> bool:
        """Whether a remembered text is a near-duplicate of ``text``."""
        return self.highest(text) >= self.bound


def token_set(text: str) -> frozenset[str]:
    """Lower-case words and numbers of a text, punctuation dropped."""
    return frozenset(_words(text))


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower())


def row_id(query: str, tools: Any = None) -> str:
    """A stable id: the first 16 hex digits of the SHA-256 of the query, and of its tools if any."""
    text = query if tools is None else f"{query}\n{json.dumps(tools, sort_keys=True)}"
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def sources(task: Task, params: Prepare) -> dict[str, GoldSource]:
    """The task's source of rows for each language of the params, by language.

    Raises:
        UserError: no language, one twice, or one that the task does not offer.
    """
    asked = params.languages
    wrong = [language for language in asked if language not in task.languages]
    if wrong or not asked or len(set(asked)) < len(asked):
        raise UserError(
            f"prepare.languages: found {list(asked)}; expected some of {list(task.languages)}, each "
            f"once: what {task.folder}/task.yaml offers"
        )
    load = task.module("gold").load
    return {language: load(replace(params, languages=(language,))) for language in asked}


def draw_splits(
    source: GoldSource | Mapping[str, GoldSource],
    task: Task,
    params: Prepare,
    rewrites: Sequence[str] = (),
) -> tuple[dict[str, list[Row]], dict[str, int]]:
    """Rows of each split, sorted by id, and how many draws were refused for which reason.

    Each language is drawn from its own stream and fills its own part of a split, so it has the same
    test rows alone as beside others, but for texts that two languages share. Rows carry their
    ``language`` and a slice of it, unless all are in the task's own.

    Args:
        source: one for rows in the task's own language, or one for each language.
        rewrites: inputs of test that are not drawn here; train holds nothing like them either.

    Raises:
        UserError: the source has too few different rows for the sizes asked for, or yields a call
            that the task's own schemas refuse.
    """
    by_language = source if isinstance(source, Mapping) else {task.language: source}
    tagged = list(by_language) != [task.language]
    drawing = _Drawing(task, params)
    splits = {}
    for split in SPLITS:
        if split == "train":
            drawing.hold_out_texts(rewrites)
        rows: list[Row] = []
        sizes = _parts(getattr(params, f"{split}_rows"), len(by_language))
        for (language, of_language), size in zip(by_language.items(), sizes, strict=True):
            drawn = drawing.draw(of_language.stream(split), split, size)
            rows += [in_language(row, language) for row in drawn] if tagged else drawn
        if split != "train":
            drawing.hold_out(rows)
        splits[split] = sorted(rows, key=lambda row: row["id"])
    return splits, dict(drawing.refused)


def _parts(total: int, count: int) -> list[int]:
    """``total`` in ``count`` parts that differ by at most one."""
    return [total // count + (index < total % count) for index in range(count)]


def in_language(row: Row, language: str) -> Row:
    """The row with its language, also as the slice ``language_<code>``."""
    slices = sorted([*row["slices"], f"language_{language}"])
    return {**row, "language": language, "slices": slices}


class _Drawing:
    """What has been drawn so far, and so what a later split may no longer hold."""

    def __init__(self, task: Task, params: Prepare) -> None:
        self.refused: Counter[str] = Counter()
        self._task = task
        self._longest = params.max_prompt_bytes
        self._seen: set[str] = set()  # what was said, without punctuation
        self._templates: set[str] = set()
        self._held_out = NearDuplicates(params.max_similarity)

    def draw(self, stream: Iterator[Row], split: str, size: int) -> list[Row]:
        """The first ``size`` rows of the stream that may be in this split."""
        rows: list[Row] = []
        progress = tqdm(total=size, desc=split, unit="row", mininterval=1)
        for draws, row in enumerate(stream):
            if len(rows) == size:
                break
            if draws > _MAX_DRAWS_PER_ROW * size:
                raise UserError(
                    f"prepare.{split}_rows: asked for {size}, the task's source gave {len(rows)} "
                    f"different rows in {draws} draws; ask for fewer or give the task more "
                    "templates and names"
                )
            reason = self._reason_to_refuse(row)
            if reason:
                self.refused[f"refused_{split}_{reason}"] += 1
                continue
            _check(row, self._task)
            self._seen.add(self._said(row))
            rows.append({"id": row_id(row["query"], row.get("tools")), **row})
            progress.update()
        progress.close()
        return rows

    def hold_out(self, rows: Sequence[Row]) -> None:
        """Keep the templates of these rows, and what is like them, out of later splits."""
        for row in rows:
            if row["template"]:
                self._templates.add(row["template"])
        self.hold_out_texts(row["query"] for row in rows)

    def hold_out_texts(self, texts: Iterable[str]) -> None:
        """Keep what is like these texts out of later splits."""
        for text in texts:
            self._held_out.add(text)

    def _said(self, row: Row) -> str:
        said = " ".join(_words(self._task.normalise(row["query"])))
        return said if "tools" not in row else f"{said}\n{json.dumps(row['tools'])}"

    def _reason_to_refuse(self, row: Row) -> str | None:
        if self._said(row) in self._seen:
            return "duplicate"
        if self._longest and _prompt_bytes(row, self._task) > self._longest:
            return "too_long"
        if row["template"] in self._templates:
            return "template_held_out"
        return "near_duplicate" if self._held_out.matches(row["query"]) else None


def _prompt_bytes(row: Row, task: Task) -> int:
    # Bytes, since a tokenizer of bytes makes at most one token of each, whatever the script.
    return len(_posed(row, task).render_prompt(row["query"]).encode("utf-8"))


def _posed(row: Row, task: Task) -> Task:
    try:
        return task.of(row)
    except CallError as error:
        raise UserError(f"tasks/{task.folder.name}/gold.py, {row['query']!r}: {error}") from None


def _check(row: Row, task: Task) -> None:
    call, posed = call_from_json(row["call"]), _posed(row, task)
    try:
        posed.validate(call)
        if not posed.equivalent(call, call):
            raise CallError("the task's own rule does not take it for right")
    except CallError as error:
        raise UserError(
            f"tasks/{task.folder.name}/gold.py gave an illegal call for {row['query']!r}: {error}"
        ) from None


def leakage(
    splits: dict[str, list[Row]], bound: float, rewrites: Sequence[str] = ()
) -> dict[str, float | int]:
    """What of dev, test and its rewrites can be found in train: templates, names, near-duplicates,
    all to be 0."""
    report: dict[str, float | int] = {}
    train = splits["train"]
    near = NearDuplicates(bound)
    for row in train:
        near.add(row["query"])
    train_templates = {row["template"] for row in train if row["template"]}
    train_names = _names(train)
    for split in ("dev", "test"):
        rows = splits[split]
        report[f"leak_{split}_templates"] = len({r["template"] for r in rows} & train_templates)
        report[f"leak_{split}_names"] = len(_names(rows) & train_names)
    texts = {split: [row["query"] for row in splits[split]] for split in ("dev", "test")}
    for name, queries in {**texts, "rewrites": rewrites}.items():
        highest = [near.highest(query) for query in queries]
        report[f"leak_{name}_near_duplicates"] = sum(value >= bound for value in highest)
        report[f"highest_similarity_{name}"] = round(max(highest, default=0.0), 4)
    return report


def _names(rows: Iterable[Row]) -> set[str]:
    return {name for row in rows for name in row["names"]}


def describe(splits: dict[str, list[Row]]) -> dict[str, int]:
    """Counts for the metrics file: rows, sources, tools, distinct templates and names per split."""
    counts: dict[str, int] = {}
    for split, rows in splits.items():
        counts[f"{split}_rows"] = len(rows)
        counts[f"{split}_tools"] = len({row["call"]["name"] for row in rows})
        counts[f"{split}_templates"] = len({row["template"] for row in rows if row["template"]})
        counts[f"{split}_names"] = len(_names(rows))
        for source, count in sorted(Counter(row["source"] for row in rows).items()):
            counts[f"{split}_source_{source}"] = count
    return counts
