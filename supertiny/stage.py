"""What every stage script does around its own work.

One call of `run_stage` checks params.yaml, takes a lock on the stage, runs it, and refuses to call
the result good when a source file changed underneath it.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from supertiny.errors import UserError
from supertiny.io import sha256_file
from supertiny.params import core

STATE_DIR = Path(".supertiny")  # git-ignored: locks, timings, training checkpoints
_Section = TypeVar("_Section")


def run_stage(main: Callable[[_Section], None], section: type[_Section]) -> None:
    """Run a stage script's ``main`` with its section of params.yaml; exit code 2 on a user's mistake."""
    started = time.monotonic()
    try:
        params = core.load(section)
        print(f"{section.__name__.lower()}: {asdict(params)}", flush=True)  # type: ignore[call-overload]
        sources = _project_sources()
        with _exclusive(_stage_label()):
            main(params)
        _refuse_changed(sources)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
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


def _project_sources() -> dict[Path, str]:
    root = Path.cwd()
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    paths = {Path(file) for file in files if file and Path(file).is_relative_to(root)}
    inside = {path for path in paths if "site-packages" not in path.parts}
    return {path: sha256_file(path) for path in inside}


def _refuse_changed(sources: dict[Path, str]) -> None:
    # DVC hashes a stage's deps after its command: without this, an edit made while the stage ran
    # would be recorded as the code that made the result.
    changed = [str(path) for path, digest in sources.items() if sha256_file(path) != digest]
    if changed:
        raise UserError(
            f"source changed while the stage ran: {', '.join(sorted(changed))}; "
            "the result is not of the code that stands there now; run `dvc repro` again"
        )


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
