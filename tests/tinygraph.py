"""A repository with a graph of the project's shape whose stages take no time: git and DVC are real."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from project import run

DVC = str(Path(sys.executable).parent / "dvc")
PARAMS: dict[str, Any] = {
    "task": "lamps", "data": {"rows": 20, "parts": 0}, "train": {"skill": 1, "rates": {"first": 0.5}},
    "evaluate": {"strict": True}, "bundle": {"variant": "int8"},
}  # fmt: skip
GRAPH = """\
stages:
  data:
    cmd: python work.py data
    params: [data]
    deps: [work.py]
    outs: [data]
  train:
    cmd: python work.py train
    params: [train]
    deps: [data/train.txt, train.txt]
    outs: [model]
    metrics:
      - metrics/train.json:
          cache: false
  evaluate:
    foreach: [sft, int8]
    do:
      cmd: python work.py evaluate ${item}
      params: [task, evaluate]
      deps: [data, model]
      outs: ["metrics/eval/${task}/${item}.predictions.jsonl"]
      metrics:
        - metrics/eval/${task}/${item}.json:
            cache: false
"""
WORK = """\
import json, sys
from pathlib import Path
import yaml

params = yaml.safe_load(open("params.yaml"))
stage, *rest = sys.argv[1:]

def write(path, text):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)

if stage == "data":
    rows = params["data"]["rows"]
    write("data/train.txt", f"{rows}\\n" * rows)
    write("data/test.txt", "".join(f"query {i}\\n" for i in range(rows)))
    for i in range(params["data"]["parts"]):
        write(f"data/parts/{i}.txt", f"part {i}\\n" * 2_000)
elif stage == "train":
    write("model/weights", str(params["train"]["skill"]) * 50_000)
    write("metrics/train.json", json.dumps(params["train"]))
else:
    skill = int(Path("model/weights").read_text()[0])
    rows = []
    for i, query in enumerate(Path("data/test.txt").read_text().splitlines()):
        right = (i + skill) % (3 + skill) != 0
        gold = {"name": "Dim", "arguments": {"brightness": i}}
        rows.append({
            "id": f"q{i:02}", "query": query, "gold": gold, "exact": right,
            "predicted": gold if right else None, "reason": None if right else "unparsable",
        })
    folder = f"metrics/eval/{params['task']}/{rest[0]}"
    write(f"{folder}.predictions.jsonl", "".join(json.dumps(row) + "\\n" for row in rows))
    write(f"{folder}.json", json.dumps({"exact_match": sum(r["exact"] for r in rows) / len(rows)}))
"""


def copy_repository(source: Path, folder: Path) -> Path:
    """A copy to change, the cache and its links included."""
    return shutil.copytree(source, folder, symlinks=True)


def make_repository(folder: Path) -> Path:
    """The graph, committed to git, nothing run."""
    folder.mkdir(parents=True)
    files = {
        "params.yaml": yaml.safe_dump(PARAMS), "dvc.yaml": GRAPH, "work.py": WORK,
        "train.txt": "what train reads that no stage makes\n",
        ".gitignore": "/data\n/model\n*.jsonl\n__pycache__/\n.supertiny/\n",
    }  # fmt: skip
    for name, text in files.items():
        (folder / name).write_text(text)
    init_repository(folder)
    commit(folder, "graph")
    return folder


def init_repository(folder: Path) -> None:
    """Make a folder a git and DVC repository with a committer of its own."""
    run(folder, "git", "init", "-q", "-b", "main")
    run(folder, "git", "config", "user.email", "tests@example.org")
    run(folder, "git", "config", "user.name", "tests")
    run(folder, DVC, "init", "-q")
    run(folder, DVC, "config", "core.analytics", "false")


def commit(folder: Path, message: str) -> None:
    """Everything that git does not ignore."""
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-q", "-m", message)


def set_param(folder: Path, section: str, key: str, value: Any) -> None:
    """One value of params.yaml."""
    values = yaml.safe_load((folder / "params.yaml").read_text())
    values[section][key] = value
    (folder / "params.yaml").write_text(yaml.safe_dump(values))


def repro(folder: Path, *options: str) -> set[str]:
    """The stages that `dvc repro` ran: not those it skipped or took from its cache."""
    output = run(folder, DVC, "repro", *options).stdout
    return {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")}


def clone(source: Path, target: Path) -> Path:
    """A git clone: DVC's cache stays behind."""
    subprocess.run(["git", "clone", "-q", str(source), str(target)], check=True)
    return target
