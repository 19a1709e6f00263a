"""Profiles: named sets of params that replace values of params.yaml, comments and order kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML

from supertiny.errors import UserError
from supertiny.params import core

PROFILES = Path("conf/profile")


def profile_names(folder: Path = PROFILES) -> list[str]:
    """The profiles there are."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def apply_profile(
    name: str, params_file: Path = core.PARAMS_FILE, folder: Path = PROFILES
) -> list[tuple[str, Any, Any]]:
    """Replace values of ``params_file`` by those of a profile; `(key, old, new)` of each change.

    Raises:
        UserError: no such profile, a key of it that params.yaml does not have, or a result that is
            not legal; the file is then left as it was.
    """
    source = folder / f"{name}.yaml"
    if not source.is_file():
        known = ", ".join(profile_names(folder)) or "none"
        raise UserError(f"{source}: no such profile; there are: {known}")
    round_trip = YAML()
    round_trip.preserve_quotes = True
    before = params_file.read_text(encoding="utf-8")
    values = round_trip.load(before)
    profile = yaml.safe_load(source.read_text(encoding="utf-8")) or {}
    changes = _merge(values, profile, "", str(source))
    try:
        with params_file.open("w", encoding="utf-8") as file:
            round_trip.dump(values, file)
        core.load_all(params_file)
    except UserError:
        params_file.write_text(before, encoding="utf-8")
        raise
    return changes


def _merge(target: Any, overrides: dict[str, Any], prefix: str, source: str) -> list[Any]:
    changes = []
    for key, value in overrides.items():
        if key not in target:
            raise UserError(f"{source}: {prefix}{key}: params.yaml has no such key")
        if isinstance(value, dict):
            changes += _merge(target[key], value, f"{prefix}{key}.", source)
        elif target[key] != value:
            changes.append((f"{prefix}{key}", target[key], value))
            target[key] = value
    return changes
