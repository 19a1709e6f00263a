"""Source `hub`: a revision of a model repository."""

from __future__ import annotations

import os
from pathlib import Path

from supertiny.errors import UserError
from supertiny.fetch.base import Base
from supertiny.fetch.folder import ALLOWED, load_folder, stage_folder
from supertiny.params.fetch import Fetch


def from_hub(cfg: Fetch, scratch: Path) -> Base:
    """The safetensors of a pinned commit, from the hub or its local cache."""
    snapshot, names = _snapshot(cfg)
    where = f"{cfg.repo} at {cfg.revision}"
    remedy = f"If the download is damaged, delete {snapshot} and run `dvc repro fetch` again."
    folder = stage_folder(snapshot, names, where, scratch)
    origin = {"repo": cfg.repo, "revision": cfg.revision}
    return load_folder(folder, cfg.sha256, where, remedy, {"source": "hub", **origin})


def _snapshot(cfg: Fetch) -> tuple[Path, list[str]]:
    """The folder with the allowed files of a revision, and the names of all its files."""
    import httpx2  # huggingface_hub lets this client's transport errors through
    from huggingface_hub import get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, HFValidationError

    # Both variables are read here: the library reads them once, when it is first imported.
    endpoint = os.environ.get("HF_ENDPOINT") or None
    cache = os.environ.get("HF_HUB_CACHE") or None
    try:
        folder = snapshot_download(
            cfg.repo,
            revision=cfg.revision,
            allow_patterns=list(ALLOWED),
            endpoint=endpoint,
            cache_dir=cache,
        )
    except (OSError, HFValidationError, httpx2.HTTPError) as error:
        raise UserError(
            f"{cfg.repo} at {cfg.revision}: could not be fetched from {endpoint or 'the HF hub'}; "
            "check fetch.repo, fetch.revision, the network and HF_ENDPOINT, then run "
            f"`dvc repro fetch`. The hub client said: {error}"
        ) from error
    try:
        tree = get_cached_repo_tree(cfg.repo, revision=cfg.revision, cache_dir=cache)
        names = [file.path for file in tree]
    except CachedRepoTreeNotFoundError:  # a snapshot an older client left, used without network
        names = [file.name for file in Path(folder).iterdir()]
    return Path(folder), names
