"""`supertiny verify` against a folder remote with one thing wrong at a time."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml
from project import run
from tinygraph import DVC, copy_repository

from supertiny import cli, remote
from supertiny.errors import UserError


@pytest.fixture(scope="module")
def pushed(tmp_path_factory):
    """A repository with a folder and a file, in DVC's cache and in the remote beside it."""
    folder = tmp_path_factory.mktemp("remote") / "repository"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "a.txt").write_text("first\n")
    (folder / "data" / "b.txt").write_text("second\n")
    (folder / "model").write_text("weights\n")
    run(folder, "git", "init", "-q")
    run(folder, DVC, "init", "-q")
    (folder / ".dvc" / "config").write_text(
        "[core]\n    remote = store\n    analytics = false\n"
        "['remote \"store\"']\n    url = ../../store\n    verify = true\n"
    )
    run(folder, DVC, "add", "-q", "data", "model")
    run(folder, DVC, "push", "-q")
    return folder


@pytest.fixture
def repository(pushed, tmp_path, monkeypatch):
    """A copy with its remote; the working folder of the test."""
    shutil.copytree(pushed.parent / "store", tmp_path / "store")
    folder = copy_repository(pushed, tmp_path / "repository")
    monkeypatch.chdir(folder)
    return folder


def place(folder, path):
    """Where the object of an out, or of a file of data, lies below a cache or remote."""
    name, _, inner = path.partition("/")
    digest = yaml.safe_load((folder / f"{name}.dvc").read_text())["outs"][0]["md5"]
    if inner:
        listed = json.loads((folder / ".dvc/cache/files/md5" / digest[:2] / digest[2:]).read_text())
        digest = next(file["md5"] for file in listed if file["relpath"] == inner)
    return f"files/md5/{digest[:2]}/{digest[2:]}"


def damage(folder, path, content):
    """Replace an object of the remote; None deletes it."""
    file = folder.parent / "store" / place(folder, path)
    file.unlink()
    if content is not None:
        file.write_text(content)


def verify(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main(["verify", *arguments])
    printed = capsys.readouterr()
    return stop.value.code, printed.out


def test_a_whole_remote_is_checked_by_size_and_read_on_demand(repository, capsys):
    code, out = verify(capsys)
    assert code == 0
    assert "4 objects, 4 looked up by size, 0 read; all as dvc.lock says" in out
    code, out = verify(capsys, "--read-all")
    assert code == 0
    assert "4 objects, 0 looked up by size, 4 read" in out


def test_a_part_of_an_object_is_found_by_size(repository, capsys):
    damage(repository, "model", "weig")
    code, out = verify(capsys)
    assert code == 1
    assert "model: corrupted (4 bytes, expected 8)" in out
    assert "supertiny verify --delete-corrupted" in out


def test_other_bytes_of_the_same_size_are_found_by_reading(repository, capsys):
    damage(repository, "data/b.txt", "Second\n")
    assert verify(capsys)[0] == 0
    code, out = verify(capsys, "--read-all")
    assert code == 1
    assert "data/b.txt: corrupted (7 bytes with MD5" in out


def test_what_the_cache_has_not_is_read(repository, capsys):
    damage(repository, "data/b.txt", "Second\n")
    (repository / ".dvc" / "cache" / place(repository, "data/b.txt")).unlink()
    code, out = verify(capsys)
    assert code == 1
    assert "3 looked up by size, 1 read" in out
    assert "data/b.txt: corrupted" in out


def test_a_file_missing_in_a_folder_takes_the_list_with_it(repository, capsys):
    """While the remote has the list, a push would send nothing of the folder."""
    damage(repository, "data/a.txt", None)
    assert verify(capsys)[0] == 1
    store = repository.parent / "store"
    assert (store / place(repository, "data")).exists()
    code, out = verify(capsys, "--delete-corrupted")
    assert code == 1
    assert "data/a.txt: missing" in out
    assert not (store / place(repository, "data")).exists()
    assert (store / place(repository, "data/b.txt")).exists()
    assert "`dvc push` from a clone that has the files" in out
    run(repository, DVC, "push")
    assert verify(capsys)[0] == 0


@pytest.mark.parametrize("content", [None, "no list"])
def test_a_folder_whose_list_nobody_has_is_named(repository, capsys, content):
    (repository / ".dvc" / "cache" / place(repository, "data")).unlink()
    damage(repository, "data", content)
    code, out = verify(capsys)
    assert code == 1
    assert ("data: corrupted (no list of files)" if content else "data: missing") in out


def test_no_remote_is_a_mistake_that_says_so(repository):
    (repository / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
    with pytest.raises(UserError, match="no remote|remote add"), remote.open_stores():
        pass
