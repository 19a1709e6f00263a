"""A folder's files and their SHA-256, in the form of `sha256sum`."""

from __future__ import annotations

from pathlib import Path

from supertiny.errors import UserError
from supertiny.io import sha256_file

SUMS = "SHA256SUMS"


def checksums(folder: Path) -> str:
    """A line for each file of a folder but the checksums' own, as `sha256sum -c` reads them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)
    return "".join(
        f"{sha256_file(path)}  {path.relative_to(folder).as_posix()}\n" for path in files
    )


def check_sums(folder: Path) -> None:
    """Raises `UserError` for a folder with a file missing, added or changed since it was summed."""
    wanted = read_sums(folder)
    found = _by_name(checksums(folder))
    changed = sorted(name for name in wanted | found if wanted.get(name) != found.get(name))
    if changed:
        raise UserError(
            f"{folder}: not as it was made: {', '.join(changed)}; copy the folder anew from where "
            "it came from, or make it with `supertiny export`"
        )


def read_sums(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file of a folder, by name, as they were when it was summed.

    Raises:
        UserError: the list is damaged.
    """
    try:
        return _by_name((folder / SUMS).read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{folder}/{SUMS}: damaged; copy the folder anew") from None


def _by_name(text: str) -> dict[str, str]:
    pairs = [line.split("  ", 1) for line in text.splitlines()]
    return {name: digest for digest, name in pairs}
