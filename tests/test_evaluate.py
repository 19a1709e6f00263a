"""Evaluation: bad rows stop it, each way of answering is scored, and the files are canonical."""

import csv
import json

import pytest
from conftest import LESSONS

from supertiny.errors import UserError
from supertiny.evaluate import (
    Outputs,
    few_shot_answers,
    onnx_answers,
    recorded_answers,
    rule_answers,
    torch_answers,
    write_absent,
    write_results,
)
from supertiny.io import read_json, read_jsonl, read_tsv, write_jsonl
from supertiny.params.evaluate import Evaluate
from supertiny.queries import read_queries
from supertiny.task import load_task

PARAMS = Evaluate(
    batch_size=4, max_new_tokens=40, threads=1, few_shot=3, few_shot_max_new_tokens=5,
    precision="fp32",
)  # fmt: skip
ROWS = [
    {"id": f"q{i}", "source": "template", "template": "", "slices": ["clean"], **lesson,
     "query": lesson["query"].lower()}
    for i, lesson in enumerate(LESSONS)
]  # fmt: skip
QUERIES = [row["query"] for row in ROWS]


def outputs(folder):
    return Outputs.of("some", folder / "eval", folder / "plots")


def test_a_taught_model_is_all_right_in_torch_and_onnx(taught_model, taught_onnx, lamps, tmp_path):
    in_torch = torch_answers(lamps, taught_model, QUERIES, PARAMS)
    in_onnx = onnx_answers(lamps, taught_onnx, QUERIES, PARAMS)
    assert in_torch == in_onnx
    assert write_results(lamps, ROWS, in_torch, outputs(tmp_path))["exact_match"] == 1.0
    assert read_jsonl(outputs(tmp_path).errors) == []


def test_a_query_too_long_for_the_student_is_one_wrong_answer(taught_onnx, lamps, tmp_path, capsys):
    long = {**ROWS[0], "id": "long", "query": "on " * 3000}
    rows = [ROWS[0], long, *ROWS[1:]]
    answers = onnx_answers(lamps, taught_onnx, [row["query"] for row in rows], PARAMS)
    values = write_results(lamps, rows, answers, outputs(tmp_path))
    assert values["n"] == len(rows)
    assert values["exact_match"] == round((len(rows) - 1) / len(rows), 6)
    (error,) = read_jsonl(outputs(tmp_path).errors)
    assert (error["id"], error["predicted"], error["answer"]) == ("long", None, "")
    assert error["reason"].startswith("unparsable: query too long")
    warned = f"warning: 1 of {len(rows)} count as wrong; row long: query too long"
    assert warned in capsys.readouterr().err


def test_an_untrained_model_is_scored_and_not_refused(tiny_model, lamps, tmp_path):
    found = few_shot_answers(lamps, tiny_model, ROWS, QUERIES, PARAMS)
    values = write_results(lamps, ROWS, found, outputs(tmp_path))
    assert values["n"] == len(ROWS)
    assert len(read_jsonl(outputs(tmp_path).errors)) == len(ROWS)


def test_recorded_answers_are_scored_as_a_variant(lamps, tmp_path):
    path = tmp_path / "answers.jsonl"
    given = [
        {"id": r["id"], "query": r["query"], "answer": {"call": r["call"]}} for r in ROWS[::-1]
    ]
    given[0]["answer"] = {"call": None, "reason": "rejected: invalid"}  # to the last row
    write_jsonl(path, given)
    values = write_results(lamps, ROWS, recorded_answers(path, ROWS), outputs(tmp_path))
    assert values["exact_match"] == round((len(ROWS) - 1) / len(ROWS), 6)
    (error,) = read_jsonl(outputs(tmp_path).errors)
    assert (error["id"], error["reason"]) == (ROWS[-1]["id"], "unparsable: rejected: invalid")


def test_an_answer_to_another_text_is_no_answer(tmp_path):
    path = tmp_path / "answers.jsonl"
    given = [{"id": r["id"], "query": r["query"], "answer": {"call": r["call"]}} for r in ROWS]
    given[2]["query"] = "said otherwise"
    write_jsonl(path, given)
    with pytest.raises(
        UserError, match=rf"no answer of the teacher to 1 of {len(ROWS)} .*\(first: q2"
    ):
        recorded_answers(path, ROWS)


def test_a_variant_that_a_task_does_not_have_leaves_every_file_and_no_row(tmp_path):
    write_absent(outputs(tmp_path))
    assert read_json(outputs(tmp_path).metrics) == {"n": 0}
    for name in ("predictions", "errors"):
        assert read_jsonl(getattr(outputs(tmp_path), name)) == []
    assert read_tsv(outputs(tmp_path).tools) == []
    assert outputs(tmp_path).confusion.read_text() == "gold,predicted\n"


def test_rules_come_from_the_task_folder(tmp_path, monkeypatch, lamps):
    folder = tmp_path / "tasks" / "doorbell"
    folder.mkdir(parents=True)
    for name in ("task.yaml", "tools.json"):
        (folder / name).write_text((lamps.folder / name).read_text())
    (folder / "rules.py").write_text(
        "from supertiny.calls import NO_CALL, ToolCall\n"
        "class Rules:\n"
        "    def __init__(self, *args):\n        self.args = args\n"
        "    def answer(self, query):\n"
        "        return ToolCall('LightOn') if query.startswith('on') else NO_CALL\n"
        "def load(folder, queries_dir):\n    return Rules(folder, queries_dir)\n"
    )
    import tasks

    monkeypatch.setattr(tasks, "__path__", [str(tmp_path / "tasks")])
    task = load_task("doorbell", tmp_path / "tasks")
    values = write_results(task, ROWS, rule_answers(task, tmp_path, ROWS), outputs(tmp_path))
    assert values["exact_match"] == 0.5  # "on", "on now" and the one that is no command
    assert values["no_call_recall"] == 1.0


def test_files_agree_with_each_other(lamps, tmp_path):
    answers = [" light on", " dim\n brightness 30", " dim\n brightness 30", "?", " no_call", "?"]
    out = outputs(tmp_path)
    values = write_results(lamps, ROWS, answers, out)
    assert read_json(out.metrics) == values
    predictions, errors = read_jsonl(out.predictions), read_jsonl(out.errors)
    assert [row["id"] for row in predictions] == [row["id"] for row in ROWS]
    assert set(predictions[0]) == {
        "id", "query", "gold", "predicted", "answer", "exact", "soft", "reason"
    }  # fmt: skip
    assert [row["id"] for row in errors] == ["q3", "q1", "q5"]  # Dim before LightOn
    assert sum(int(line["n"]) for line in read_tsv(out.tools)) == len(ROWS)
    with out.confusion.open(newline="") as file:
        pairs = [(row["gold"], row["predicted"]) for row in csv.DictReader(file)]
    assert pairs == [
        ("Dim", "Dim"), ("Dim", "unparsable"), ("LightOn", "Dim"), ("LightOn", "LightOn"),
        ("LightOn", "unparsable"), ("no_call", "no_call"),
    ]  # fmt: skip


def test_two_runs_give_the_same_bytes(lamps, tmp_path):
    answers = [" light on", "?", " dim\n brightness 30", "?", " no_call", "é"]
    contents = []
    for name in ("a", "b"):
        write_results(lamps, ROWS, answers, outputs(tmp_path / name))
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        contents.append([(path.name, path.read_bytes()) for path in files])
    assert contents[0] == contents[1]
    assert len(contents[0]) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": 3}, "line 2: query: found 3, expected str"),
        ({"slices": None}, "line 2: slices: found None, expected list"),
        ({"id": "q0"}, "line 2: id 'q0' is used twice"),
        ({"call": {"name": "Fly", "arguments": {}}}, "line 2: gold call: unknown tool 'Fly'"),
        ({"call": {"name": "Dim"}}, "line 2: gold call: expected an object"),
        ({"call": {"name": "Dim", "arguments": {"brightness": 101}}}, "line 2: gold call: Dim: 1"),
    ],
)
def test_a_bad_row_is_named_with_its_line(change, message, lamps, tmp_path):
    path = tmp_path / "test.jsonl"
    write_jsonl(path, [ROWS[0], {**ROWS[1], **change}])
    with pytest.raises(UserError, match="dvc repro prepare") as caught:
        read_queries(path, lamps)
    assert message in str(caught.value)


def test_no_rows_is_a_user_error(lamps, tmp_path):
    (tmp_path / "test.jsonl").write_text("")
    with pytest.raises(UserError, match="no rows"):
        read_queries(tmp_path / "test.jsonl", lamps)


def test_good_rows_come_back_as_written(lamps, tmp_path):
    write_jsonl(tmp_path / "test.jsonl", ROWS)
    assert read_queries(tmp_path / "test.jsonl", lamps) == json.loads(json.dumps(ROWS))
