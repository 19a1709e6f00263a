"""A new task's folder and profile, from the template in this package: an example to be rewritten."""

from __future__ import annotations

import keyword
import re
import string
from pathlib import Path

from supertiny.errors import UserError
from supertiny.io import write_text
from supertiny.profile import PROFILES
from supertiny.task import TASKS_DIR
from supertiny.teacher import RECORDINGS

TEMPLATE = Path(__file__).parent / "templates" / "task"
_NAME = re.compile(r"[a-z][a-z0-9_]*")
# What holds the task's name, or text with doubled dollar signs; all else is copied as it is.
_FILLED_IN = {".yaml", ".md"}


def new_task(
    name: str,
    tasks_dir: Path = TASKS_DIR,
    profiles: Path = PROFILES,
    recordings: Path = RECORDINGS,
) -> list[Path]:
    """Write ``tasks/<name>/``, ``conf/profile/<name>.yaml`` and an empty place for recordings of a
    teacher, ``data/recordings/<name>/``; the files written.

    Raises:
        UserError: no name that a Python package can have, or a folder or profile of it is there.
    """
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise UserError(
            f"{name!r}: no name for a task; expected small letters, digits and _, a letter first, "
            "and no word of Python, such as `support_tickets`"
        )
    folder, profile = tasks_dir / name, profiles / f"{name}.yaml"
    there = [str(path) for path in (folder, profile) if path.exists()]
    if there:
        raise UserError(f"{', '.join(there)}: already there; choose another name or remove it")
    written = []
    for source in sorted(path for path in TEMPLATE.iterdir() if path.is_file()):
        target = profile if source.name == "profile.yaml" else folder / source.name
        text = source.read_text(encoding="utf-8")
        if source.suffix in _FILLED_IN:
            text = string.Template(text).substitute(name=name)
        if source.name == "__init__.py":
            text = f'"""The task `{name}`."""\n'
        write_text(target, text)
        written.append(target)
    written.append(recordings / name / "README.md")
    write_text(written[-1], f"# Recording of the teacher of `{name}`\n\nNothing is recorded yet.\n")
    return written
