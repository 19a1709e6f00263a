"""What must hold before a model ships: bounds against what earlier stages measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supertiny.io import read_json, read_tsv
from supertiny.params.gate import Gate


@dataclass(frozen=True)
class Check:
    """One bound. ``highest``: the measured value may be at most the bound, else at least."""

    name: str
    measured: float
    bound: float
    highest: bool
    look: str  # the file that shows what is behind a broken bound

    @property
    def holds(self) -> bool:
        """Whether the measured value keeps the bound."""
        return self.measured <= self.bound if self.highest else self.measured >= self.bound


def measure(
    metrics: Path, task: str, reference: str, variants: Sequence[str], params: Gate
) -> list[Check]:
    """Every check of the ``variants`` that may ship, quantized from ``reference``.

    Raises:
        UserError: a file that an earlier stage writes is missing or broken.
    """
    prepare, export = metrics / "prepare.json", metrics / "export.json"
    evaluations = metrics / "eval" / task
    found = read_json(export)
    checks = [
        Check("leaks", _leaks(read_json(prepare)), 0, True, str(prepare)),
        Check(
            f"{reference}_greedy_identity",
            found["greedy_identical"] / found["parity_rows"],
            params.min_greedy_identity,
            False,
            str(export),
        ),
    ]
    exact = read_json(evaluations / f"{reference}.json")["exact_match"]
    for variant in variants:
        results = read_json(evaluations / f"{variant}.json")
        divergence = metrics / "divergence" / f"{variant}.json"
        errors = str(evaluations / f"{variant}.errors.jsonl")
        lost = round(exact - results["exact_match"], 6)
        tools = evaluations / f"{variant}.tools.tsv"
        checks += [
            Check(
                f"{variant}_exact_match_lost",
                lost,
                _bound(params, f"{variant}_exact_match_lost"),
                True,
                errors,
            ),
            Check(
                f"{variant}_kl",
                read_json(divergence)["kl"],
                _bound(params, f"{variant}_kl"),
                True,
                str(divergence),
            ),
            Check(
                f"{variant}_rarest_tools_exact_match",
                _rarest(read_tsv(tools), params.rarest_tools),
                params.min_rarest_exact_match,
                False,
                str(tools),
            ),
        ]
    return checks


def _bound(params: Gate, check: str) -> float:
    bound: float = getattr(params, f"max_{check}")
    return bound


def _leaks(prepare: Mapping[str, Any]) -> int:
    """Templates, names and near-duplicates of dev and test that train has too."""
    return sum(value for key, value in prepare.items() if key.startswith("leak_"))


def _rarest(tools: Iterable[Mapping[str, str]], count: int) -> float:
    """Exact match over all test inputs of the ``count`` tools that have the fewest."""
    rarest = sorted(tools, key=lambda tool: (int(tool["n"]), tool["tool"]))[:count]
    rows = sum(int(tool["n"]) for tool in rarest)
    right = sum(float(tool["exact_match"]) * int(tool["n"]) for tool in rarest)
    return round(right / rows, 6) if rows else 0.0


def flat(checks: Sequence[Check]) -> dict[str, float]:
    """The checks as flat metrics: what was measured, the bound, and how many are broken."""
    values: dict[str, float] = {"broken": sum(not check.holds for check in checks)}
    for check in checks:
        values[check.name] = check.measured
        values[f"{check.name}_bound"] = check.bound
    return values


def table(checks: Sequence[Check]) -> str:
    """The checks as text, broken ones first."""
    header = ("", "check", "measured", "bound", "look at")
    lines = [
        (
            "ok" if check.holds else "BROKEN",
            check.name,
            f"{check.measured:.4g}",
            f"{'at most' if check.highest else 'at least'} {check.bound:.4g}",
            check.look,
        )
        for check in sorted(checks, key=lambda check: check.holds)
    ]
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (header, *lines)
    )
