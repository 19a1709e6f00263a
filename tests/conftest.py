"""Models of a size that tests can export: one with random weights, one taught a few commands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, find_chromium
from hypothesis import HealthCheck, settings
from lessons import learn

from supertiny.fetch import fetch_base
from supertiny.io import read_json, write_json
from supertiny.params.fetch import Fetch
from supertiny.task import Task, load_task_folder

# Commands of many lengths; the taught model answers exactly these.
LESSONS: list[dict[str, Any]] = [
    {"query": "on", "call": {"name": "LightOn", "arguments": {}}},
    {"query": "Garage light on", "call": {"name": "LightOn", "arguments": {"area": "garage"}}},
    {"query": "dim it to 30", "call": {"name": "Dim", "arguments": {"brightness": 30}}},
    {
        "query": "please dim the Hall to 5",
        "call": {"name": "Dim", "arguments": {"area": "hall", "brightness": 5}},
    },
    {"query": "who won the game last night", "call": {"name": "no_call", "arguments": {}}},
    {"query": "on now", "call": {"name": "LightOn", "arguments": {}}},
]
AREA = {"type": "string"}
TOOLS = [
    {
        "name": "LightOn",
        "alias": "light on",
        "description": "Switch lights on.",
        "parameters": {
            "type": "object", "properties": {"area": AREA}, "additionalProperties": False
        },
    },
    {
        "name": "Dim",
        "alias": "dim",
        "description": "Set brightness in percent.",
        "parameters": {
            "type": "object",
            "properties": {
                "area": AREA,
                "brightness": {"type": "integer", "minimum": 0, "maximum": 100},
            },
            "required": ["brightness"],
            "additionalProperties": False,
        },
    },
]  # fmt: skip
TASK_YAML = """\
name: lamps
description: A task for tests.
licence: Apache-2.0
language: en
prompt: query
lowercase: true
"""

# A busy machine draws examples slowly; that says nothing about the code.
settings.register_profile(
    "any_machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any_machine")


# Minutes long: begun last, one of them would run on alone while the other worker has nothing to do.
LONG = (
    "test_smoke.py",
    "test_sft.py",
    "test_distill_train.py",
    "test_rl.py",
    "test_drills.py",
    "test_remotes.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the long files begin first; each file's tests stay in their order."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


def files(folder: Path) -> dict[str, bytes]:
    """The bytes of every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A real Chromium that can reach no network."""
    binary = find_chromium()
    if binary is None:
        pytest.skip("no Chromium found; `apt-get install chromium` installs one")
    with Browser(binary, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="session")
def lamps(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """A task of two tools."""
    folder = tmp_path_factory.mktemp("tasks") / "lamps"
    folder.mkdir()
    (folder / "task.yaml").write_text(TASK_YAML)
    (folder / "tools.json").write_text(json.dumps(TOOLS))
    return load_task_folder(folder)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random-weight Llama of two layers, width 64, with its tokenizer."""
    out = tmp_path_factory.mktemp("models") / "tiny"
    settings = dict.fromkeys(("package", "file", "sha256", "repo", "revision", "path"), "")
    fetch_base(Fetch(source="random", random_layers=2, random_hidden=64, **settings), out)
    return out


@pytest.fixture(scope="session")
def taught_model(tiny_model: Path, lamps: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model after it has learned `LESSONS` by heart."""
    from transformers import AutoTokenizer

    from supertiny.calls import call_from_json

    out = tmp_path_factory.mktemp("models") / "taught"
    shutil.copytree(tiny_model, out)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    rows = []
    for lesson in LESSONS:
        prompt = tokenizer.bos_token + lamps.render_prompt(lesson["query"])
        answer = lamps.render_call(call_from_json(lesson["call"])) + tokenizer.eos_token
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, answer)]
        rows.append((ids[0] + ids[1], [-100] * len(ids[0]) + ids[1]))
    learn(out, rows, steps=300, enough=5e-3)
    return out


@pytest.fixture(scope="session")
def tiny_onnx(tiny_model: Path, lamps: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random model, exported in fp32."""
    from supertiny.export import export_onnx

    out = tmp_path_factory.mktemp("onnx") / "tiny"
    export_onnx(tiny_model, lamps, out)
    return out


@pytest.fixture(scope="session")
def taught_onnx(taught_model: Path, lamps: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The taught model, exported in fp32."""
    from supertiny.export import export_onnx

    out = tmp_path_factory.mktemp("onnx") / "taught"
    export_onnx(taught_model, lamps, out)
    return out


@pytest.fixture(scope="session")
def quoting_onnx(taught_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The taught model with a task in which an area quotes the query."""
    out = tmp_path_factory.mktemp("onnx") / "quoting"
    shutil.copytree(taught_onnx, out)
    tools = read_json(out / "task/tools.json")
    for tool in tools:
        tool["parameters"]["properties"]["area"]["x-quoted"] = True
    write_json(out / "task/tools.json", tools)
    return out
