"""docs/ci: the script that the example workflow runs, run here against a remote."""

from __future__ import annotations

import shutil

import pytest
import yaml
from project import ROOT, run
from tinygraph import DVC, clone, commit, make_repository, repro, set_param

CI = ROOT / "docs" / "ci"
PLOTS = "plots:\n  - curve.tsv:\n      x: step\n      y: loss\n"


@pytest.fixture(scope="module")
def main(tmp_path_factory):
    """A repository with a finished branch main, pushed."""
    folder = make_repository(tmp_path_factory.mktemp("ci") / "main")
    (folder / ".dvc" / "config").write_text(
        "[core]\n    analytics = false\n    remote = store\n"
        f"['remote \"store\"']\n    url = {folder.parent}/store\n    verify = true\n"
    )
    with (folder / "dvc.yaml").open("a") as graph:
        graph.write(PLOTS)
    (folder / "curve.tsv").write_text("step\tloss\n1\t2.5\n2\t1.5\n")
    shutil.copytree(ROOT / "supertiny", folder / "supertiny")  # this source, whatever is installed
    repro(folder)
    commit(folder, "main")
    run(folder, DVC, "push")
    return folder


@pytest.fixture
def branch(main, tmp_path):
    """A clone on a branch of its own, nothing pulled."""
    folder = clone(main, tmp_path / "branch")
    run(folder, "git", "checkout", "-q", "-b", "skill")
    return folder


def run_changed(branch, base, check=True):
    return run(branch, str(CI / "run-changed"), base, "comment.md", check=check)


def test_a_changed_param_is_run_and_told(branch):
    set_param(branch, "train", "skill", 2)
    done = run_changed(branch, "origin/main")
    assert "Running stage 'train'" in done.stdout
    assert "Running stage 'data'" not in done.stdout
    text = " ".join((branch / "comment.md").read_text().split())
    assert text.startswith("## Results against `origin/main`")
    assert "| exact_match | 0.75 | 0.8 | 0.05 |" in text
    assert "| train.skill | 1 | 2 |" in text
    assert "won: 4" in text
    assert "lost: 3" in text
    assert "train.skill: 1 -> 2" in text
    assert "`dvc.lock` of this branch is not of its params" in text
    assert "curve.tsv" in (branch / "dvc_plots" / "index.html").read_text()
    assert "`dvc_plots/index.html`" in text


def test_a_branch_that_changes_nothing_runs_nothing(branch):
    done = run_changed(branch, "origin/main")
    assert "Running stage" not in done.stdout
    text = (branch / "comment.md").read_text()
    assert "won: 0" in text
    assert "`dvc.lock` of this branch" not in text


def test_a_stage_that_fails_fails_the_job(branch):
    (branch / "work.py").write_text("raise SystemExit('broken')\n")
    assert run_changed(branch, "origin/main", check=False).returncode != 0
    assert not (branch / "comment.md").exists()


def test_an_unknown_base_stops_before_any_work(branch):
    done = run_changed(branch, "origin/nowhere", check=False)
    assert done.returncode == 2
    assert "origin/nowhere is no revision here" in done.stderr
    assert done.stdout == ""


def test_the_workflow_runs_the_script_and_no_text_of_others():
    steps = yaml.safe_load((CI / "pull-request.yml").read_text())["jobs"]["graph"]["steps"]
    commands = [step["run"] for step in steps if "run" in step]
    assert 'docs/ci/run-changed "$BASE" comment.md' in commands
    assert (CI / "run-changed").stat().st_mode & 0o111
    # A branch's name is another's text: as a value of the environment it cannot become a command.
    assert not any("${{" in command for command in commands)
