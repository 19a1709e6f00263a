"""Drills: kills, full disks, two runs at once, edits during a run, damaged outs.

What DVC and `run_stage` promise, on a graph of two quick stages (`drillgraph`).
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import psutil
import pytest
from drillgraph import (
    OUTS,
    digests,
    make_drill_repository,
    recorded,
    release,
    start_held_repro,
    start_repro,
)
from project import run
from tinygraph import DVC, copy_repository, repro

# --- the graph: kills, two runs at once, edits --------------------------------------------------


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A repository in which nothing has run."""
    return make_drill_repository(tmp_path_factory.mktemp("fresh") / "repository")


@pytest.fixture(scope="module")
def undisturbed(fresh, tmp_path_factory):
    """What a run that nobody disturbs records and writes, and the seconds it takes."""
    folder = copy_repository(fresh, tmp_path_factory.mktemp("undisturbed") / "repository")
    started = time.monotonic()
    repro(folder)
    seconds = time.monotonic() - started
    return folder, recorded(folder), digests(folder, *OUTS), seconds


@pytest.fixture
def repository(fresh, tmp_path):
    return copy_repository(fresh, tmp_path / "repository")


def is_undisturbed(folder, undisturbed):
    return recorded(folder) == undisturbed[1] and digests(folder, *OUTS) == undisturbed[2]


def supertiny(folder, *arguments, check=True):
    return run(folder, sys.executable, "-m", "supertiny.cli", *arguments, check=check)


def follow_check(folder):
    """Do what `supertiny check` says after a kill or a full disk."""
    told = supertiny(folder, "check", check=False)
    if told.returncode:
        assert "error: dvc.lock: cut short" in told.stderr, told.stderr
        (folder / "dvc.lock").unlink()


def kill(process, whole_group):
    """kill -9 of `dvc` with all it started, or of `dvc` alone; returns what lives on."""
    living = psutil.Process(process.pid).children(recursive=True)
    if whole_group:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.stdout.close()
    process.wait()
    return [] if whole_group else living


def test_repros_killed_at_random_moments_end_with_the_hashes_of_an_undisturbed_one(
    repository, undisturbed
):
    moments = []
    for whole_group in (True, False):
        moments.append(random.uniform(0.3, 1) * undisturbed[3])
        process = start_repro(repository)
        time.sleep(moments[-1])
        psutil.wait_procs(kill(process, whole_group))
    follow_check(repository)
    repro(repository)
    assert is_undisturbed(repository, undisturbed), f"killed after {moments} seconds"
    assert repro(repository) == set()


def test_a_lock_file_of_dvc_that_a_kill_has_torn_is_cleared_by_check(repository):
    (repository / ".dvc/tmp/rwlock").write_text('{"write": {"/some')
    assert "RWLock-file" in run(repository, DVC, "repro", check=False).stderr
    assert ".dvc/tmp/rwlock: torn by a killed `dvc`" in supertiny(repository, "check").stdout
    assert "rwlock" not in supertiny(repository, "check").stdout
    assert repro(repository, "--dry", "make") == {"make"}


def test_a_lock_file_of_dvc_that_is_in_use_stays(repository, undisturbed):
    first = start_held_repro(repository)
    listing = repository / ".dvc/tmp/rwlock"
    before = listing.read_text()
    assert str(first.pid) in before
    supertiny(repository, "check")
    assert listing.read_text() == before
    kill(first, whole_group=True)


def test_a_torn_dvc_lock_is_named_and_what_it_recorded_comes_back_without_a_run(
    undisturbed, tmp_path
):
    folder = copy_repository(undisturbed[0], tmp_path / "repository")
    lock = folder / "dvc.lock"
    supertiny(folder, "check")
    # In the middle of a key: most other cuts leave YAML that is whole as far as it goes.
    lock.write_text(lock.read_text().rpartition("md5")[0] + "md")
    torn = run(folder, DVC, "repro", check=False)
    assert torn.returncode != 0 and "dvc.lock" in torn.stderr and "Traceback" not in torn.stderr
    assert "dvc.lock: cut short" in supertiny(folder, "check", check=False).stderr
    lock.unlink()
    assert repro(folder) == set()
    assert is_undisturbed(folder, undisturbed)


def test_a_stage_whose_dvc_was_killed_goes_on_alone_and_a_second_one_is_refused(
    repository, undisturbed
):
    process = start_held_repro(repository)
    orphans = kill(process, whole_group=False)
    second = run(repository, DVC, "repro", check=False)
    assert second.returncode != 0
    stage = (repository / ".supertiny/locks/make").read_text()
    assert f"error: stage make is already running (process {stage});" in second.stderr
    assert "Traceback" not in second.stderr and recorded(repository) == {}
    release(repository)
    psutil.wait_procs(orphans)
    assert repro(repository) == {"make", "join"}, "what the orphan wrote is not taken as done"
    assert is_undisturbed(repository, undisturbed)


def test_a_second_repro_at_the_same_time_is_refused_with_the_process_and_harms_nothing(
    repository, undisturbed
):
    first = start_held_repro(repository)
    second = run(repository, DVC, "repro", check=False)
    assert second.returncode != 0
    assert "is busy, it is being blocked by" in second.stderr
    assert f"(PID {first.pid})" in second.stderr and "Traceback" not in second.stderr
    release(repository)
    output, _ = first.communicate()
    assert first.returncode == 0, output
    assert is_undisturbed(repository, undisturbed)
    assert repro(repository) == set()


EDITS = {
    "words.py": ('"one"', '"other"'),
    "params.yaml": ("bootstrap_rounds: 100", "bootstrap_rounds: 101"),
    "tasks/late.py": ('"two"', '"other"'),  # imported by `main` only
    "tasks/home/task.yaml": ("name: home", "name: house"),  # no code
}


@pytest.mark.parametrize("name", EDITS)
def test_what_a_dep_was_when_it_was_edited_during_a_run_is_not_recorded_as_what_made_the_outs(
    name, repository
):
    process = start_held_repro(repository)
    path, (old, new) = repository / name, EDITS[name]
    before = path.read_text()
    assert old in before
    path.write_text(before.replace(old, new))
    release(repository)
    output, _ = process.communicate()
    assert process.returncode != 0 and "make" not in recorded(repository)
    assert "changed while the stage ran" in output and name in output
    assert "Traceback" not in output


def halved(content):
    return content[: len(content) // 2]


def flipped(content):
    """One bit in the middle of a value: what is left is still a file of its format."""
    at = content.find(b'"query": "')
    at = at + 10 if at >= 0 else len(content) - 3
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def test_damaged_outs_come_back_from_the_cache_without_a_run(undisturbed, tmp_path):
    folder = copy_repository(undisturbed[0], tmp_path / "repository")
    for name, damage in (
        ("parts/3.txt", flipped),
        ("parts/7.txt", halved),
        ("metrics/make.json", flipped),
    ):
        path = folder / name
        damaged = damage(path.read_bytes())
        path.chmod(0o644)
        path.write_bytes(damaged)
    assert repro(folder) == set()
    assert is_undisturbed(folder, undisturbed)


# --- disks that fill up -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory):
    """A file system of 64 MB of its own."""
    folder = tmp_path_factory.mktemp("disk") / "mounted"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a disk to fill needs root and mount: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def almost_full(disk, left):
    """The disk with so many bytes left."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - left)
    try:
        yield
    finally:
        ballast.unlink()


# The stage tells it in our words, DVC in the system's.
FULL = {"make": "no space left on the disk of ", "the cache": "No space left on device"}


@pytest.mark.parametrize(("left", "failed"), [(1_000_000, "make"), (6_000_000, "the cache")])
def test_a_repro_on_a_full_disk_fails_and_one_with_room_completes(
    left, failed, fresh, small_disk, undisturbed
):
    folder = copy_repository(fresh, small_disk / f"full at {failed}")
    with almost_full(small_disk, left):
        done = run(folder, DVC, "repro", check=False)
    assert done.returncode != 0 and FULL[failed] in done.stderr
    assert ("failed to run: python make.py" in done.stderr) == (failed == "make")
    assert "make" not in recorded(folder)
    follow_check(folder)
    repro(folder)
    assert is_undisturbed(folder, undisturbed)
    shutil.rmtree(folder)
