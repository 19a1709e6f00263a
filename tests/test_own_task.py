"""A new task from the template is sound; what one breaks in it is named, all at once."""

import json
from dataclasses import replace

import pytest
import yaml

import tasks
from supertiny import cli
from supertiny.checktask import check_task, render
from supertiny.errors import UserError
from supertiny.newtask import new_task
from supertiny.params import core
from supertiny.profile import apply_profile

PARAMS = core.load_all()


@pytest.fixture
def folder(tmp_path, monkeypatch, request):
    """A new task, its two open questions answered."""
    name = f"tickets_{abs(hash(request.node.name))}"  # a module is imported once a name
    new_task(name, tmp_path / "tasks", tmp_path / "profile", tmp_path / "recordings")
    made = tmp_path / "tasks" / name
    monkeypatch.setattr(tasks, "__path__", [str(tmp_path / "tasks")])
    edit(made / "task.yaml", "TODO: ", "")
    return made


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def check(folder):
    teacher = replace(PARAMS["teacher"], styles=(), verify="all")
    return check_task(folder.name, PARAMS["prepare"], teacher, folder.parent)


def test_a_new_task_asks_for_its_description_and_licence_and_nothing_else(tmp_path, monkeypatch):
    new_task("fresh", tmp_path / "tasks", tmp_path / "profile", tmp_path / "recordings")
    monkeypatch.setattr(tasks, "__path__", [str(tmp_path / "tasks")])
    found = check_task("fresh", PARAMS["prepare"], PARAMS["teacher"], tmp_path / "tasks")
    assert [problem.split(": ")[1] for problem in found.problems] == ["description", "licence"]
    assert found.forecast == []


def test_a_sound_task_is_told_its_splits_and_questions(folder):
    found = check(folder)
    assert (found.problems, found.notes) == ([], [])
    text = render(folder.name, found)
    assert "at most 10 rows for test (no_call 2, refund 2, route 4, track 2)" in text
    assert "at most 6 questions a row: 2 rewrites, for each 1 blind calls and a grade" in text


def test_the_profile_of_a_new_task_is_legal(folder, tmp_path):
    params = tmp_path / "params.yaml"
    params.write_text(core.PARAMS_FILE.read_text())
    apply_profile(folder.name, params, tmp_path / "profile")
    assert core.task_name(params) == folder.name


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("task.yaml", "name: tickets", "name: ticket", "expected the folder's"),
        ("tools.json", '["case"]', '["kase"]', "unknown x-fold"),
        ("tools.json", '"type": "boolean",', '"type": "boolean", "x-fold": ["case"],',
         "x-fold is for strings"),
        ("seeds.jsonl", '"team": "billing"', '"team": "billling"', "is not one of"),
        ("seeds.jsonl", "{", "{{", "not valid JSON"),
        ("seeds.jsonl", '"good morning"', '"are you a robot", "x": 1', "unknown keys ['x']"),
        ("seeds.jsonl", '"good morning"', '"status of order 91846"', "mean different calls"),
        ("teacher.yaml", "$command", "$comand", "unknown $['comand']"),
        ("teacher.yaml", "ticket: [route,", "ticket: [", "kinds: tool route is missing"),
        ("teacher.yaml", "max_words: 60", "max_words: many", "max_words: found 'many'"),
        ("teacher.yaml", "temperature: 0.8", "temperature: warm", "not of the form expected"),
        ("gold.py", "def load", "def lead", "no function `load`"),
        ("rules.py", "import re", "import ree", "No module named 'ree'"),
    ],
)  # fmt: skip
def test_what_is_broken_is_named(folder, file, old, new, message):
    edit(folder / file, old, new)
    assert message in "\n".join(check(folder).problems)


def test_broken_files_are_named_together(folder):
    edit(folder / "task.yaml", "licence: ", "license: ")
    edit(folder / "tools.json", '["case"]', '["kase"]')
    edit(folder / "seeds.jsonl", '"query": "track', '"question": "track')
    text = "\n".join(check(folder).problems)
    assert all(part in text for part in ("task.yaml: expected", "x-fold", "seeds.jsonl: line"))


def test_what_may_be_meant_is_a_note(folder):
    edit(folder / "tools.json", '"x-fold": ["case"]', '"title": "order"')
    edit(folder / "seeds.jsonl", "track 16384", "where is my thing")
    (folder / "teacher.yaml").unlink()
    found = check(folder)
    assert found.problems == [] and len(found.notes) == 3
    text = "\n".join(found.notes)
    assert "letter by letter" in text and "cannot be copied" in text and "no teacher.yaml" in text


def test_capitals_that_a_student_of_lower_case_cannot_know_are_a_problem(folder):
    edit(folder / "task.yaml", "lowercase: false", "lowercase: true")
    problems = check(folder).problems
    assert len(problems) == 16 and all("cannot know the capitals" in each for each in problems)


@pytest.mark.parametrize("name", ["Two Words", "1st", "class", "../up", ""])
def test_a_name_that_no_package_can_have_is_refused(name, tmp_path):
    with pytest.raises(UserError, match="no name for a task"):
        new_task(name, tmp_path / "tasks", tmp_path / "profile", tmp_path / "recordings")
    assert not list(tmp_path.iterdir())


def test_nothing_that_is_there_is_written_over(folder, tmp_path):
    with pytest.raises(UserError, match="already there"):
        new_task(folder.name, folder.parent, tmp_path / "profile", tmp_path / "recordings")


def test_the_commands_print_and_exit_as_they_say(tmp_path, monkeypatch, capsys):
    (tmp_path / "params.yaml").write_text(core.PARAMS_FILE.read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tasks, "__path__", [str(tmp_path / "tasks")])

    def exit_code(*arguments):
        with pytest.raises(SystemExit) as stop:
            cli.main([*arguments])
        return stop.value.code

    assert exit_code("new-task", "mail") == 0
    assert "tasks/mail/tools.json" in capsys.readouterr().out
    assert exit_code("check-task", "mail") == 2
    assert "2 problem(s)" in capsys.readouterr().out
    edit(tmp_path / "tasks" / "mail" / "task.yaml", "TODO: ", "")
    assert exit_code("check-task", "mail") == 0
    assert "`supertiny profile mail` sets this one" in capsys.readouterr().out
    assert exit_code("check-task", "male") == 2
    assert "tasks here: mail" in capsys.readouterr().err


def test_the_template_has_fifty_seeds_of_every_tool(folder):
    seeds = [json.loads(line) for line in (folder / "seeds.jsonl").read_text().splitlines()]
    tools = {tool["name"] for tool in json.loads((folder / "tools.json").read_text())}
    assert len(seeds) == 50 and {seed["call"]["name"] for seed in seeds} == {*tools, "no_call"}
    assert yaml.safe_load((folder / "task.yaml").read_text())["name"] == folder.name
