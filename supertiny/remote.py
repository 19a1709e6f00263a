"""What DVC leaves open about a remote: which objects are broken, and results nobody committed.

With ``verify = true`` DVC refuses a broken object when it is pulled, but names neither the object nor
a remedy; and ``dvc push`` asks a remote for names only, so it never replaces one. A file inside a
folder is worse off: while the remote has the folder's list, a push asks for nothing in it.

An object that the DVC cache has as well is compared by size, which finds what a cut-off upload left;
any other is read and hashed.

``dvc push --run-cache`` sends what ran with which params and what came out, but of the results only
those of the working tree, and no metrics file, which is in git and not in the cache of a remote. A
colleague then cannot restore a single stage with metrics. `share` sends the results as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.tree import Tree
from dvc_objects.errors import ObjectFormatError
from tqdm import tqdm

from supertiny.errors import UserError

CHUNK = 1 << 20  # bytes read at a time
FOLDER = ".dir"  # ends the name of an object that lists the files of a folder


@dataclass(frozen=True)
class Item:
    """A file or folder that dvc.lock names, directly or through the list of a folder.

    Attributes:
        path: in the working tree.
        oid: the name of its object: its MD5, and for a folder `FOLDER`.
        folder: the object that lists it, if it is a file of a folder.
    """

    path: str
    oid: str
    folder: str | None = None


@dataclass(frozen=True)
class Problem:
    """An object that a pull could not take; `found` is None where the remote has none."""

    item: Item
    found: str | None


@dataclass(frozen=True)
class Stores:
    """The DVC repository, its remote and cache, and what the working tree's dvc.lock names."""

    label: str
    repo: Any
    remote: Any
    cache: Any
    outs: Sequence[Item]


@dataclass(frozen=True)
class Findings:
    """What a check saw: objects compared by size, objects read, and what is wrong."""

    sized: int
    read: int
    problems: Sequence[Problem]


@contextmanager
def open_stores(root: Path = Path(), name: str | None = None) -> Iterator[Stores]:
    """The named remote, or the default one.

    Raises:
        UserError: no DVC repository, no such remote, or a remote that does not answer.
    """
    try:
        with Repo(str(root)) as repo:
            odb = repo.cloud.get_remote_odb(name, "supertiny verify")
            label = f"{name or repo.config['core']['remote']} ({odb.fs.unstrip_protocol(odb.path)})"
            _reach(odb, label)
            outs = {
                Item(str(out), str(out.hash_info.value))
                for out in repo.index.outs
                if out.use_cache and out.hash_info
            }
            yield Stores(label, repo, odb, repo.cache.local, sorted(outs, key=lambda out: out.path))
    except DvcException as error:
        raise UserError(f"{error}; see docs/remotes.md") from None


def _reach(odb: Any, label: str) -> None:
    try:
        odb.fs.exists(odb.path)
    except Exception as error:  # every kind of store has its own for a server that is gone
        raise UserError(
            f"remote {label} does not answer: {str(error) or type(error).__name__}; "
            "its settings: `dvc config --list`, its credentials: docs/remotes.md"
        ) from error


def check(stores: Stores, read_all: bool = False) -> Findings:
    """Compare every object that dvc.lock names with the remote's; `read_all` trusts no size."""
    items: list[Item] = []
    problems: list[Problem] = []
    for out in stores.outs:
        found, problem = _files(stores, out)
        items += found
        problems += [problem] if problem else []
    to_read: list[tuple[Item, int]] = []
    for item in items:
        size, expected = _size(stores.remote, item.oid), _size(stores.cache, item.oid)
        if size is None:
            problems.append(Problem(item, None))
        elif expected is None or read_all:
            to_read.append((item, size))
        elif size != expected:
            problems.append(Problem(item, f"{size} bytes, expected {expected}"))
    problems += _read(stores.remote, to_read)
    return Findings(len(items) - len(to_read), len(to_read), problems)


def _files(stores: Stores, item: Item) -> tuple[list[Item], Problem | None]:
    """The objects of an out; a folder whose list nobody has is a problem instead."""
    if not item.oid.endswith(FOLDER):
        return [item], None
    for odb in (stores.cache, stores.remote):
        if _size(odb, item.oid) is None:
            continue
        try:
            tree = Tree.load(odb, HashInfo("md5", item.oid))
        except ObjectFormatError:
            continue
        files = [Item(f"{item.path}/{'/'.join(key)}", oid.value, item.oid) for key, _, oid in tree]
        return [item, *files], None
    there = _size(stores.remote, item.oid) is not None
    return [], Problem(item, "no list of files" if there else None)


def _size(odb: Any, oid: str) -> int | None:
    try:
        return int(odb.fs.size(odb.oid_to_path(oid)))
    except FileNotFoundError:
        return None


def _read(odb: Any, items: Sequence[tuple[Item, int]]) -> Iterator[Problem]:
    total = sum(size for _, size in items)
    with tqdm(total=total, unit="B", unit_scale=True, desc="read", disable=not items) as progress:
        for item, size in items:
            digest = hashlib.md5(usedforsecurity=False)
            with odb.fs.open(odb.oid_to_path(item.oid), "rb") as file:
                while chunk := file.read(CHUNK):
                    digest.update(chunk)
                    progress.update(len(chunk))
            if digest.hexdigest() != item.oid.removesuffix(FOLDER):
                yield Problem(item, f"{size} bytes with MD5 {digest.hexdigest()}")


def in_the_way(stores: Stores, problems: Iterable[Problem]) -> list[str]:
    """The objects that keep a push from sending again what is wrong: `delete` them.

    These are the broken ones, and the list of a folder with any file that is broken or missing:
    while it is there, a push takes the folder for complete.
    """
    broken = {problem.item.oid for problem in problems if problem.found is not None}
    lists = {problem.item.folder for problem in problems if problem.item.folder}
    return sorted(oid for oid in broken | lists if _size(stores.remote, oid) is not None)


def delete(stores: Stores, oid: str) -> str:
    """Delete one object from the remote; its path there."""
    path = str(stores.remote.oid_to_path(oid))
    # Not `remote.delete`, which asks S3 for a deletion of many: with a checksum that is not every
    # server's.
    stores.remote.fs.rm_file(path)
    return path


def share(stores: Stores, name: str | None = None) -> tuple[int, int]:
    """Send every result of the run cache that is whole here, then the run cache.

    Returns:
        Results sent or there before, and objects that the remote did not have.

    Raises:
        UserError: the remote did not take everything.
    """
    results = list(_results(stores))
    objects = {HashInfo("md5", item.oid) for items in results for item in items}
    sent = stores.repo.cloud.push(objects, remote=name)
    if sent.failed:
        raise UserError(
            f"remote {stores.label}: {len(sent.failed)} of {len(objects)} objects did not arrive; "
            "what did stays there: run `supertiny share` again"
        )
    stores.repo.stage_cache.push(name)
    return len(results), len(sent.transferred)


def _results(stores: Stores) -> Iterator[list[Item]]:
    """The objects of each result in the run cache, where the DVC cache has them all."""
    for path in sorted(Path(stores.repo.stage_cache.cache_dir).glob("*/*/*")):
        outs = yaml.safe_load(path.read_text(encoding="utf-8"))["outs"]
        items = [
            item
            for out in outs
            if _size(stores.cache, out["md5"]) is not None
            for item in _files(stores, Item(out["path"], out["md5"]))[0]
        ]
        whole = all(_size(stores.cache, item.oid) is not None for item in items)
        if whole and {out["md5"] for out in outs} <= {item.oid for item in items}:
            yield items


def render(stores: Stores, findings: Findings) -> str:
    """What was looked at, what is wrong, and the next command."""
    n, bad = findings.sized + findings.read, len(findings.problems)
    head = f"Remote {stores.label}: {n} objects, {findings.sized} looked up by size, {findings.read} read"
    if not bad:
        return f"{head}; all as dvc.lock says."
    lines = [f"{head}; {bad} not as dvc.lock says:"]
    for problem in sorted(findings.problems, key=lambda problem: problem.item.path):
        place = stores.remote.oid_to_path(problem.item.oid)
        what = "missing" if problem.found is None else f"corrupted ({problem.found})"
        lines.append(f"  {problem.item.path}: {what}, {place}")
    return "\n".join(lines)


REMEDY = (
    "Next: `supertiny verify --delete-corrupted`, then `dvc push` from a clone that has the files "
    "(`dvc push` alone replaces nothing). If no clone has them, `dvc repro` makes them again."
)
SEND = (
    "Next: `dvc push` from a clone that has the files; if none has, `dvc repro` makes them again."
)
