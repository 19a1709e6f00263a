"""Other tasks than the default one through the whole graph at smoke size; minutes each."""

import sys
from pathlib import Path

import pytest
import yaml
from project import make_project, run
from tinygraph import set_param

from supertiny.io import read_json
from supertiny.profile import apply_profile

DEFAULT = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))["task"]
OTHERS = sorted({path.parent.name for path in Path("tasks").glob("*/task.yaml")} - {DEFAULT})
DVC = str(Path(sys.executable).parent / "dvc")
SUPERTINY = (sys.executable, "-c", "from supertiny.cli import main; main()")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", [*OTHERS, "support"])
def test_a_task_goes_from_its_folder_to_a_bundle(name, tmp_path):
    project = make_project(tmp_path / "project")
    if name not in OTHERS:  # the commands of docs/own-task.md
        run(project, *SUPERTINY, "new-task", name)
        meta = project / "tasks" / name / "task.yaml"
        meta.write_text(meta.read_text().replace("TODO: ", ""))
    run(project, *SUPERTINY, "profile", name)
    assert "0 problem(s)" in run(project, *SUPERTINY, "check-task").stdout
    apply_profile("smoke", project / "params.yaml", project / "conf" / "profile")
    if not (
        project / "tasks" / name / "teacher.yaml"
    ).is_file():  # whom smoke would ask all the same
        set_param(project, "teacher", "backend", "none")
    run(project, "git", "init", "-q")
    run(project, DVC, "init", "-q")
    run(project, DVC, "config", "core.analytics", "false")
    run(project, DVC, "repro")
    assert f"name: {name}" in (project / "models/bundle/task/task.yaml").read_text()
    scores = {
        variant: read_json(project / "metrics" / "eval" / name / f"{variant}.json")
        for variant in ("rules", "base", "sft", "fp32", "int8")
    }
    assert len({frozenset(values) for values in scores.values()}) == 1
    assert scores["rules"]["exact_match"] > scores["base"]["exact_match"]
