"""A graph of its own for another task: the same dvc.yaml and code, other params and outs.

DVC runs a `dvc.yaml` in its own folder, so a folder with links to the code and the graph is a second
instance of it. Its stages read the folder of their task alone: an edit there touches no other graph.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from supertiny.errors import UserError
from supertiny.params import core
from supertiny.profile import PROFILES, apply_profile

GRAPHS = Path("graphs")
_LINKED = (
    "dvc.yaml", "supertiny", "stages", "tasks", "conf", "constraints.txt", "data/recordings",
)  # fmt: skip


def new_graph(name: str, root: Path = Path()) -> Path:
    """Write ``graphs/<name>/``, whose params are those of ``root`` with the profile ``name``.

    Raises:
        UserError: no such profile, one that does not fit, a folder of that name is there, or
            ``root`` is such a folder itself.
    """
    folder = root / GRAPHS / name
    if not re.fullmatch(r"\w+", name):
        raise UserError(f"{name!r}: no name for a graph; expected that of a profile in {PROFILES}")
    if (root / "dvc.yaml").is_symlink():
        raise UserError("this is a graph of another folder; run `supertiny new-graph` there")
    if folder.exists():
        raise UserError(f"{folder}: already there; remove it or go there and run `dvc repro`")
    with tempfile.TemporaryDirectory() as made:
        params = Path(made) / core.PARAMS_FILE.name
        shutil.copyfile(root / core.PARAMS_FILE.name, params)
        apply_profile(name, params, root / PROFILES)
        folder.mkdir(parents=True)
        shutil.copyfile(params, folder / params.name)
    shutil.copyfile(root / ".gitignore", folder / ".gitignore")  # git reads none through a link
    for linked in map(Path, _LINKED):
        (folder / linked).parent.mkdir(exist_ok=True)
        (folder / linked).symlink_to(Path("../..", *[".."] * (len(linked.parts) - 1)) / linked)
    return folder
