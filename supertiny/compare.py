"""Two commits' variants on the same test rows: how far apart, how sure, which inputs changed sides.

The predictions of a commit are a DVC out: dvc.lock of that commit holds their hash, the DVC cache
(or the remote) the file. Nothing is run and nothing is checked out.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.scm import resolve_rev
from dvc_data.hashfile.hash_info import HashInfo

from supertiny.errors import UserError
from supertiny.metrics import paired_bootstrap

WORKSPACE = "workspace"  # DVC's name for what is not committed yet
ROUNDS, SEED = 10_000, 1
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Comparison:
    """The second side minus the first, over the rows that both have.

    Attributes:
        n: rows compared.
        left_out: rows that only one side has, or that ask for something else under the same id.
        exact: share of exact matches of each side.
        difference: with its 95% interval, as shares; positive: the second side is better.
        won, lost: pairs (first side's row, second side's row) that changed sides.
    """

    n: int
    left_out: int
    exact: tuple[float, float]
    difference: tuple[float, float, float]
    won: Sequence[tuple[Row, Row]]
    lost: Sequence[tuple[Row, Row]]


def compare_rows(first: Sequence[Row], second: Sequence[Row]) -> Comparison:
    """Match rows by id and compare their verdicts.

    Raises:
        UserError: no row is the same in both.
    """
    others = {row["id"]: row for row in second}
    pairs = [(row, others[row["id"]]) for row in first if row["id"] in others]
    pairs = [(a, b) for a, b in pairs if (a["query"], a["gold"]) == (b["query"], b["gold"])]
    if not pairs:
        raise UserError(
            f"no test row is the same in both ({len(first)} and {len(second)} rows): the test set "
            "changed between them, and their shares cannot be paired; see `dvc metrics diff`"
        )
    before, after = [a["exact"] for a, _ in pairs], [b["exact"] for _, b in pairs]
    return Comparison(
        n=len(pairs),
        left_out=len(first) + len(second) - 2 * len(pairs),
        exact=(sum(before) / len(pairs), sum(after) / len(pairs)),
        difference=paired_bootstrap(before, after, SEED, ROUNDS),
        won=[(a, b) for a, b in pairs if b["exact"] and not a["exact"]],
        lost=[(a, b) for a, b in pairs if a["exact"] and not b["exact"]],
    )


def read_predictions(root: Path, revision: str, variant: str) -> list[Row]:
    """The rows that a variant answered at a revision or experiment, or in the `workspace`.

    Raises:
        UserError: no such revision, no such variant in its dvc.lock, or the file is neither in the
            DVC cache nor in the remote, or not what dvc.lock says it is.
    """
    task = _yaml_at(root, revision, "params.yaml")["task"]
    path = f"metrics/eval/{task}/{variant}.predictions.jsonl"
    outs = {
        out["path"]: out
        for stage in _yaml_at(root, revision, "dvc.lock")["stages"].values()
        for out in stage.get("outs", [])
    }
    if path not in outs:
        there = sorted(
            Path(name).name.removesuffix(".predictions.jsonl")
            for name in outs
            if name.startswith(f"metrics/eval/{task}/") and name.endswith(".predictions.jsonl")
        )
        raise UserError(
            f"dvc.lock of {revision} has no {path}; variants there: {', '.join(there) or 'none'}"
        )
    return _rows(_cached_file(root, revision, path, outs[path]["md5"]))


def shipped_variant(root: Path, revision: str) -> str:
    """The variant that params.yaml of a revision or experiment, or of the `workspace`, ships.

    Raises:
        UserError: no such revision, or it ships none.
    """
    variant = _yaml_at(root, revision, "params.yaml").get("bundle", {}).get("variant")
    if variant is None:
        raise UserError(
            f"params.yaml of {revision} has no bundle.variant; say which with --variant"
        )
    return str(variant)


def _yaml_at(root: Path, revision: str, name: str) -> Any:
    if revision == WORKSPACE:
        file = root / name
        if not file.is_file():
            raise UserError(f"{name}: file not found; run from the repository root")
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    done = _git_show(root, revision, name)
    if done.returncode:  # git itself does not know the names of experiments
        done = _git_show(root, _commit(root, revision), name)
    if done.returncode:
        problem = done.stderr.strip().splitlines()
        raise UserError(
            f"{revision}: expected a git revision or experiment that has {name}, or {WORKSPACE!r}; "
            f"git says: {problem[0] if problem else 'nothing'}"
        )
    return yaml.safe_load(done.stdout)


def _git_show(root: Path, revision: str, name: str) -> subprocess.CompletedProcess[str]:
    command = ["git", "show", "--end-of-options", f"{revision}:./{name}"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


def _commit(root: Path, revision: str) -> str:
    """The commit of an experiment's name, or what was given."""
    try:
        with Repo(str(root)) as repo:
            return str(resolve_rev(repo.scm, revision))
    except DvcException:
        return revision


def _cached_file(root: Path, revision: str, path: str, digest: str) -> bytes:
    try:
        with Repo(str(root)) as repo:
            cached = Path(repo.cache.local.oid_to_path(digest))
            if not cached.is_file():
                _pull(repo, revision, path, digest)
            content = cached.read_bytes()
    except DvcException as error:
        raise UserError(f"DVC: {error}") from None
    if (found := hashlib.md5(content, usedforsecurity=False).hexdigest()) != digest:
        raise UserError(
            f"{path} of {revision}: found md5 {found} in the DVC cache, expected {digest}; "
            f"remove {cached} and run this again to pull it, or `dvc repro` at that commit"
        )
    return content


def _pull(repo: Any, revision: str, path: str, digest: str) -> None:
    problem = "the remote does not have it"
    try:
        repo.cloud.pull([HashInfo("md5", digest)])
        if Path(repo.cache.local.oid_to_path(digest)).is_file():
            return
    except Exception as error:  # each kind of remote has errors of its own
        problem = f"{type(error).__name__}: {error}"
    raise UserError(
        f"{path} of {revision} (md5 {digest}) is not in the DVC cache and cannot be pulled: "
        f"{problem}; `dvc push` where that commit was made, or check it out and run `dvc repro`"
    )


def _rows(content: bytes) -> list[Row]:
    return [json.loads(line) for line in content.decode().splitlines() if line.strip()]


def to_json(result: Comparison) -> dict[str, Any]:
    """The comparison for other programs: flat numbers, and the ids that changed sides."""
    difference, low, high = result.difference
    return {
        "n": result.n,
        "left_out": result.left_out,
        "exact_match_first": result.exact[0],
        "exact_match_second": result.exact[1],
        "difference": difference,
        "difference_low": low,
        "difference_high": high,
        "won": [row["id"] for row, _ in result.won],
        "lost": [row["id"] for row, _ in result.lost],
    }


def render(result: Comparison, names: tuple[str, str], variant: str, limit: int) -> str:
    """The comparison as text, with up to ``limit`` inputs won and as many lost."""
    width = max(map(len, names))
    difference, low, high = (f"{100 * value:+.1f}" for value in result.difference)
    lines = [f"{variant}, exact match on {result.n} test rows that both have"]
    if result.left_out:
        lines.append(f"{result.left_out} rows left out: only one of the two has them")
    lines += [
        f"  {name:{width}}  {100 * share:.1f}%"
        for name, share in zip(names, result.exact, strict=True)
    ]
    lines.append(f"  {'difference':{width}}  {difference} points (95% interval {low} to {high})")
    if result.difference[1] <= 0 <= result.difference[2]:
        lines.append("  The interval holds 0: this test set does not tell the two apart.")
    for title, pairs in (("won", result.won), ("lost", result.lost)):
        lines += ["", f"{title}: {len(pairs)}"]
        lines += [line for pair in pairs[:limit] for line in _pair_lines(*pair)]
        if len(pairs) > limit:
            lines.append(f"  and {len(pairs) - limit} more (--limit)")
    return "\n".join(lines)


def _pair_lines(first: Row, second: Row) -> list[str]:
    wrong = second if first["exact"] else first
    return [
        f"  {first['query']}",
        f"    expected {_call(first['gold'])}",
        f"    wrong    {_call(wrong['predicted'])} ({wrong['reason']})",
    ]


def _call(call: Mapping[str, Any] | None) -> str:
    return "no legal call" if call is None else json.dumps(call, ensure_ascii=False, sort_keys=True)
