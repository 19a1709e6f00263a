"""The command line: what it prints where, its exit codes, and lines that are wrong."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest

from supertiny import cli
from supertiny.io import write_json

ROOT = Path(__file__).resolve().parent.parent


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(list(arguments))
    printed = capsys.readouterr()
    assert isinstance(stop.value.code, int)
    return stop.value.code, printed.out, printed.err


def test_a_query_prints_its_call_as_one_line(capsys, taught_onnx):
    code, out, _ = run(capsys, "predict", "--model", str(taught_onnx), "dim it to 30")
    assert (code, out) == (0, '{"arguments":{"brightness":30},"name":"Dim"}\n')


def test_a_query_without_an_answer_prints_nothing_and_exits_1(capsys, taught_onnx):
    code, out, err = run(capsys, "predict", "--model", str(taught_onnx), "dim it " * 500)
    assert (code, out) == (1, "")
    assert err.startswith("error: no legal call: query too long")


def test_a_model_that_knows_nothing_still_gives_a_legal_call(capsys, tiny_onnx):
    code, out, _ = run(capsys, "predict", "--model", str(tiny_onnx), "dim it to 30")
    assert code == 0
    assert json.loads(out)["name"] in {"LightOn", "Dim", "no_call"}


def test_bad_lines_are_reported_by_number_and_the_others_answered(capsys, taught_onnx, tmp_path):
    lines = [
        b'{"query": "dim it to 30", "id": "a", "note": "caf\xc3\xa9", "call": "old"}',
        b"{broken",
        b"",
        b'{"id": "b"}',
        b'{"query": 7}',
        b'["query"]',
        b'{"query": "' + b"lamp 7 " * 999 + b'"}',
        b'{"query": "\\ud800"}',
        b'{"query": "on", "x": NaN}',
        b'{"query": "\xff"}',
        b"[" * 100_000,
        b'{"query": "on", "messages": []}',
        b'{"messages": [{"role": "user"}]}',
        b'{"messages": [{"role": "user", "content": "dim it to 30"}]}',
        b'{"query": "on"}',
    ]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(b"\n".join(lines))
    code, out, err = run(
        capsys, "predict", "--model", str(taught_onnx),
        "--input", str(source), "--output", str(target),
    )  # fmt: skip
    rows = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert (code, out) == (1, "")
    call = {"name": "Dim", "arguments": {"brightness": 30}}
    assert rows[0] == {"query": "dim it to 30", "id": "a", "note": "café", "call": call}
    assert rows[-1] == {"query": "on", "call": {"name": "LightOn", "arguments": {}}}
    assert rows[-2]["call"] == call
    assert len(rows) == 14
    assert all("error" in row and "call" not in row for row in rows[1:-2])
    for number in (2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13):
        assert f"line {number}: " in err
    assert "line 3: " not in err
    assert "at most" in rows[5]["error"]
    assert "14 lines: 3 calls, 11 failed" in err
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["in.jsonl", "out.jsonl"]


@pytest.fixture
def unsure(taught_onnx, tmp_path):
    """The taught model, told to be sure of nothing."""
    shutil.copytree(taught_onnx, tmp_path / "unsure")
    write_json(tmp_path / "unsure/confidence.json", {"intercept": 0, "slope": 0, "threshold": 0.6})
    return str(tmp_path / "unsure")


def test_an_uncertain_call_is_printed_with_its_confidence_and_exits_4(capsys, unsure):
    code, out, err = run(capsys, "predict", "--model", unsure, "dim it to 30")
    call = {"arguments": {"brightness": 30}, "name": "Dim"}
    assert (code, err) == (4, "")
    assert json.loads(out) == {**call, "ask_teacher": True, "confidence": 0.5}


def test_uncertain_calls_of_a_file_are_marked_and_counted_and_no_failure(capsys, unsure, tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_text('{"query": "on", "confidence": 7}\n{"query": "", "ask_teacher": 7}\n')
    code, out, err = run(capsys, "predict", "--model", unsure, "--input", str(source))
    call = {"arguments": {}, "name": "LightOn"}
    first, second = (json.loads(line) for line in out.splitlines())
    assert first == {"query": "on", "call": call, "ask_teacher": True, "confidence": 0.5}
    assert second == {"query": "", "error": "query is blank"}
    assert code == 1  # for the blank one
    assert "2 lines: 1 calls, 1 failed, 1 to ask the teacher" in err
    source.write_text('{"query": "on"}\n')
    assert run(capsys, "predict", "--model", unsure, "--input", str(source))[0] == 0


def test_a_stream_prints_the_answer_and_then_the_call(capsys, taught_onnx):
    model = ["--model", str(taught_onnx), "--stream"]
    code, out, _ = run(capsys, "predict", *model, "dim it to 30")
    call = '{"arguments":{"brightness":30},"name":"Dim"}'
    assert (code, out) == (0, f" dim\n brightness 30\n{call}\n")
    code, out, err = run(capsys, "predict", *model, " ")
    assert (code, out) == (1, "")
    assert err.startswith("error: no legal call: query is blank")


def test_dashes_are_standard_input_and_output(capsys, monkeypatch, taught_onnx):
    class Stdin:
        buffer = io.BytesIO(b'{"query": "on"}\n')

    monkeypatch.setattr("sys.stdin", Stdin())
    code, out, _ = run(capsys, "predict", "--model", str(taught_onnx), "--input", "-")
    assert code == 0
    assert json.loads(out)["call"]["name"] == "LightOn"


def test_rows_keep_their_order_over_chunks(capsys, monkeypatch, taught_onnx, tmp_path):
    monkeypatch.setattr(cli, "CHUNK", 3)
    queries = ["dim it to 30", "on", "who won the game last night", "on", "dim it to 30"]
    source = tmp_path / "in.jsonl"
    source.write_text(
        "".join(json.dumps({"query": q, "n": n}) + "\n" for n, q in enumerate(queries))
    )
    code, out, _ = run(capsys, "predict", "--model", str(taught_onnx), "--input", str(source))
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [row["n"] for row in rows] == [0, 1, 2, 3, 4]
    names = ["Dim", "LightOn", "no_call", "LightOn", "Dim"]
    assert [row["call"]["name"] for row in rows] == names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict"], "either a query or --input"),
        (["predict", "on", "--input", "x"], "either a query or --input"),
        (["predict", "on", "--output", "x"], "--output needs --input"),
        (["predict", "--stream", "--input", "x"], "--stream needs a query"),
        (["predict", "on", "--threads", "0"], "found '0', expected a whole number from 1"),
        (["predict", "--input", "missing.jsonl"], "--input missing.jsonl: file not found"),
        (["predict", "on", "--model", "missing"], "missing: not found; make it with `dvc repro`"),
        (["nonsense"], "invalid choice: 'nonsense'"),
        ([], "arguments are required"),
    ],
)
def test_mistakes_in_the_command_exit_2_without_a_stack_trace(
    capsys, monkeypatch, tmp_path, arguments, message
):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_a_model_of_another_task_is_refused(capsys, taught_onnx):
    model = ["--model", str(taught_onnx)]
    code, _, err = run(capsys, "predict", "--task", "home", *model, "on")
    assert code == 2
    assert "'lamps'" in err
    assert "'home'" in err
    assert run(capsys, "predict", "--task", "lamps", *model, "on")[0] == 0


def test_an_output_stands_untouched_when_nothing_could_run(capsys, tmp_path):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"query": "on"}\n')
    target.write_text("old")
    files = ["--input", str(source), "--output", str(target)]
    assert run(capsys, "predict", "--model", str(tmp_path / "none"), *files)[0] == 2
    assert target.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


def test_params_shows_every_key_with_its_value(capsys, monkeypatch):
    import yaml

    monkeypatch.chdir(ROOT)
    code, out, _ = run(capsys, "params")
    assert code == 0
    for name, section in yaml.safe_load((ROOT / "params.yaml").read_text()).items():
        assert f"{name}: " in out
        for key in section if isinstance(section, dict) else ():
            assert f"\n  {key}: " in out


def test_check_names_what_is_wrong(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    assert run(capsys, "check")[0] == 0
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("task: home", "task: moon"))
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, "check")
    assert code == 2
    assert "tasks/moon" in err
    (tmp_path / "params.yaml").write_text(text + "\nmoon:\n  x: 1\n")
    assert "moon: unknown key" in run(capsys, "check")[2]
