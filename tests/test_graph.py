"""dvc.yaml tells the truth: deps are complete, and a changed param re-runs exactly what it touches."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from graph import PROJECT, imported_files, imported_names

GRAPH = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]
TASK = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))["task"]
# What stages have by loading a task's module, of whichever task; tests/test_tasks.py holds it to them.
LOADED_BY_TASKS = {"prepare": {"supertiny/seeds.py"}}


def body(name):
    return GRAPH[name].get("do", GRAPH[name])


def deps(name):
    return {dep.replace("${task}", TASK) for dep in body(name)["deps"]}


@pytest.mark.parametrize("name", GRAPH)
def test_every_imported_project_module_is_a_dep(name):
    script = Path("stages") / f"{name}.py"
    missing = {str(file) for file in imported_files(script)} - deps(name) - {"stages/__init__.py"}
    assert not missing


@pytest.mark.parametrize("name", GRAPH)
def test_no_dep_is_a_module_that_is_not_imported(name):
    """A dep too many re-runs a stage for nothing."""
    code = {dep for dep in deps(name) if dep.endswith(".py")}
    needed = {str(file) for file in imported_files(Path("stages") / f"{name}.py")}
    assert needed <= code <= needed | LOADED_BY_TASKS.get(name, set())


def test_the_walk_sees_imports_inside_functions_and_through_others(tmp_path, monkeypatch):
    files = {
        "stages/a.py": "def f():\n    from supertiny.b import x\n",
        "supertiny/__init__.py": "",
        "supertiny/b.py": "import supertiny.sub.c\nimport json\n",
        "supertiny/sub/__init__.py": "",
        "supertiny/sub/c.py": "",
        "supertiny/unused.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    found = {str(file) for file in imported_files(Path("stages/a.py"))}
    assert found == set(files) - {"supertiny/unused.py"}


@pytest.mark.parametrize("name", GRAPH)
def test_a_stage_sees_its_own_section_of_params(name):
    assert name in body(name)["params"] or "params" not in body(name)


def test_no_task_is_named_outside_its_folder():
    tasks = [path.parent.name for path in Path("tasks").glob("*/task.yaml")]
    for file in [*Path("stages").rglob("*.py"), *Path("supertiny").rglob("*.py")]:
        text = file.read_text(encoding="utf-8")
        for task in tasks:
            for form in (f'"{task}"', f"'{task}'", f"tasks/{task}", f"tasks.{task}"):
                assert form not in text, file


def test_metrics_are_in_git_and_no_out_is_uncached():
    for name in GRAPH:
        for out in body(name).get("outs", []) if name != "report" else []:
            assert isinstance(out, str), f"{name}: an option under outs turns the run cache off"
        for metric in body(name).get("metrics", []):
            assert list(metric.values()) == [{"cache": False}]


def test_every_imported_package_is_a_dependency():
    wanted = tomllib.loads(Path("pyproject.toml").read_text())["project"]["dependencies"]
    listed = {re.split(r"[<>=]", item)[0].lower().replace("_", "-") for item in wanted}
    distributions = packages_distributions()
    own = {*sys.stdlib_module_names, *PROJECT}
    for folder in PROJECT:
        for file in Path(folder).rglob("*.py"):
            for module in {name.split(".")[0] for name in imported_names(file)} - own:
                names = {name.lower().replace("_", "-") for name in distributions[module]}
                assert names & listed, f"{file} imports {module}, no dependency in pyproject.toml"


def test_no_dependency_is_missing_from_the_constraints():
    pins = {
        line.split("==")[0].lower().replace("_", "-")
        for line in Path("constraints.txt").read_text().splitlines()
        if "==" in line
    }
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    extras = [item for extra in project["optional-dependencies"].values() for item in extra]
    wanted = [item for item in project["dependencies"] + extras if not item.startswith("supertiny")]
    names = {item.split(">")[0].split("=")[0].lower().replace("_", "-") for item in wanted}
    assert names <= pins
    assert not any("+" in line for line in Path("constraints.txt").read_text().splitlines())


def test_no_file_names_a_path_of_some_machine():
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        path = Path(name)
        if (
            path.suffix in {".py", ".yaml", ".toml", ".md", ".lock", ".json", ".txt"}
            and path.is_file()
        ):
            text = path.read_text(encoding="utf-8", errors="replace")
            assert not re.search(r"(?<![\w.*])/(home|work|root)/", text), name
