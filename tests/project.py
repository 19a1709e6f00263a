"""A copy of the project in a folder of its own, at smoke size, and stages run in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from supertiny.profile import apply_profile

ROOT = Path(__file__).resolve().parent.parent
CODE = (
    "supertiny",
    "stages",
    "tasks",
    "data/recordings",
    "conf",
    "constraints.txt",
    "params.yaml",
    "dvc.yaml",
    ".dvcignore",
    ".gitignore",
)


def make_project(folder: Path) -> Path:
    """The working tree's code and params, with the smoke profile applied."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in CODE:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, target)
    apply_profile("smoke", folder / "params.yaml", folder / "conf" / "profile")
    return folder


def environment() -> dict[str, str]:
    """The environment stages run in: `python` and `dvc` of this interpreter, the copy's own code.

    Progress bars show every step: by default they leave out what a fast machine does within 0.1 s,
    and tests read from them where a run began.
    """
    scripts = str(Path(sys.executable).parent)
    path = os.pathsep.join([scripts, os.environ["PATH"]])
    every_step = {"TQDM_MININTERVAL": "0", "TQDM_MINITERS": "1"}
    return {**os.environ, **every_step, "PATH": path, "PYTHONPATH": ".", "MALLOC_ARENA_MAX": "1"}


def run(folder: Path, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command in the project, its output captured and shown when it fails."""
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    if check and done.returncode:
        raise AssertionError(f"{command} gave {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def run_stage(
    folder: Path, stage: str, *arguments: str, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run one stage script in the project."""
    return run(folder, sys.executable, "-m", f"stages.{stage}", *arguments, check=check)
