"""What every stage script does around its own work.

One call of `run_stage` checks params.yaml, takes a lock on the stage, runs it, and refuses to call
the result good when a source file changed underneath it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import yaml

from supertiny.errors import UserError
from supertiny.io import sha256_file
from supertiny.params import core

STATE_DIR = Path(".supertiny")  # git-ignored: locks, timings, training checkpoints
SOURCES = ("supertiny", "stages", "tasks")
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # dvc.lock is long
_Section = TypeVar("_Section")


def run_stage(main: Callable[[_Section], None], section: type[_Section]) -> None:
    """Run a stage script's ``main`` with its section of params.yaml; exit code 2 on a user's mistake."""
    started = time.monotonic()
    try:
        own = _loaded()
        values = core.load_all()
        foreign = _loaded() - own  # of the other sections, which are checked and not used
        params = values[section.__name__.lower()]
        print(f"{section.__name__.lower()}: {asdict(params)}", flush=True)
        sources = _project_sources()
        with _exclusive(_stage_label()):
            _refuse_damaged_inputs()
            main(params)
        _refuse_changed(sources, foreign, values, section)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        if not _disk_is_full(error):
            raise
        print(
            f"error: no space left on the disk of {Path.cwd()}; make room and run `dvc repro` again",
            file=sys.stderr,
        )
        sys.exit(2)
    _log_time(_stage_label(), time.monotonic() - started)


def one_argument(allowed: Sequence[str], meaning: str) -> str:
    """The stage's one command-line argument, which must be among those allowed.

    Args:
        meaning: what the allowed ones are, for the message, such as "the variants".

    Raises:
        UserError: no argument, more than one, or another one.
    """
    found = sys.argv[1:]
    if len(found) != 1 or found[0] not in allowed:
        stage, example = Path(sys.argv[0]).stem, next(iter(allowed), "NAME")
        raise UserError(
            f"stage {stage}: found the arguments {found}, expected exactly one of {meaning} "
            f"({', '.join(allowed)}), as in `python -m stages.{stage} {example}`"
        )
    return found[0]


def _stage_label() -> str:
    return "-".join([Path(sys.argv[0]).stem, *sys.argv[1:]]).replace("/", "_")


def _loaded() -> set[Path]:
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    return {Path(file) for file in files if file}


def _project_sources() -> dict[Path, str]:
    # Also what is imported only later, and the task's files that are no code.
    root = Path.cwd()
    inside = {path for path in _loaded() if path.is_relative_to(root)}
    for name in SOURCES:
        inside |= {path for path in (root / name).rglob("*") if path.is_file()}
    left_out = {"site-packages", "__pycache__"}
    return {path: sha256_file(path) for path in inside if left_out.isdisjoint(path.parts)}


def _refuse_changed(
    sources: dict[Path, str], foreign: set[Path], values: dict[str, Any], section: type
) -> None:
    # DVC hashes a stage's deps and reads its params after its command: without this, an edit made
    # while the stage ran would be recorded as what made the result.
    loaded, task = _loaded() - foreign, Path.cwd() / "tasks" / values["task"]
    read = [path for path in sources if path in loaded or path.is_relative_to(task)]
    changed = [str(path) for path in read if not _is(path, sources[path])]
    now = core.load_all()
    keys = ("task", section.__name__.lower())
    changed += [f"params.yaml: {key}" for key in keys if now[key] != values[key]]
    if changed:
        raise UserError(
            f"source changed while the stage ran: {', '.join(sorted(changed))}; "
            "the result is not of what stands there now; run `dvc repro` again"
        )


def _refuse_damaged_inputs() -> None:
    # A plain `dvc repro` brings damaged outs back before it runs a stage. A stage run alone, with
    # `dvc repro -s` or by hand, would learn from a torn file, or from one with a bit flipped.
    lock = Path("dvc.lock")
    if not lock.is_file():
        return
    stages = yaml.load(lock.read_text(encoding="utf-8"), _Loader)["stages"]
    command = " ".join(["python", "-m", f"stages.{Path(sys.argv[0]).stem}", *sys.argv[1:]])
    deps = [dep["path"] for s in stages.values() if s["cmd"] == command for dep in s["deps"]]
    # DVC leaves the entries of stages there that dvc.yaml calls otherwise by now: any may be the one.
    makers: dict[str, dict[str, Any]] = {}
    for stage, entry in stages.items():
        for out in entry.get("outs", ()):
            if any(Path(dep).is_relative_to(out["path"]) for dep in deps):
                makers.setdefault(out["path"], {})[stage] = out
    for path, outs in makers.items():
        if all(map(_is_damaged, outs.values())):
            stage = " or ".join(outs)
            raise UserError(
                f"{path}: not what the stage {stage} wrote (dvc.lock), so damaged or edited; "
                f"`dvc checkout --force {path}` brings it back. Should it be as it is, "
                f"`dvc commit {stage}` records it"
            )


def _is_damaged(out: dict[str, Any]) -> bool:
    path = Path(out["path"])
    if not path.is_dir():
        return path.exists() and _md5(path) != out["md5"]
    # DVC's hash of a folder is that of this list. Of a folder pulled in part nothing can be said.
    files = sorted((f.relative_to(path).as_posix(), f) for f in path.rglob("*") if f.is_file())
    listing = json.dumps([{"md5": _md5(file), "relpath": name} for name, file in files])
    digest = hashlib.md5(listing.encode(), usedforsecurity=False).hexdigest()
    return len(files) == out["nfiles"] and f"{digest}.dir" != out["md5"]


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and sha256_file(path) == digest


def _disk_is_full(error: Exception) -> bool:
    # torch and safetensors tell it in words of their own, or not at all.
    told = getattr(error, "errno", None) == errno.ENOSPC or "os error 28" in str(error)
    return told or shutil.disk_usage(Path.cwd()).free < 2**20


@contextmanager
def _exclusive(label: str) -> Iterator[None]:
    # A killed `dvc repro` leaves its child running; a second run must not write the same outs.
    folder = STATE_DIR / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / label).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"stage {label} is already running (process {file.read().strip() or 'unknown'}); "
                "wait for it to end or stop it, then run `dvc repro` again"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _log_time(label: str, seconds: float) -> None:
    with (STATE_DIR / "times.tsv").open("a", encoding="utf-8") as file:
        file.write(f"{label}\t{seconds:.1f}\n")
