"""A task folder is checked when it is loaded; texts of queries and answers round-trip."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from supertiny.calls import ToolCall
from supertiny.errors import UserError
from supertiny.task import load_task


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(
        "tasks/home",
        tmp_path / "home",
        ignore=lambda *_: {"names", "__pycache__", "sentences"},
    )
    return tmp_path


def edit_tool(folder, change):
    path = folder / "home" / "tools.json"
    tools = json.loads(path.read_text(encoding="utf-8"))
    change(tools)
    path.write_text(json.dumps(tools), encoding="utf-8")


def edit_meta(folder, change):
    path = folder / "home" / "task.yaml"
    meta = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(meta)
    path.write_text(yaml.safe_dump(meta), encoding="utf-8")


def set_parameters(key, value):
    return lambda tools: tools[0]["parameters"].__setitem__(key, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[0].pop("alias"), "tool 0: expected name, alias, description and parameters"),
        (set_parameters("type", "objekt"), "not a valid JSON Schema: 'objekt'"),
        (set_parameters("type", "array"), "must be a schema of type object"),
        (set_parameters("additionalProperties", True), "additionalProperties to false"),
        (lambda t: t[1].__setitem__("alias", t[0]["alias"]), "is taken"),
        (lambda t: t[0].__setitem__("alias", "no_call"), "is taken"),
        (lambda t: t[0].__setitem__("alias", "two\nlines"), "one line"),
        (set_parameters("properties", {"two words": {}}), "argument name 'two words'"),
        (
            set_parameters("properties", {"a": {"x-fold": ["colour"]}}),
            r"unknown x-fold \['colour'\]",
        ),
        (set_parameters("properties", {"a": {"x-quoted": "yes"}}), "x-quoted: allowed are true"),
        (set_parameters("properties", {"a": {"x-alias": "big a"}}), "x-alias 'big a' must be one"),
        (set_parameters("properties", {"a": {"x-alias": "b"}, "b": {}}), "have the same x-alias"),
    ],
)
def test_a_broken_tool_is_named(folder, change, message):
    edit_tool(folder, change)
    with pytest.raises(UserError, match=message):
        load_task("home", folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.__setitem__("prompt", "json"), "prompt: found 'json'"),
        (lambda m: m.__setitem__("lowercase", "yes"), "lowercase: found 'yes'"),
        (lambda m: m.__setitem__("lexicon", ["word"]), "lexicon: expected words"),
        (
            lambda m: m.pop("licence"),
            r"expected the keys \[.*'licence'.*\] and at most \['languages', 'lexicon'\]",
        ),
        (
            lambda m: m.__setitem__("extra", 1),
            r"and at most \['languages', 'lexicon'\], found .*'extra'",
        ),
    ],
)
def test_a_broken_task_file_is_named(folder, change, message):
    edit_meta(folder, change)
    with pytest.raises(UserError, match=message):
        load_task("home", folder)


def test_an_unknown_task_lists_the_known_ones(folder):
    with pytest.raises(UserError, match="tasks here: home"):
        load_task("hoem", folder)


HOME = load_task("home")


@given(st.text())
def test_a_query_is_one_line_without_control_tokens(query):
    prompt = HOME.render_prompt(query)
    assert prompt.count("\n") == 1 and prompt.endswith("\n")
    assert "<|" not in prompt


def test_free_strings_get_the_casing_of_the_query_back():
    task = load_task("home")
    query = "Add Dr Pepper to my  Shopping list"
    answer = task.render_call(ToolCall("HassShoppingListAddItem", {"item": "dr pepper"}))
    assert task.parse_call(answer, query).arguments == {"item": "Dr Pepper"}
    assert task.parse_call(answer, "unrelated").arguments == {"item": "dr pepper"}
    # Enumerated values are the schema's, whatever the query's casing.
    answer = task.render_call(ToolCall("HassLightSet", {"color": "red", "name": "lamp"}))
    assert task.parse_call(answer, "LAMP RED").arguments == {"color": "red", "name": "LAMP"}


def test_a_word_of_the_schema_keeps_its_casing_beside_free_values():
    task = load_task("home")
    call = ToolCall("HassSetVolumeRelative", {"volume_step": "down", "name": "tv"})
    found = task.parse_call(task.render_call(call), "Down the TV volume")
    assert found.arguments == {"volume_step": "down", "name": "TV"}


def test_signatures_name_every_tool_argument_and_choice():
    task = load_task("home")
    text = task.signatures()
    assert len(text.splitlines()) == len(task.tools)
    assert "brightness?: integer 0..100" in text
    assert "message: string" in text


def test_a_missing_module_is_a_users_error(folder):
    (folder / "home" / "rules.py").unlink()
    with pytest.raises(UserError, match="no rules.py"):
        load_task("home", folder).module("rules")


def test_committed_tools_are_what_the_intents_say():
    from tasks.home.make_tools import build_tools

    committed = json.loads(Path("tasks/home/tools.json").read_text(encoding="utf-8"))
    assert committed == build_tools()
