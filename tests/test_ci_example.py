"""docs/ci: the script that the example workflow runs, run here against a real remote."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from project import ROOT, run
from tinygraph import DVC, clone, commit, make_repository, repro, set_param

CI = ROOT / "docs" / "ci"
SCRIPT = str(CI / "run-changed")


@pytest.fixture
def branch(tmp_path):
    """A clone, nothing pulled, of a repository with a finished main; on a branch of its own."""
    main = make_repository(tmp_path / "main")
    run(main, DVC, "remote", "add", "-d", "store", str(tmp_path / "store"))
    run(main, DVC, "remote", "modify", "store", "verify", "true")
    repro(main)
    commit(main, "main")
    run(main, DVC, "push")
    folder = clone(main, tmp_path / "branch")
    run(folder, "git", "checkout", "-q", "-b", "skill")
    run(folder, "git", "config", "user.email", "tests@example.org")
    run(folder, "git", "config", "user.name", "tests")
    (folder / "supertiny").symlink_to(ROOT / "supertiny")  # this source, whatever is installed
    return folder


def test_a_changed_param_is_run_and_told(branch):
    set_param(branch, "train", "skill", 2)
    run(branch, "git", "commit", "-qam", "skill")
    done = run(branch, SCRIPT, "origin/main", "comment.md")
    assert "Running stage 'train'" in done.stdout
    assert "Running stage 'data'" not in done.stdout
    text = (branch / "comment.md").read_text()
    assert "## Results against `origin/main`" in text
    assert "| train.skill | 1" in " ".join(text.split())
    assert "won: 4" in text
    assert "lost: 3" in text
    assert "train.skill: 1 -> 2" in text
    assert "`dvc.lock` of this branch is not of its params" in text
    assert list((branch / "dvc_plots").iterdir())


def test_a_branch_that_changes_nothing_runs_nothing(branch):
    done = run(branch, SCRIPT, "origin/main", "comment.md")
    assert "Running stage" not in done.stdout
    text = (branch / "comment.md").read_text()
    assert "`dvc.lock` of this branch" not in text


def test_a_stage_that_fails_fails_the_job(branch):
    (branch / "work.py").write_text("raise SystemExit('broken')\n")
    done = run(branch, SCRIPT, "origin/main", "comment.md", check=False)
    assert done.returncode != 0
    assert not (branch / "comment.md").exists()


def test_an_unknown_base_stops_before_any_work(branch):
    done = run(branch, SCRIPT, "origin/nowhere", check=False)
    assert done.returncode == 2
    assert "origin/nowhere is no revision here" in done.stderr


def test_the_workflow_runs_what_is_there():
    steps = yaml.safe_load((CI / "pull-request.yml").read_text())["jobs"]["graph"]["steps"]
    commands = [step["run"].split()[0] for step in steps if "run" in step]
    assert "docs/ci/run-changed" in commands
    assert (Path(ROOT) / "docs/ci/run-changed").stat().st_mode & 0o111
    # A branch's name is another's text: as a value of the environment it cannot become a command.
    assert not any("${{" in step["run"] for step in steps if "run" in step)
