"""What a killed `dvc` or a full disk can leave behind that stops the next `dvc repro`."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from supertiny.errors import UserError

DVC_STATE = Path(".dvc/tmp")


def drop_torn_lock(state: Path = DVC_STATE) -> bool:
    """Remove DVC's list of who uses which file if it is no JSON; returns whether it was removed.

    DVC writes the list in place, so a kill in that moment leaves half of it, and every later
    command stops at it. DVC edits it under a lock of its own, which is taken here too: a list that
    another `dvc` is just writing is left alone.

    Raises:
        dvc.lock.LockError: another `dvc` holds that lock for longer than DVC waits for it.
    """
    listing = state / "rwlock"
    if _is_whole(listing):
        return False
    from dvc.lock import make_lock

    with make_lock(str(state / "rwlock.lock"), tmp_dir=str(state)):
        if _is_whole(listing):
            return False
        listing.unlink()
    return True


def check_lock_file(lock: Path = Path("dvc.lock")) -> None:
    """Raises `UserError` for a dvc.lock that is cut short; DVC writes it in place, too."""
    if not lock.is_file():
        return
    try:
        content = yaml.safe_load(lock.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError):
        content = None
    stages = content.get("stages") if isinstance(content, dict) else None
    if not isinstance(stages, dict) or not all(isinstance(one, dict) for one in stages.values()):
        raise UserError(
            f"{lock}: cut short by a full disk or a killed `dvc`; run `git checkout {lock}` (or "
            "remove it, if it was never committed), then `dvc repro`: what was finished comes back "
            "from the cache"
        )


def _is_whole(listing: Path) -> bool:
    try:
        json.loads(listing.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return True
    except ValueError:
        return False
    return True
