"""What every task must keep to: those shipped, and one fresh from the template."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

import pytest
import yaml
from graph import imported_files

import tasks
from supertiny.calls import call_from_json
from supertiny.evaluate import Outputs, rule_answers, task_metrics, write_results
from supertiny.io import read_json, write_jsonl
from supertiny.newtask import TEMPLATE, new_task
from supertiny.params import core
from supertiny.params.prepare import Prepare
from supertiny.prepare import draw_splits, leakage
from supertiny.queries import read_queries
from supertiny.task import load_task_folder

SHIPPED = sorted(path.parent for path in Path("tasks").glob("*/task.yaml"))
FROM_TEMPLATE = "from_template"
SIZES = {"train_rows": 60, "dev_rows": 6, "test_rows": 12}


@pytest.fixture(scope="module", params=[*(folder.name for folder in SHIPPED), FROM_TEMPLATE])
def task(request, tmp_path_factory):
    """Each task; the fresh one stands in a folder of its own."""
    if request.param != FROM_TEMPLATE:
        yield load_task_folder(Path("tasks") / request.param)
        return
    made = tmp_path_factory.mktemp("fresh")
    new_task(FROM_TEMPLATE, made / "tasks", made / "profile", made / "recordings")
    tasks.__path__.append(str(made / "tasks"))
    importlib.invalidate_caches()
    yield load_task_folder(made / "tasks" / FROM_TEMPLATE)
    tasks.__path__.remove(str(made / "tasks"))


@pytest.fixture(scope="module")
def params():
    return dataclasses.replace(core.load(Prepare), **SIZES)


@pytest.fixture(scope="module")
def splits(task, params):
    return draw_splits(task.module("gold").load(params), task, params)[0]


def test_prepare_gives_legal_rows_without_leakage(task, params, splits):
    leaks = leakage(splits, params.max_similarity)
    assert not any(value for key, value in leaks.items() if key.startswith("leak_"))
    for split, rows in splits.items():
        assert 0 < len(rows) <= getattr(params, f"{split}_rows")
        for row in rows:
            posed, call = task.of(row), call_from_json(row["call"])
            posed.validate(call)
            again = posed.parse_call(posed.render_call(call), row["query"])
            assert posed.equivalent(again, call), row


def test_the_same_params_give_the_same_rows(task, params, splits):
    again, _ = draw_splits(task.module("gold").load(params), task, params)
    assert again == splits


def test_the_rules_answer_and_are_scored(task, splits, tmp_path):
    for split, rows in splits.items():
        write_jsonl(tmp_path / f"{split}.jsonl", rows)
    rows = read_queries(tmp_path / "test.jsonl", task)
    answers = rule_answers(task, tmp_path, rows)
    outputs = Outputs.of("rules", tmp_path, tmp_path)
    values = write_results(task, rows, answers, outputs)
    assert values == read_json(outputs.metrics) and values["n"] == len(rows)
    assert values["unparsable_rate"] == 0.0
    if (task.folder / "metrics.py").is_file():
        assert task_metrics(task, rows, [{"predicted": None, "id": row["id"]} for row in rows])


GRAPH = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]
MODULES = {"gold.py": GRAPH["prepare"], "rules.py": GRAPH["evaluate"]["do"],
           "metrics.py": GRAPH["evaluate"]["do"], "equivalence.py": GRAPH["confidence"]}  # fmt: skip


LOADED = [
    folder / module
    for folder in (*SHIPPED, TEMPLATE.relative_to(Path.cwd()))
    for module in MODULES
    if (folder / module).is_file()
]


@pytest.mark.parametrize("path", LOADED, ids=str)
def test_what_a_tasks_module_imports_is_among_its_stages_deps(path):
    imported = {str(file) for file in imported_files(path) - {path} if file.parts[0] == "supertiny"}
    assert imported <= set(MODULES[path.name]["deps"])


@pytest.mark.parametrize("stage", ["prepare", "evaluate", "rl", "confidence"])
def test_all_of_a_tasks_folder_is_a_dep_where_its_modules_run(stage):
    assert "tasks/${task}" in GRAPH[stage].get("do", GRAPH[stage])["deps"]
