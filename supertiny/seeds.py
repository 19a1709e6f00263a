"""Gold sources over rows that are all written down: seeds in a JSONL file, rated texts, tickets.

A split takes whole clusters, never single rows, so that two wordings of one thing, or two sentences
of one document, never stand on both sides. Unlike a grammar such a source has an end: a split gets
the rows asked for or all there are, and how many that is stands in metrics/prepare.json.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from supertiny.calls import call_from_json
from supertiny.conversation import as_query
from supertiny.errors import CallError, UserError
from supertiny.io import iter_jsonl
from supertiny.params.prepare import Prepare
from supertiny.prepare import SPLITS, Row, token_set
from supertiny.task import load_tools

# Seeds at least this alike say one thing in two ways; far below the bound for near-duplicates.
SAME_CLUSTER = 0.5
CONVERSATION = "conversation"  # the slice of seeds with several turns
_KEYS = {
    "query": str,
    "messages": list,
    "call": dict,
    "cluster": str,
    "slices": list,
    "source": str,
}
_REQUIRED = {"call"}


class Rows:
    """A gold source over finished rows; ``stream`` is deterministic in the params and the split.

    Args:
        rows: as `supertiny.prepare.GoldSource` yields them, with any further keys.
        clusters: per row what must stay together.
        strata: per row what each split should have its share of, such as the tool.

    Attributes:
        rows: by split, in the order given; a task may add to train what it makes out of train.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        clusters: Sequence[str],
        strata: Sequence[str],
        params: Prepare,
    ) -> None:
        self._params = params
        split_of = split_clusters(clusters, strata, params.held_out_share, params.seed)
        self.rows: dict[str, list[Row]] = {split: [] for split in SPLITS}
        for row, cluster in zip(rows, clusters, strict=True):
            self.rows[split_of[cluster]].append(row)

    def tools(self) -> dict[str, Counter[str]]:
        """How many rows of each tool belong to each split, near-duplicates not yet refused."""
        return {
            split: Counter(row["call"]["name"] for row in rows) for split, rows in self.rows.items()
        }

    def stream(self, split: str) -> Iterator[Row]:
        """The rows of a split, shuffled, each once.

        Raises:
            UserError: the split has no row.
        """
        rows = list(self.rows[split])
        if not rows:
            raise UserError(
                f"{split}: no row of the task's source belongs to it; a stratum (a tool) needs 3 "
                "clusters for a test row and 4 for a dev row, so write more seeds"
            )
        random.Random(f"{self._params.seed}:{split}").shuffle(rows)
        wanted = getattr(self._params, f"{split}_rows")
        if len(rows) < wanted:
            print(f"{split}: {len(rows)} rows at most, prepare.{split}_rows asks for {wanted}")
        yield from rows


def split_clusters(
    clusters: Sequence[str], strata: Sequence[str], held_out: float, seed: int
) -> dict[str, str]:
    """The split of each cluster: of every stratum's clusters ``held_out`` test, half of that dev.

    A cluster counts for the stratum of its first row. A stratum of fewer than 3 clusters is all
    train, one of fewer than 4 has no dev.
    """
    stratum_of: dict[str, str] = {}
    for cluster, stratum in zip(clusters, strata, strict=True):
        stratum_of.setdefault(cluster, stratum)
    groups: dict[str, list[str]] = defaultdict(list)
    for cluster, stratum in stratum_of.items():
        groups[stratum].append(cluster)
    split_of = dict.fromkeys(stratum_of, "train")
    for members in groups.values():
        ranked = sorted(members, key=lambda cluster: _stable_hash(seed, cluster))
        test = max(1, round(len(ranked) * held_out)) if len(ranked) >= 3 else 0
        dev = max(1, test // 2) if len(ranked) >= 4 else 0
        split_of |= dict.fromkeys(ranked[:test], "test")
        split_of |= dict.fromkeys(ranked[test : test + dev], "dev")
    return split_of


def load(path: Path, params: Prepare) -> Rows:
    """The source over a file of seeds: a ``query`` and its ``call`` a line.

    In place of the query may stand ``messages``, a conversation (`supertiny.conversation.as_query`);
    its row is in the slice ``conversation``. The tools are those of ``tools.json`` beside the file.

    Optional keys: ``cluster`` (seeds of one name share a split), ``slices`` (scored on their own)
    and ``source``.

    Raises:
        UserError: the file is missing or empty, or any line is no seed (all are listed).
    """
    seeds, problems = read_seeds(path)
    if problems:
        listing = "\n".join(f"  - {problem}" for problem in problems)
        raise UserError(f"{path}: {len(problems)} problem(s)\n{listing}")
    clusters = cluster_names(seeds)
    rows = [
        _row(seed, seed.get("source", "seed"), cluster)
        for seed, cluster in zip(seeds, clusters, strict=True)
    ]
    return Rows(rows, clusters, [row["call"]["name"] for row in rows], params)


def _row(seed: Row, source: str, cluster: str) -> Row:
    return {
        "query": seed["query"],
        "call": seed["call"],
        "source": source,
        "template": cluster,
        "names": [],
        "slices": sorted(seed.get("slices", [])),
    }


def read_seeds(path: Path) -> tuple[list[Row], list[str]]:
    """The seeds of a file that are well formed, each with its query, and what is wrong with the
    others."""
    seeds: list[Row] = []
    problems: list[str] = []
    try:
        for number, row in iter_jsonl(path):
            problem = _problem(row)
            if problem is None and "messages" in row:
                problem = _flatten(row, path.with_name("tools.json"))
            if problem is None:
                seeds.append(row)
            else:
                problems.append(f"line {number}: {problem}")
    except UserError as error:
        return seeds, [*problems, str(error)]
    return seeds, problems if seeds or problems else ["no seeds; expected one a line"]


def _flatten(seed: Row, tools: Path) -> str | None:
    """Give a seed of several turns its query and its slice; what is wrong with it, if anything."""
    try:
        seed["query"] = as_query(seed["messages"], load_tools(tools))
    except (CallError, UserError) as error:
        return str(error)
    seed["slices"] = [*seed.get("slices", []), CONVERSATION]
    return None


def _problem(row: Row) -> str | None:
    unknown, missing = sorted(row.keys() - _KEYS.keys()), sorted(_REQUIRED - row.keys())
    if ("query" in row) == ("messages" in row):
        missing.append("either query or messages")
    if unknown or missing:
        return f"unknown keys {unknown}, missing keys {missing}; allowed: {', '.join(_KEYS)}"
    for key, kind in _KEYS.items():
        if key in row and not isinstance(row[key], kind):
            return f"{key}: found {row[key]!r}, expected {kind.__name__}"
    if not row.get("query", "-").strip():
        return "query: empty"
    if not all(isinstance(name, str) for name in row.get("slices", [])):
        return f"slices: found {row['slices']!r}, expected a list of strings"
    try:
        call_from_json(row["call"])
    except CallError as error:
        return f"call: {error}"
    return None


def cluster_names(seeds: Sequence[Row]) -> list[str]:
    """The cluster of each seed: those of one ``cluster`` key, and those alike, hang together.

    Alike is a token-set Jaccard similarity of `SAME_CLUSTER`; being alike is handed on, so a chain
    of seeds each like the next is one cluster. It is named by the first of its queries, sorted.
    """
    parent = list(range(len(seeds)))

    def root(index: int) -> int:
        while parent[index] != index:
            index = parent[index]
        return index

    named: dict[str, int] = {}
    tokens = [token_set(seed["query"]) for seed in seeds]
    postings: dict[str, list[int]] = defaultdict(list)
    for index, seed in enumerate(seeds):
        if "cluster" in seed:
            parent[root(index)] = root(named.setdefault(seed["cluster"], index))
        shared = Counter(other for token in tokens[index] for other in postings[token])
        for other, count in shared.items():
            union = len(tokens[index]) + len(tokens[other]) - count
            if count / union >= SAME_CLUSTER:
                parent[root(index)] = root(other)
        for token in tokens[index]:
            postings[token].append(index)
    name: dict[int, str] = {}
    for index in sorted(range(len(seeds)), key=lambda index: seeds[index]["query"]):
        name.setdefault(root(index), seeds[index]["query"])
    return [name[root(index)] for index in range(len(seeds))]


def _stable_hash(seed: int, text: str) -> bytes:
    return hashlib.sha256(f"{seed}:{text}".encode()).digest()
