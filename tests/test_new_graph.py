"""Graphs of other tasks beside the default one: each runs alone, and an edit touches its own."""

import json
import subprocess
import sys

import pytest
from project import make_project, run
from tinygraph import DVC, init_repository, set_param

from supertiny.profile import apply_profile

SUPERTINY = (sys.executable, "-m", "supertiny.cli")
HOME, FEEDBACK = "prepare", "graphs/feedback/dvc.yaml:prepare"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A repository with graphs of two tasks, both prepared."""
    folder = make_project(tmp_path_factory.mktemp("graphs") / "project")
    init_repository(folder)
    run(folder, *SUPERTINY, "new-graph", "feedback")
    other = folder / "graphs/feedback"
    for key, rows in {"train_rows": 300, "dev_rows": 40, "test_rows": 60}.items():
        set_param(other, "prepare", key, rows)
    run(folder, DVC, "repro", "prepare", FEEDBACK)
    return folder


def changed(folder):
    """Stages of either `prepare` whose deps or params are not those of their last run."""
    status = json.loads(run(folder, DVC, "status", "--json").stdout)
    return set(status) & {HOME, FEEDBACK}


def test_each_graph_has_the_data_of_its_own_task(project):
    home, feedback = (
        (folder / "data/queries/test.jsonl").read_text().splitlines()
        for folder in (project, project / "graphs/feedback")
    )
    assert len(feedback) == 60 and {json.loads(row)["call"]["name"] for row in feedback} == {"rate"}
    assert "rate" not in {json.loads(row)["call"]["name"] for row in home}
    assert changed(project) == set()


@pytest.mark.parametrize(
    ("edited", "expected"),
    [
        ("tasks/feedback/gold.py", {FEEDBACK}),
        ("tasks/home/gold.py", {HOME}),
        ("supertiny/prepare.py", {HOME, FEEDBACK}),
    ],
)
def test_an_edit_touches_the_graphs_that_read_it(project, edited, expected):
    file = project / edited
    before = file.read_text()
    try:
        file.write_text(before + "# edited\n")
        assert changed(project) == expected
    finally:
        file.write_text(before)


def test_a_plan_is_of_the_graph_in_its_folder(project):
    for folder, task in ((project, "home"), (project / "graphs/feedback", "feedback")):
        told = run(folder, *SUPERTINY, "plan").stdout
        assert "dvc.yaml:" not in told and "sft" in told
        assert run(folder, *SUPERTINY, "check").stdout.startswith(
            f"params.yaml is valid; task {task} "
        )


def test_its_params_are_those_of_the_root_with_the_profile(project, tmp_path):
    run(project, *SUPERTINY, "new-graph", "smoke")  # any profile
    folder = project / "graphs/smoke"
    expected = tmp_path / "params.yaml"
    expected.write_bytes((project / "params.yaml").read_bytes())
    apply_profile("smoke", expected, project / "conf/profile")
    assert (folder / "params.yaml").read_text() == expected.read_text()
    ignored = subprocess.run(
        ["git", "check-ignore", "graphs/smoke/models/x"],
        cwd=project,
        check=False,
        capture_output=True,
    )
    assert ignored.returncode == 0, "its models would go to git"


@pytest.mark.parametrize(
    ("name", "where", "message"),
    [
        ("nobody", ".", "conf/profile/nobody.yaml: no such profile"),
        ("../x", ".", "no name for a graph"),
        ("feedback", ".", "graphs/feedback: already there"),
        ("feedback", "graphs/feedback", "this is a graph of another folder"),
    ],
)
def test_mistakes_are_named_and_leave_nothing(project, name, where, message):
    before = sorted((project / "graphs").iterdir())
    done = run(project / where, *SUPERTINY, "new-graph", name, check=False)
    assert done.returncode == 2 and message in done.stderr
    assert sorted((project / "graphs").iterdir()) == before
