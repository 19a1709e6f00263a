"""A repository with a graph of two quick stages that run as the project's do: through `run_stage`."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from pathlib import Path

import yaml
from project import environment, make_project
from tinygraph import DVC, commit, init_repository

PARTS = 12
GRAPH = """\
stages:
  make:
    cmd: python make.py
    params: [report]
    deps: [make.py, words.py, tasks/late.py, tasks/home/task.yaml]
    outs: [parts]
    metrics:
      - metrics/make.json:
          cache: false
  join:
    cmd: python join.py
    deps: [join.py, parts]
    outs: [joined]
"""
FILES = {
    "make.py": """\
import time
from pathlib import Path
import words
from supertiny.io import write_json, write_text
from supertiny.params.report import Report
from supertiny.stage import run_stage

def main(params):
    from tasks import late
    line = Path("tasks/home/task.yaml").read_text().splitlines()[0]
    for part in range(12):
        write_text(f"parts/{part}.txt", f"{words.WORD} {late.WORD} {line} {part}\\n" * 20_000)
        while Path("hold").exists():
            Path("holding").touch()
            time.sleep(0.01)
        time.sleep(0.05)
    write_json("metrics/make.json", {"seed": params.seed})

run_stage(main, Report)
""",
    "join.py": """\
from pathlib import Path
from supertiny.io import write_text
from supertiny.params.report import Report
from supertiny.stage import run_stage

def main(params):
    parts = sorted(Path("parts").iterdir())
    write_text("joined/all.txt", "".join(part.read_text() for part in parts))

run_stage(main, Report)
""",
    "words.py": 'WORD = "one"\n',
    "tasks/late.py": 'WORD = "two"\n',
}
OUTS = ("parts", "joined", "metrics/make.json")


def make_drill_repository(folder: Path) -> Path:
    """The graph, committed to git, nothing run; the project's own code and params are beside it."""
    make_project(folder)
    (folder / "dvc.yaml").write_text(GRAPH)
    for name, text in FILES.items():
        (folder / name).write_text(text)
    (folder / ".gitignore").write_text("/parts\n/joined\n/hold*\n__pycache__/\n/.supertiny/\n")
    init_repository(folder)
    commit(folder, "graph")
    return folder


def start_repro(folder: Path) -> subprocess.Popen[str]:
    """`dvc repro` as the head of a process group of its own, its output in one pipe."""
    return subprocess.Popen(
        [DVC, "repro"], cwd=folder, env=environment(), start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def start_held_repro(folder: Path) -> subprocess.Popen[str]:
    """`dvc repro` whose stage `make` has written one part and waits for `release`."""
    (folder / "hold").touch()
    process = start_repro(folder)
    while not (folder / "holding").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    return process


def release(folder: Path) -> None:
    """Let a held stage go on."""
    (folder / "hold").unlink()
    (folder / "holding").unlink()


def recorded(folder: Path) -> dict[str, list[dict[str, object]]]:
    """What dvc.lock says each finished stage wrote."""
    lock = folder / "dvc.lock"
    content = yaml.safe_load(lock.read_text()) if lock.is_file() else None
    stages = content["stages"] if content else {}  # a full disk can leave an empty file
    return {name: stage["outs"] for name, stage in stages.items()}


def digests(folder: Path, *names: str) -> dict[str, str]:
    """SHA-256 by path of all files under the named files and folders; links are followed."""
    found: dict[str, str] = {}
    for name in names:
        path = folder / name
        inside = (
            [path]
            if path.is_file()
            else [Path(at) / file for at, _, files in os.walk(path) for file in files]
        )
        for file in inside:
            found[str(file.relative_to(folder))] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found
