"""The plan: the same stages that `dvc repro` then runs, the values that changed, nothing touched."""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
import sys

import pytest
from project import make_project, run
from tinygraph import DVC, clone, commit, copy_repository, make_repository, repro, set_param

from supertiny import plan
from supertiny.errors import UserError
from supertiny.stage import _stage_label

EVALUATIONS = {"evaluate@sft", "evaluate@int8"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The tiny graph, run and committed."""
    folder = make_repository(tmp_path_factory.mktemp("plan") / "repository")
    assert repro(folder) == {"data", "train", *EVALUATIONS}
    commit(folder, "run")
    return folder


@pytest.fixture
def repository(finished, tmp_path, monkeypatch):
    """A copy of the finished graph, cache included; the working folder of the test."""
    folder = copy_repository(finished, tmp_path / "repository")
    monkeypatch.chdir(folder)
    return folder


def actions(steps):
    return {step.stage: step.action for step in steps if step.action != "keep"}


def reasons(steps, stage):
    return next(step.reasons for step in steps if step.stage == stage)


def test_a_finished_graph_has_nothing_to_do(repository):
    steps = plan.make_plan()
    assert actions(steps) == {}
    assert plan.render(steps) == "Nothing to do: all 4 stages are as dvc.lock says."
    assert repro(repository) == set()


def test_a_graph_that_never_ran_runs_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(make_repository(tmp_path / "new"))
    steps = plan.make_plan()
    assert {step.action for step in steps} <= {"run", "follow"}
    assert len(actions(steps)) == 4
    assert [step.stage for step in steps].index("data") < [step.stage for step in steps].index(
        "train"
    )


def test_a_changed_param_is_named_with_both_values_and_what_follows_runs(repository):
    set_param(repository, "train", "skill", 2)
    set_param(repository, "train", "rates", {"first": 0.5, "second": 0.25})
    steps = plan.make_plan()
    assert actions(steps) == {"train": "run", **dict.fromkeys(EVALUATIONS, "follow")}
    assert reasons(steps, "train") == ("train.rates.second: absent -> 0.25", "train.skill: 1 -> 2")
    assert reasons(steps, "evaluate@int8") == ("reads model",)
    assert repro(repository) == set(actions(steps))


def test_a_value_tried_before_comes_from_the_run_cache_with_all_behind_it(repository):
    set_param(repository, "train", "skill", 2)
    repro(repository)
    set_param(repository, "train", "skill", 1)
    steps = plan.make_plan()
    assert actions(steps) == dict.fromkeys({"train", *EVALUATIONS}, "restore")
    assert repro(repository) == set()


def test_a_dep_inside_a_restored_folder_is_looked_up_in_it(repository):
    set_param(repository, "data", "rows", 24)
    repro(repository)
    set_param(repository, "data", "rows", 20)
    assert actions(plan.make_plan()) == dict.fromkeys({"data", "train", *EVALUATIONS}, "restore")
    set_param(repository, "train", "skill", 3)
    steps = plan.make_plan()
    assert actions(steps)["data"] == "restore"
    assert actions(steps)["train"] == "run"
    assert repro(repository) == {"train", *EVALUATIONS}


def test_a_changed_file_is_named_and_equal_outs_stop_the_chain(repository):
    (repository / "train.txt").write_text("other words, same weights\n")
    steps = plan.make_plan()
    assert actions(steps) == {"train": "run", **dict.fromkeys(EVALUATIONS, "follow")}
    assert reasons(steps, "train") == ("train.txt changed",)
    assert "stands as it is where the stage before it makes the same bytes" in plan.render(steps)
    assert repro(repository) == {"train"}


def test_a_missing_source_and_a_changed_command_are_reasons(repository):
    (repository / "train.txt").unlink()
    text = (repository / "dvc.yaml").read_text()
    (repository / "dvc.yaml").write_text(text.replace("work.py data", "work.py data --quick"))
    steps = plan.make_plan()
    assert reasons(steps, "data") == ("its command changed",)
    assert "train.txt is missing and no stage makes it" in reasons(steps, "train")


def test_an_out_that_is_gone_or_edited_comes_back_from_the_cache(repository):
    shutil.rmtree(repository / "data")
    (repository / "model" / "weights").chmod(0o644)
    (repository / "model" / "weights").write_text("edited")
    steps = plan.make_plan()
    assert actions(steps) == {"data": "restore", "train": "restore"}
    assert reasons(steps, "data") == ("data is deleted (`dvc checkout`)",)
    assert repro(repository) == set()


def test_a_clone_tells_what_there_is_to_pull(repository, tmp_path, monkeypatch):
    copy = clone(repository, tmp_path / "clone")
    monkeypatch.chdir(copy)
    steps = plan.make_plan()
    assert actions(steps) == dict.fromkeys(("data", "train", *EVALUATIONS), "missing")
    sizes = {path: size for step in steps for path, size in step.missing.items()}
    assert sizes["model"] == 50_000
    assert sizes["data"] == sum(path.stat().st_size for path in (repository / "data").iterdir())
    total = sum(sizes.values()) / 1e6
    assert f"To pull for everything that is not here: {total:.1f} MB" in plan.render(steps)

    set_param(copy, "evaluate", "strict", False)
    steps = plan.make_plan()
    assert actions(steps) == {
        "data": "missing", "train": "missing", **dict.fromkeys(EVALUATIONS, "run")
    }  # fmt: skip
    assert plan.to_pull(steps) == ["data", "train"]
    text = plan.render(steps)
    assert f"To pull first: {(50_000 + sizes['data']) / 1e6:.1f} MB" in text
    assert "`dvc pull data train`, then `dvc repro --pull --allow-missing`" in text


def test_what_a_pulling_repro_runs_in_a_clone_is_what_was_planned(
    repository, tmp_path, monkeypatch
):
    run(repository, DVC, "remote", "add", "-d", "store", str(tmp_path / "store"))
    commit(repository, "remote")
    run(repository, DVC, "push")
    copy = clone(repository, tmp_path / "clone")
    set_param(copy, "train", "skill", 2)
    monkeypatch.chdir(copy)
    steps = plan.make_plan()
    planned = {name for name, action in actions(steps).items() if action in ("run", "follow")}
    assert planned == {"train", *EVALUATIONS}
    # train reads one file of data, the evaluations read all of it: see plan._pull_lines.
    assert plan.to_pull(steps) == ["data"]
    run(copy, DVC, "pull", *plan.to_pull(steps))
    assert repro(copy, "--pull", "--allow-missing") == planned


def files(folder):
    """Hash and time of every file but DVC's scratch."""
    return {
        path: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and ".dvc/tmp" not in str(path)
    }


def test_planning_touches_no_file(repository):
    set_param(repository, "train", "skill", 2)
    (repository / "work.py").write_text((repository / "work.py").read_text() + "# changed\n")
    before = files(repository)
    plan.render(plan.make_plan())
    assert files(repository) == before


def test_time_is_of_the_last_run_and_what_was_not_timed_is_said(repository):
    log = repository / plan.TIMES
    log.parent.mkdir()
    log.write_text("work-train\t60.0\nwork-train\t1290.0\nwork-evaluate-sft\t30.0\nwork-eval")
    set_param(repository, "train", "skill", 2)
    steps = plan.make_plan()
    assert {step.stage: step.minutes for step in steps} == {
        "data": None, "train": 21.5, "evaluate@sft": 0.5, "evaluate@int8": None
    }  # fmt: skip
    text = plan.render(steps)
    assert "Time: 22 minutes at most" in text
    assert "never timed here: evaluate@int8" in text


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        ("python -m stages.sft gold", ["stages/sft.py", "gold"]),
        ("python -m stages.evaluate int8", ["stages/evaluate.py", "int8"]),
        ("python -m stages.report a --bench b/c", ["stages/report.py", "a", "--bench", "b/c"]),
    ],
)
def test_a_command_is_looked_up_under_the_name_its_stage_logs(monkeypatch, command, argv):
    monkeypatch.setattr(sys, "argv", argv)
    assert plan._label(command) == _stage_label()


def test_outside_a_repository_the_mistake_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="DVC cannot read the graph"):
        plan.make_plan()


def test_the_command_plans_this_project_in_under_five_seconds(tmp_path):
    project = make_project(tmp_path / "project")
    run(project, "git", "init", "-q")
    run(project, DVC, "init", "-q")
    command = [sys.executable, "-m", "supertiny.cli", "plan"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    steps = json.loads(run(project, *command, "--json").stdout)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Processor time: another program on the machine must not fail this.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 5
    assert {step["stage"] for step in steps} >= {"fetch", "sft@gold", "evaluate@int8", "report"}
    assert {step["action"] for step in steps} <= {"run", "follow"}
    assert "stages: " in run(project, *command).stdout


def test_a_plan_says_what_the_teacher_would_be_asked_or_that_it_cannot(tmp_path):
    project = make_project(tmp_path / "project")
    run(project, "git", "init", "-q")
    run(project, DVC, "init", "-q")
    command = [sys.executable, "-m", "supertiny.cli", "plan"]
    assert "no LLM is asked (teacher.backend: made_up)" in run(project, *command).stdout
    set_param(project, "teacher", "backend", "replay")
    assert "cannot be told: data/queries/dev.jsonl" in run(project, *command).stdout
    row = {"id": "1", "query": "stop", "call": {"name": "HassNevermind", "arguments": {}}}
    text = json.dumps({**row, "source": "s", "slices": []}) + "\n"
    (project / "data/queries").mkdir()
    for split in ("train", "dev", "test"):
        (project / f"data/queries/{split}.jsonl").write_text(text)
    shutil.rmtree(project / "data/recordings/home")
    told = run(project, *command).stdout
    assert "Teacher, not recorded yet: " in told and "no price is set" in told
