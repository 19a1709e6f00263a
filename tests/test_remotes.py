"""What docs/remotes.md promises, against real servers: nothing is made twice, nothing broken is taken."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from project import ROOT, environment, run
from servers import SECRET, Store, folder_store, s3_store, ssh_store
from tinygraph import (
    DVC,
    clone,
    commit,
    copy_repository,
    init_repository,
    make_repository,
    repro,
    set_param,
)

KINDS = ("folder", "s3", "ssh")
EVALUATIONS = {"evaluate@sft", "evaluate@int8"}
TRIED = 2  # the skill that somebody tried and did not commit


@pytest.fixture(scope="module", params=KINDS)
def store(request, tmp_path_factory) -> Iterator[Store]:
    """One server for all tests of a kind; each remote is a folder of its own there."""
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))  # no keys and settings of whoever runs the tests
        patch.setenv("AWS_MAX_ATTEMPTS", "2")  # a killed server is soon taken for gone
        if request.param == "folder":
            yield folder_store(folder / "store")
        else:
            with {"s3": s3_store, "ssh": ssh_store}[request.param](folder / "server") as found:
                yield found


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The tiny graph, run and committed; then another skill was tried, which is not committed."""
    folder = make_repository(tmp_path_factory.mktemp("remotes") / "finished")
    repro(folder)
    commit(folder, "run")
    set_param(folder, "train", "skill", TRIED)
    repro(folder)
    return folder


@pytest.fixture(scope="module")
def pushed(store, finished, tmp_path_factory):
    """The finished graph with a remote that holds everything, the other try too."""
    folder = copy_repository(finished, tmp_path_factory.mktemp("pushed") / "first")
    use_remote(folder, store, "pushed")
    run(folder, "git", "checkout", "-q", ".")
    run(folder, DVC, "push")
    supertiny(folder, "share")
    return folder


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A folder of files that take a while to send, and no graph."""
    folder = tmp_path_factory.mktemp("remotes") / "parts"
    (folder / "parts").mkdir(parents=True)
    for i in range(40):
        (folder / "parts" / f"{i}.bin").write_bytes(bytes([i]) * 500_000)
    init_repository(folder)
    run(folder, DVC, "add", "-q", "parts")
    commit(folder, "parts")
    return folder


def use_remote(folder: Path, store: Store, name: str) -> None:
    """Url and `verify` into git, the credentials beside it."""
    settings = {"url": f"{store.url}/{name}", "verify": "true", **store.public}
    text = "".join(f"    {key} = {value}\n" for key, value in settings.items())
    (folder / ".dvc" / "config").write_text(
        f"[core]\n    analytics = false\n    remote = store\n['remote \"store\"']\n{text}"
    )
    tell_credentials(folder, store)
    run(folder, "git", "commit", "-q", "-m", "remote", ".dvc/config")


def tell_credentials(folder: Path, store: Store) -> None:
    text = "".join(f"    {key} = {value}\n" for key, value in store.private.items())
    (folder / ".dvc" / "config.local").write_text(f"['remote \"store\"']\n{text}" if text else "")


def colleague(repository: Path, store: Store, folder: Path) -> Path:
    """A clone on another machine, as far as DVC can tell."""
    clone(repository, folder)
    tell_credentials(folder, store)
    return folder


def supertiny(folder: Path, *arguments: str, check: bool = True):
    command = (sys.executable, "-m", "supertiny.cli", *arguments)
    return run(folder, "env", f"PYTHONPATH={ROOT}", *command, check=check)


def lock_out(folder: Path, path: str) -> dict:
    """What dvc.lock says of an out."""
    stages = yaml.safe_load((folder / "dvc.lock").read_text())["stages"].values()
    return next(out for stage in stages for out in stage["outs"] if out["path"] == path)


def object_name(folder: Path, path: str) -> str:
    return name_of(lock_out(folder, path)["md5"])


def name_of(digest: str) -> str:
    return f"files/md5/{digest[:2]}/{digest[2:]}"


def in_cache(folder: Path, name: str) -> bool:
    return (folder / ".dvc" / "cache" / name).exists()


def test_a_clone_pulls_and_runs_nothing_and_git_holds_no_secret(pushed, store, tmp_path):
    copy = colleague(pushed, store, tmp_path / "clone")
    run(copy, DVC, "pull")
    assert repro(copy) == set()
    assert run(copy, "git", "status", "--porcelain").stdout == ""
    assert run(pushed, "git", "grep", "-l", SECRET, check=False).stdout == ""
    assert "all as dvc.lock says" in supertiny(pushed, "verify").stdout


def test_a_changed_param_runs_its_stages_and_pulls_only_what_they_read(pushed, store, tmp_path):
    copy = colleague(pushed, store, tmp_path / "clone")
    set_param(copy, "train", "skill", TRIED + 1)
    old = ["model", *(f"metrics/eval/lamps/{v}.predictions.jsonl" for v in ("sft", "int8"))]
    old = [object_name(copy, path) for path in old]
    run(copy, DVC, "pull", "data")  # as `supertiny plan` says
    assert repro(copy, "--pull", "--allow-missing") == {"train", *EVALUATIONS}
    assert in_cache(copy, object_name(copy, "data"))
    assert not any(in_cache(copy, name) for name in old)


def test_a_colleague_gets_what_somebody_else_tried(pushed, store, tmp_path):
    copy = colleague(pushed, store, tmp_path / "clone")
    committed = lock_out(copy, "model")
    set_param(copy, "train", "skill", TRIED)
    run(copy, DVC, "pull", "data")
    assert repro(copy, "--pull", "--allow-missing") == set()
    assert lock_out(copy, "model") != committed
    assert (copy / "model" / "weights").read_text()[0] == str(TRIED)


def test_a_corrupted_object_is_refused_named_and_mended(finished, store, tmp_path):
    repository = copy_repository(finished, tmp_path / "first")
    use_remote(repository, store, "corrupted")
    run(repository, "git", "checkout", "-q", ".")
    run(repository, DVC, "push")
    cache = repository / ".dvc" / "cache"
    alone, inside = "metrics/eval/lamps/int8.predictions.jsonl", "model/weights"
    files = yaml.safe_load((cache / object_name(repository, "model")).read_text())
    names = {alone: object_name(repository, alone), inside: name_of(files[0]["md5"])}
    for name in names.values():
        store.write(f"corrupted/{name}", b"#" + (cache / name).read_bytes()[1:])

    copy = colleague(repository, store, tmp_path / "clone")
    assert run(copy, DVC, "pull", check=False).returncode != 0
    assert not any(in_cache(copy, name) or (copy / path).exists() for path, name in names.items())
    told = supertiny(copy, "verify", check=False)
    assert told.returncode == 1
    assert "3 not as dvc.lock says" in told.stdout  # two variants have the same predictions
    for path, name in names.items():
        assert f"{path}: corrupted" in told.stdout
        assert name in told.stdout
    assert "Next: `supertiny verify --delete-corrupted`, then `dvc push`" in told.stdout

    assert supertiny(copy, "verify", "--delete-corrupted", check=False).stderr.count("Error") == 0
    run(repository, DVC, "push")
    run(copy, DVC, "pull")
    assert all((copy / path).exists() for path in names)


def test_a_push_killed_half_way_loses_nothing_and_the_next_completes(parts, store, tmp_path):
    repository = copy_repository(parts, tmp_path / "first")
    use_remote(repository, store, "killed")
    contents = {path.name: path.read_bytes() for path in (repository / "parts").iterdir()}
    push = subprocess.Popen(
        [DVC, "push", "--jobs", "2"], cwd=repository, env=environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while len(store.objects("killed")) < 4 and time.monotonic() < deadline:
        time.sleep(0.005)
    if store.server is None:
        push.kill()
    else:
        store.server.kill()
    assert push.wait(timeout=240) != 0
    if store.server is not None:
        gone = supertiny(repository, "verify", check=False)
        assert gone.returncode == 2
        assert gone.stderr.startswith("error: remote store (") and "does not answer" in gone.stderr
        store.server.start()
    assert 4 <= len(store.objects("killed")) < len(contents)

    # An upload over SSH that was cut off leaves a part of the object under its name.
    supertiny(repository, "verify", "--delete-corrupted", check=False)
    run(repository, DVC, "push")
    copy = colleague(repository, store, tmp_path / "clone")
    run(copy, DVC, "pull")
    assert {path.name: path.read_bytes() for path in (copy / "parts").iterdir()} == contents
