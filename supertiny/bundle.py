"""The folder that ships: a model that answers, and papers that say what it is and is made of.

Everything in it is a function of what the graph made, so the same graph gives the same bytes;
`hand_over` adds what only the checkout knows, its commit and its lock file.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from supertiny.checksums import SUMS, check_sums, checksums
from supertiny.confidence import CONFIDENCE_FILE
from supertiny.errors import UserError
from supertiny.grammar import lark_grammar
from supertiny.io import read_json, replace_folder, sha256_file, write_json, write_text
from supertiny.modelfolder import check_folder, size_mb
from supertiny.report import percent
from supertiny.task import Task

PACKAGES = ("onnxruntime-genai", "onnxruntime", "tokenizers", "transformers", "torch", "trl")


def write_bundle(
    model: Path,
    task: Task,
    out: Path,
    results: Mapping[str, Path],
    inputs: Mapping[str, Path],
    calibration: Path,
) -> None:
    """Write the bundle of an ONNX model folder.

    Args:
        results: JSON metric files to put in, by the name they get in ``metrics/``; ``evaluation``,
            ``benchmark`` and ``confidence`` are also shown on the model card.
        inputs: files the model was made from, hashed into the lineage by name; ``base`` is the
            base model's SOURCE.json, which is put in as it is.
        calibration: what turns the model's scores into confidences.

    Raises:
        UserError: a file is missing.
    """
    check_folder(model)
    found = {name: read_json(path) for name, path in results.items()}
    origin = read_json(inputs["base"])
    hashes = {name: sha256_file(path) for name, path in inputs.items() if name != "base"}
    lineage = {
        "task": task.name,
        "base": origin,
        "inputs": hashes,
        "packages": {name: version(name) for name in PACKAGES},
    }
    with replace_folder(out) as partial:
        shutil.copytree(model, partial, dirs_exist_ok=True)
        for name, values in found.items():
            write_json(partial / "metrics" / f"{name}.json", values)
        if task.tools:  # else there is a grammar for each query
            write_text(partial / "task" / "grammar.lark", lark_grammar(task.tools))
        write_json(partial / CONFIDENCE_FILE, read_json(calibration))
        write_json(partial / "lineage.json", lineage)
        write_text(partial / "README.md", model_card(task, model, found, origin))
        write_text(partial / SUMS, checksums(partial))


def hand_over(bundle: Path, out: Path) -> None:
    """Copy a bundle out of its checkout, with the commit and the lock file's hash in the lineage.

    Raises:
        UserError: the bundle is missing or damaged, or ``out`` exists.
    """
    if not (bundle / SUMS).is_file():
        raise UserError(f"{bundle}: not found; make it with `dvc repro` or fetch it: `dvc pull`")
    check_sums(bundle)
    if out.exists():
        raise UserError(f"{out}: is there already; nothing was written, name a new folder")
    lineage = read_json(bundle / "lineage.json")
    lineage["commit"] = _commit()
    lineage["dvc_lock"] = sha256_file("dvc.lock") if Path("dvc.lock").is_file() else None
    with replace_folder(out) as partial:
        shutil.copytree(bundle, partial, dirs_exist_ok=True)
        write_json(partial / "lineage.json", lineage)
        write_text(partial / SUMS, checksums(partial))


def _commit() -> str | None:
    """The checkout's commit, marked where files differ from it; None outside git."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        capture_output=True,
        text=True,
    )
    return described.stdout.strip() or None


def model_card(
    task: Task, model: Path, found: Mapping[str, Mapping[str, Any]], origin: Mapping[str, Any]
) -> str:
    """The bundle's README.md: what it does, how well, how to run it, whose it is."""
    score, speed, sure = found["evaluation"], found["benchmark"], found["confidence"]
    spoken = _languages(task, score)
    base = origin.get("repo") or origin.get("file") or origin["source"]
    return f"""# {task.name}, {model.name}

{task.description} {size_mb(model):.0f} MB, for ONNX Runtime GenAI on CPU. Language: {spoken}.

## How well it does

On {score["n"]} test inputs that nothing was chosen by:

| | |
|---|---|
{_figures(score, speed)}

All figures: `metrics/`. It knows the tools {_whose(task)} and nothing else; what fits none is `no_call`.
It was tested on typed commands of one sentence. Do not let it act unasked where a wrong call does
harm. Each call has a `confidence`, and `ask_teacher` says where it is under
{sure["threshold"]:.3f}: on {sure["n"]} inputs not trained on it would have answered
{percent(sure["coverage"])}% itself, {percent(sure["accuracy_answered"])}% of them right.

## Run it

```python
import supertiny

model = supertiny.load("this/folder")
print(model.predict({_usage(task)}))
```

{_alone(task)}

## Tools

{_tools(task)}

## Whose it is

Base model: {base}, licence {origin.get("licence")}. Training data: {task.licence}
What else it was made from: `lineage.json`. Check the files: `sha256sum -c {SUMS}`.
"""


def _figures(score: Mapping[str, Any], speed: Mapping[str, Any]) -> str:
    def share(key: str) -> str:
        return f"{percent(score[key])}%"

    low, high = share("exact_match_low"), share("exact_match_high")
    milliseconds = [f"{speed[f'latency_{name}_ms']:.0f} ms" for name in ("p50", "p95")]
    rows = {
        "exact match (95% interval)": f"{share('exact_match')} ({low} to {high})",
        "right tool": share("tool_accuracy"),
        "`no_call`, precision": share("no_call_precision"),
        "`no_call`, recall": share("no_call_recall"),
        "latency, median": f"{milliseconds[0]} on the machine that made it",
        "latency, 95th percentile": f"{milliseconds[1]}",
        "peak memory": f"{speed['peak_rss_mib']:.0f} MiB",
    }
    return "\n".join(f"| {name} | {value} |" for name, value in rows.items())


def _languages(task: Task, score: Mapping[str, Any]) -> str:
    """Those it was tested in, which the metrics name where it is not the task's own alone."""
    slices = (re.fullmatch(r"slice_language_(\w+)_n", key) for key in score)
    return ", ".join(found[1] for found in slices if found) or task.language


def _whose(task: Task) -> str:
    return "below" if task.tools else "that come with a query"


def _usage(task: Task) -> str:
    said = '"what you would say"'
    return said if task.tools else f'{{"query": {said}, "tools": TOOLS}}'


def _alone(task: Task) -> str:
    lowered = " in lower case" if task.lowercase else ""
    if not task.tools:
        return """`TOOLS` is a list of `{"name", "description", "parameters"}`, the last one a JSON Schema.
The package makes of them the lines that the student reads before the query, and the grammar of its answer."""
    return f"""With onnxruntime-genai alone: the prompt is the start token, a space, the query{lowered} and a
newline; decode greedily to the end token; `task/grammar.lark` is the grammar for `set_guidance`."""


def _tools(task: Task) -> str:
    known = ", ".join(f"`{name}`" for name in sorted(task.tools))
    return known or "None of its own: each query brings those that may be called."
